// The tab Chat: turns with a deployment, streamed.

import { call, pathOf, serverSentEvents } from "./api.js";
import { comparison, runAgain } from "./compare.js";
import { element, milliseconds, newId, parsedObject } from "./dom.js";
import { assistantMessage } from "./message.js";

export function chatTab(name) {
  const log = element("ol", { class: "turns", "aria-label": "Conversation" });
  const input = element("textarea", { id: newId("text"), rows: 2, placeholder: "Message" });
  const send = element("button", { class: "primary" }, "Send");
  const stop = element("button", { type: "button", hidden: true }, "Stop");
  const system = element("textarea", { id: newId("system"), rows: 2 });
  const parameters = element("textarea", { id: newId("parameters"), class: "code", rows: 2, placeholder: '{"temperature": 0.2}', spellcheck: "false" });
  const problem = element("p", { class: "problem", role: "alert" });
  const onSave = runAgain(askAgain, () => turns.at(-1)?.revision && !stopper);
  const form = element(
    "form",
    { class: "composer" },
    problem,
    element("label", { for: input.id, class: "hidden" }, "Message"),
    input,
    element("p", { class: "actions" }, send, stop, element("button", { type: "button", class: "small", onclick: () => cutFrom(0) }, "New conversation"), onSave.root),
    element(
      "details",
      {},
      element("summary", {}, "System prompt and parameters"),
      element("label", { for: system.id }, "System prompt"), system,
      element("label", { for: parameters.id }, "Parameters, as JSON"), parameters,
    ),
  );
  const root = element("div", { class: "chat" }, log, form);
  const turns = []; // {message, root}
  let stopper = null;

  function parsedParameters() {
    problem.textContent = "";
    try {
      return parsedObject(parameters.value);
    } catch (error) {
      problem.textContent = `The parameters are not valid: ${error.message}`;
      return null;
    }
  }

  function cutFrom(index) {
    stopper?.abort();
    turns.splice(index).forEach((turn) => turn.root.remove());
  }

  function addTurn(message, ...children) {
    const turn = { message, root: element("li", { class: message.role }, ...children) };
    turns.push(turn);
    log.append(turn.root);
    return turn;
  }

  function addQuestion(text) {
    const edit = element("button", { type: "button", class: "small" }, "Edit");
    const turn = addTurn({ role: "user", content: text }, element("p", { class: "said" }, text), edit);
    edit.addEventListener("click", () => {
      cutFrom(turns.indexOf(turn));
      input.value = text;
      input.focus();
    });
  }

  // Ask the last question once more; the new answer takes the place of the old one, which stands beside it.
  function askAgain() {
    const { message, revision } = turns.at(-1);
    cutFrom(turns.length - 1);
    ask({ text: message.content, revision });
  }

  async function ask(before = null) {
    const extra = parsedParameters();
    if (extra === null) return;
    const head = system.value.trim() ? [{ role: "system", content: system.value }] : [];
    const messages = [...head, ...turns.map((turn) => turn.message)];
    const body = { model: name, messages, stream: true, stream_options: { include_usage: true }, ...extra };
    const shown = assistantMessage();
    const facts = element("p", { class: "facts", role: "status" }, "waiting …");
    const again = element("button", { type: "button", class: "small", hidden: true }, "Send again");
    const turn = addTurn({ role: "assistant", content: "" }, shown.root, facts, again);
    again.addEventListener("click", () => {
      cutFrom(turns.indexOf(turn));
      ask();
    });
    const own = (stopper = new AbortController());
    send.disabled = true;
    stop.hidden = false;
    const started = performance.now();
    let answer = null;
    let first = null;
    let problemOf = "";
    scrollTo(0, document.documentElement.scrollHeight);
    try {
      answer = await call(pathOf(name, "/chat"), {
        method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal: own.signal,
      });
      for await (const item of itemsOf(answer)) {
        first ??= performance.now() - started;
        keepAtEnd(() => shown.add(item));
      }
    } catch (error) {
      problemOf = error.name === "AbortError" ? "stopped" : `the connection broke: ${error.message}`;
    }
    turn.message.content = shown.finish();
    const usage = shown.usage();
    facts.className = shown.failed() || problemOf ? "facts bad" : "facts";
    facts.textContent = [
      problemOf,
      answer?.status,
      first !== null && `first after ${milliseconds(first)}`,
      milliseconds(performance.now() - started),
      usage?.total_tokens > 0 && `${usage.prompt_tokens} + ${usage.completion_tokens} tokens`,
      answer && `revision ${answer.headers.get("x-hayhooks-revision")}`,
      answer && `request ${answer.headers.get("x-request-id")}`,
    ].filter(Boolean).join(" · ");
    if (answer?.ok && !problemOf) turn.revision = answer.headers.get("x-hayhooks-revision");
    keepAtEnd(() => {
      again.hidden = false;
      if (before && turn.revision) turn.root.append(comparison(before, { text: turn.message.content, revision: turn.revision }));
    });
    if (stopper !== own) return;
    stopper = null;
    send.disabled = false;
    stop.hidden = true;
  }

  function submit() {
    const text = input.value.trim();
    if (text === "" || stopper || parsedParameters() === null) return;
    input.value = "";
    addQuestion(text);
    ask();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  stop.addEventListener("click", () => stopper?.abort());
  return { root, served: onSave.served, failed: onSave.failed, close: () => stopper?.abort() };
}

// Call *change*; who reads the end of the page goes on reading its end.
function keepAtEnd(change) {
  const isAtEnd = innerHeight + scrollY > document.documentElement.scrollHeight - 120;
  change();
  if (isAtEnd) scrollTo(0, document.documentElement.scrollHeight);
}

// The chunks of a stream; of a whole answer, such as an error, one.
async function* itemsOf(answer) {
  if (!/event-stream/.test(answer.headers.get("content-type") ?? "")) {
    yield await answer.json();
    return;
  }
  for await (const event of serverSentEvents(answer)) {
    if (event.data !== "[DONE]") yield JSON.parse(event.data);
  }
}
