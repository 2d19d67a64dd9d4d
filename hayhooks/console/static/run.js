// The tab Run: arguments as a form and as JSON, one beside the other, and the answer: text as it comes, or a file.

import { call, postJson, texts } from "./api.js";
import { element, fill, partsOf } from "./dom.js";
import { formOf } from "./form.js";
import { bytes, cutNote, readObject } from "./formats.js";
import { sender } from "./sending.js";
import { asCurl, asPython, formFields } from "./snippets.js";

const MOST_SHOWN = 200_000; // characters; a browser draws more of them only slowly

export function runTab(name, signal) {
  const parts = partsOf("run");
  const { json, problem, form, shown, more } = parts;
  const sending = sender(parts, run, signal);
  const parsed = () => readObject(json, problem, "The JSON is");
  const writeJson = () => (json.value = JSON.stringify(fields.get(), null, 2));
  let described = "";
  let path = "";
  let fields = null;
  let isForm = false;
  let links = []; // to files that are offered

  // Follow the schema of *operation*; what is typed stays. Without one, the form stays as it is.
  function describe(operation) {
    if (!operation || JSON.stringify(operation) === described) return;
    described = JSON.stringify(operation);
    const { request, summary, description } = operation;
    const isTyped = json.value.trim() !== "";
    isForm = !request["application/json"];
    path = `${encodeURIComponent(name)}/${operation.path.split("/").at(-1)}`;
    fields = formOf(request["application/json"] ?? request["multipart/form-data"] ?? {}, writeJson);
    fill(parts, { about: [summary, description].filter(Boolean).join("\n\n"), fields: fields.root });
    if (isTyped) readJson();
    else writeJson();
  }

  function readJson() {
    const value = parsed();
    if (value) fields?.set(value);
  }

  async function copy(format) {
    const value = parsed();
    if (!value) return;
    const snippet = format(path, value, isForm ? fields.files() : null);
    fill(parts, { snippet, copied: "" });
    await navigator.clipboard?.writeText(snippet).then(() => fill(parts, { copied: "copied" }), () => {});
  }

  function run() {
    const value = parsed();
    if (!value || sending.isBusy()) return;
    links.forEach((link) => URL.revokeObjectURL(link));
    links = [];
    fill(parts, { shown: "", more: "", compared: "" });
    sending.exchange((stopSignal) => post(value, stopSignal), show, parts);
  }

  function post(value, stopSignal) {
    if (!isForm) return postJson(path, value, stopSignal);
    const body = new FormData();
    for (const [field, content] of [...formFields(value), ...fields.files()]) body.append(field, content);
    return call(path, { method: "POST", body, signal: stopSignal });
  }

  // Show *answer* to its end, or until it breaks off; return its text, if it is one.
  async function show(answer) {
    const type = answer.headers.get("content-type") ?? "";
    if (/json/.test(type)) {
      const text = await showText([pretty(await answer.text())], "json");
      const id = answer.headers.get("location")?.split("/").at(-1); // of an execution
      if (id) addLink({ href: `#executions/${encodeURIComponent(name)}/${id}` }, "Follow it");
      return [text];
    }
    if (/^text\//.test(type)) return [await showText(texts(answer), "txt")];
    const filename = /filename="?([^";]+)/.exec(answer.headers.get("content-disposition"))?.[1];
    const blob = await answer.blob();
    offer(blob, filename ?? "answer", `Download ${filename ?? type} (${bytes(blob.size)})`);
    return [];
  }

  async function showText(pieces, extension) {
    let text = "";
    shown.hidden = false;
    try {
      for await (const piece of pieces) {
        shown.append(piece.slice(0, Math.max(0, MOST_SHOWN - text.length)));
        text += piece;
      }
    } finally {
      shown.normalize();
      fill(parts, { more: cutNote(text, MOST_SHOWN) });
      if (text.length > MOST_SHOWN) offer(new Blob([text]), `answer.${extension}`, "Download all");
    }
    return text;
  }

  function offer(blob, filename, label) {
    links.push(URL.createObjectURL(blob));
    addLink({ href: links.at(-1), download: filename }, label);
  }

  function addLink(attributes, label) {
    more.hidden = false;
    more.append(element("a", attributes, label));
  }

  json.oninput = readJson;
  form.onsubmit = run;
  form.onkeydown = ({ key, ctrlKey, metaKey }) => {
    if (key === "Enter" && (ctrlKey || metaKey)) form.requestSubmit();
  };
  parts.curl.onclick = () => copy(asCurl);
  parts.python.onclick = () => copy(asPython);
  return { ...sending, root: parts.root, describe };
}

// The JSON *text* as a person reads it: a text that it is, or has as its only "result", is shown as such.
function pretty(text) {
  try {
    const value = JSON.parse(text);
    const result = value && Object.keys(value).join() === "result" ? value.result : value;
    return typeof result === "string" ? result : JSON.stringify(result, null, 2);
  } catch {
    return text;
  }
}
