// An answer of a chat: text as Markdown, reasoning, tool calls, and events of the pipeline.

import { postJson } from "./api.js";
import { element, fill, partsOf } from "./dom.js";
import { cutNote } from "./formats.js";
import { once } from "./live.js";

const MOST_RENDERED = 100_000; // characters; the server renders no more
const MOST_SHOWN = 200_000; // without Markdown; a browser draws more of them only slowly
const RENDER_MS = 200;

// Add an answer that is to come to *log*.
export function assistantMessage(log) {
  const parts = partsOf("message", log);
  const calls = []; // by index: {name, arguments, box}
  const message = { parts, root: parts.root, add, role: "assistant", content: "", usage: null, hasFailed: false };
  const tool = () => partsOf("tool", parts.tools);

  // Add what one chunk of a stream has, or a whole answer.
  function add({ error, usage, event, events = [], choices }) {
    if (error) {
      message.hasFailed = true;
      parts.notes.append(element("p", { class: "problem" }, error.message));
    }
    message.usage = usage ?? message.usage;
    for (const each of [event, ...events].filter(Boolean)) addEvent(each);
    const delta = choices?.[0]?.delta ?? choices?.[0]?.message ?? {};
    if (delta.reasoning_content) parts.thought.append(delta.reasoning_content);
    for (const { index = calls.length, function: called } of delta.tool_calls ?? []) {
      const known = (calls[index] ??= { name: "", arguments: "", box: tool() });
      known.name += called?.name ?? "";
      known.arguments += called?.arguments ?? "";
      fill(known.box, { title: `Tool call: ${known.name}`, text: known.arguments });
    }
    if (delta.content) say(message.content + delta.content);
  }

  function addEvent({ type, data }) {
    if (type === "status") {
      fill(parts, { progress: data.hidden ? "" : data.description });
      parts.progress.classList.toggle("done", Boolean(data.done));
    } else if (type === "source") addSource(data);
    else if (type === "message") say(message.content + data.content);
    else if (type === "replace") say(data.content);
    else if (type === "notification") {
      parts.notes.append(element("p", { class: data.type === "error" && "problem" }, data.content));
    } else {
      const title = type === "tool_call_end" ? `Tool: ${data.name}` : `Event: ${type}`;
      fill(tool(), { title, text: JSON.stringify(data, null, 2) });
    }
  }

  function addSource({ source, document: pieces = [] }) {
    const url = /^(https?|mailto):/i.test(source?.url ?? "") && source.url;
    const content = { name: source?.name ?? "source", document: pieces.join("\n\n"), link: url };
    const { link } = fill(partsOf("source", parts.sources), content);
    if (url) link.href = url;
  }

  function say(whole) {
    message.content = whole;
    render();
  }

  // Render the text that has come, one request at a time.
  const render = once(async () => {
    const text = message.content;
    const answer = text.length <= MOST_RENDERED && (await postJson("console/markdown", { text }).catch(() => null));
    parts.said.classList.toggle("plain", !answer?.ok);
    if (answer?.ok) parts.said.innerHTML = (await answer.json()).html; // made by our server, with HTML off
    else parts.said.textContent = text.slice(0, MOST_SHOWN);
    fill(parts, { cut: answer?.ok ? "" : cutNote(text, MOST_SHOWN) });
  }, RENDER_MS);
  return message;
}
