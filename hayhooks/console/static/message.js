// An answer of a chat: text as Markdown, reasoning, tool calls, and events of the pipeline.

import { call } from "./api.js";
import { element } from "./dom.js";

const MOST_RENDERED = 100_000; // characters; the server renders no more
const MOST_SHOWN = 200_000; // without Markdown; a browser draws more of them only slowly
const RENDER_MS = 200;

export function assistantMessage() {
  const status = element("p", { class: "progress", hidden: true });
  const thought = element("pre");
  const reasoning = element("details", { hidden: true }, element("summary", {}, "Reasoning"), thought);
  const tools = element("div");
  const text = element("div", { class: "said" });
  const cut = element("p", { class: "quiet" });
  const sources = element("ol", { class: "sources", "aria-label": "Sources", hidden: true });
  const notes = element("div", { role: "alert" });
  const root = element("div", {}, status, reasoning, tools, text, cut, sources, notes);
  const calls = []; // by index: {name, arguments, shown}
  let content = "";
  let usage = null;
  let hasFailed = false;
  let rendering = null;
  let unrendered = false;

  function add(item) {
    if (item.error) {
      hasFailed = true;
      notes.append(element("p", { class: "problem" }, item.error.message));
    }
    usage = item.usage ?? usage;
    for (const event of [item.event, ...(item.events ?? [])]) if (event) addEvent(event);
    const delta = item.choices?.[0]?.delta ?? item.choices?.[0]?.message ?? {};
    if (delta.reasoning_content) {
      reasoning.hidden = false;
      thought.append(delta.reasoning_content);
    }
    for (const part of delta.tool_calls ?? []) addCall(part);
    if (delta.content) say(content + delta.content);
  }

  function addCall(part) {
    const index = part.index ?? calls.length;
    const known = (calls[index] ??= { name: "", arguments: "", shown: tools.appendChild(toolBox()) });
    known.name += part.function?.name ?? "";
    known.arguments += part.function?.arguments ?? "";
    known.shown.firstChild.textContent = `Tool call: ${known.name}`;
    known.shown.lastChild.textContent = known.arguments;
  }

  function addEvent({ type, data }) {
    if (type === "status") {
      status.hidden = Boolean(data.hidden);
      status.textContent = data.description;
      status.classList.toggle("done", Boolean(data.done));
    } else if (type === "source") addSource(data);
    else if (type === "message") say(content + data.content);
    else if (type === "replace") say(data.content);
    else if (type === "notification") notes.append(element("p", { class: `note ${data.type === "error" ? "problem" : ""}` }, data.content));
    else {
      const box = tools.appendChild(toolBox());
      box.firstChild.textContent = type === "tool_call_end" ? `Tool: ${data.name}` : `Event: ${type}`;
      box.lastChild.textContent = JSON.stringify(data, null, 2);
    }
  }

  function addSource(data) {
    sources.hidden = false;
    const name = data.source?.name ?? "source";
    const url = safeUrl(data.source?.url);
    const content = (data.document ?? []).join("\n\n");
    sources.append(
      element(
        "li",
        {},
        element("details", {}, element("summary", {}, name), element("p", {}, content), url && element("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, url)),
      ),
    );
  }

  function say(whole) {
    content = whole;
    unrendered = true;
    rendering ??= renderLoop();
  }

  // Render the text that has come, one request at a time.
  async function renderLoop() {
    if (text.childNodes.length === 0) showPlain();
    while (unrendered) {
      unrendered = false;
      const html = await rendered(content);
      if (html === null) showPlain();
      else {
        text.innerHTML = html; // made by our server, with HTML off
        for (const link of text.querySelectorAll("a")) {
          if (safeUrl(link.getAttribute("href"))) Object.assign(link, { target: "_blank", rel: "noopener noreferrer" });
          else link.replaceWith(...link.childNodes);
        }
      }
      await new Promise((resolve) => setTimeout(resolve, RENDER_MS));
    }
    rendering = null;
  }

  function showPlain() {
    text.textContent = content.slice(0, MOST_SHOWN);
    const isCut = content.length > MOST_SHOWN;
    cut.textContent = isCut ? `The first ${MOST_SHOWN.toLocaleString()} of ${content.length.toLocaleString()} characters.` : "";
  }

  function finish() {
    status.classList.add("done");
    return content;
  }

  return { root, add, finish, usage: () => usage, failed: () => hasFailed };
}

function toolBox() {
  return element("details", { class: "tool" }, element("summary"), element("pre"));
}

async function rendered(text) {
  if (text.length > MOST_RENDERED) return null;
  try {
    const answer = await call("console/markdown", {
      method: "POST", body: JSON.stringify({ text }), headers: { "Content-Type": "application/json" },
    });
    return answer.ok ? (await answer.json()).html : null;
  } catch {
    return null;
  }
}

function safeUrl(text) {
  return /^(https?|mailto):/i.test(text ?? "") ? text : null;
}
