// The tab Run: arguments as a form and as JSON, one beside the other, and the answer.

import { answerBox } from "./answer.js";
import { call } from "./api.js";
import { runAgain } from "./compare.js";
import { element, newId, parsedObject } from "./dom.js";
import { formOf } from "./form.js";
import { asCurl, asPython, formFields } from "./snippets.js";

const FORM = "multipart/form-data";

export function runTab(name) {
  const formBox = element("div");
  const id = newId("json");
  const json = element("textarea", { id, class: "code", rows: 8, spellcheck: "false" });
  const problem = element("p", { class: "problem", role: "alert" });
  const send = element("button", { class: "primary" }, "Run");
  const stop = element("button", { type: "button", hidden: true }, "Stop");
  const copied = element("span", { class: "quiet", role: "status" });
  const answer = answerBox();
  const again = runAgain(() => run(true), answer.hasAnswer);
  const whole = element(
    "form",
    { class: "run" },
    element("div", { class: "columns" }, formBox, element("div", { class: "field" }, element("label", { for: id }, "As JSON"), json)),
    problem,
    element(
      "p",
      { class: "actions" },
      send, stop,
      element("button", { type: "button", class: "small", onclick: () => copy(asCurl) }, "Copy as curl"),
      element("button", { type: "button", class: "small", onclick: () => copy(asPython) }, "Copy as Python"),
      copied, again.root,
    ),
  );
  const snippet = element("pre", { class: "source", tabindex: "0", "aria-label": "Request", hidden: true });
  const root = element("div", {}, element("p", { class: "about" }), whole, snippet, answer.root);
  let described = "";
  let path = `${encodeURIComponent(name)}/run`;
  let form = null;
  let isForm = false;
  let stopper = null;

  // Follow the schema of *operation*; what is typed stays. Without one, the form stays as it is.
  function describe(operation) {
    if (!operation || JSON.stringify(operation) === described) return;
    described = JSON.stringify(operation);
    root.firstElementChild.textContent = [operation.summary, operation.description].filter(Boolean).join("\n\n");
    isForm = !operation.request["application/json"];
    const schema = operation.request["application/json"] ?? operation.request[FORM] ?? { properties: {} };
    const value = parsed();
    form = formOf(schema, () => (json.value = JSON.stringify(form.get(), null, 2)));
    if (value !== undefined && json.value.trim() !== "") form.set(value);
    else json.value = JSON.stringify(form.get(), null, 2);
    formBox.replaceChildren(form.root);
  }

  function parsed() {
    problem.textContent = "";
    try {
      return parsedObject(json.value);
    } catch (error) {
      problem.textContent = `The JSON is not valid: ${error.message}`;
      return undefined;
    }
  }

  json.addEventListener("input", () => {
    const value = parsed();
    if (value !== undefined) form?.set(value);
  });

  async function copy(format) {
    const value = parsed();
    if (value === undefined) return;
    const text = format(path, value, isForm ? form.files() : null);
    snippet.hidden = false;
    snippet.textContent = text;
    await navigator.clipboard?.writeText(text).then(() => (copied.textContent = "copied"), () => {});
  }

  function requestOf(value) {
    if (!isForm) return { body: JSON.stringify(value), headers: { "Content-Type": "application/json" } };
    const body = new FormData();
    for (const [field, text] of formFields(value)) body.append(field, text);
    for (const [field, file] of form.files()) body.append(field, file);
    return { body };
  }

  async function run(isAgain) {
    const value = parsed();
    if (value === undefined || stopper) return;
    stopper = new AbortController();
    send.disabled = true;
    stop.hidden = false;
    answer.clear(isAgain);
    const started = performance.now();
    let response = null;
    try {
      response = await call(path, { method: "POST", ...requestOf(value), signal: stopper.signal });
      await answer.show(response, started);
    } catch (error) {
      answer.fail(error, response, started);
    } finally {
      stopper = null;
      send.disabled = false;
      stop.hidden = true;
    }
  }

  whole.addEventListener("submit", (event) => {
    event.preventDefault();
    run(false);
  });
  whole.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) whole.requestSubmit();
  });
  stop.addEventListener("click", () => stopper?.abort());
  return { root, describe, served: again.served, failed: again.failed, close: () => stopper?.abort() };
}
