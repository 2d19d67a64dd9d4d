// One execution, live: its state, what has happened when, what it asks, and what a person can do with it.

import { accepted, call, getJson, postJson, serverSentEvents } from "./api.js";
import { element, fill, partsOf, showRows } from "./dom.js";
import { formOf } from "./form.js";
import { clock, cutNote, joined, milliseconds, seconds } from "./formats.js";
import { once, wait } from "./live.js";

const REREAD_MS = 200; // between two reads
const RETRY_MS = 2000; // until the stream is opened again
const MOST_SHOWN = 200_000; // characters
const ANSWER = "Answer, as JSON"; // the field of an answer that is no object

export function executionView(name, signal, id) {
  const parts = fill(partsOf("execution"), { name });
  const { form, cancel, retry, remove, chunks } = parts;
  const path = `${encodeURIComponent(name)}/executions/${encodeURIComponent(id)}`;
  const read = once(readOnce, REREAD_MS);
  let [isFollowed, isOver] = [false, false];
  let [cursor, attempt, room] = ["", 0, 0]; // of chunks: id of the last, whose they are, characters that may follow
  let asked = ""; // the question whose form is shown
  let answer; // returns what is typed there

  // Read the execution at each event of its stream until it has ended.
  async function follow() {
    if (isFollowed) return;
    isFollowed = true;
    while (!signal.aborted && !isOver) {
      try {
        const stream = await call(`${path}/stream?events=all&after=${cursor}`, { signal });
        for await (const event of serverSentEvents(stream)) event.type === "chunk" ? addChunk(event) : read();
      } catch {
        // The server stops, or restarts: it is tried again.
      }
      await read();
      if (!isOver) await wait(RETRY_MS);
    }
    isFollowed = false;
  }

  async function readOnce() {
    try {
      show(await getJson(path, signal));
      fill(parts, { problem: "" });
    } catch ({ message }) {
      fill(parts, { problem: `It cannot be read: ${message}` });
    }
  }

  function show(execution) {
    const { status, kind, revision, waiting, result, error, steps, attempt: number } = execution;
    const { updated_at: changed, delay_until: delay, waiting_for: missing } = execution;
    isOver = ["completed", "failed", "canceled"].includes(status);
    const text = typeof result === "string" ? result : JSON.stringify(result, null, 2);
    const isDelayed = status === "queued" && seconds(delay) > Date.now() / 1000;
    fill(parts, {
      status,
      facts: joined(`since ${clock(seconds(changed))}`, kind, revision, number && `attempt ${number}`, id),
      why: joined(missing && `waits for the ${missing}`, isDelayed && `begins at ${new Date(delay).toLocaleString()}`),
      error: error && joined(`${error.type}: ${error.message}`, error.code),
      result: status === "completed" && text.slice(0, MOST_SHOWN),
      cut: cutNote(text, MOST_SHOWN),
      steps: steps.map((step) => element("li", {}, step)),
    });
    parts.status.className = `state ${status}`;
    parts.name.href = `#/${encodeURIComponent(name)}`;
    cancel.hidden = isOver || execution.cancellation_requested_at;
    retry.hidden = !isOver || status === "completed";
    remove.hidden = !isOver;
    showRows(parts.timeline, momentsOf(execution), "key", "moment", fill);
    ask(waiting, number);
  }

  function addChunk({ id: position, data }) {
    const { attempt: number, payload } = JSON.parse(data);
    if (number !== attempt) [chunks.textContent, room] = ["", MOST_SHOWN];
    const told = [payload, payload?.content, payload?.delta].find((each) => typeof each === "string");
    const text = (told ?? `${JSON.stringify(payload)}\n`).slice(0, room);
    chunks.append(text);
    [cursor, attempt, room, chunks.hidden] = [position, number, room - text.length, false];
  }

  // Show what is waited for, with a form from the schema of the answers; what is typed stays.
  async function ask(waiting, number) {
    const question = waiting && JSON.stringify([waiting, number]);
    if (question === asked) return;
    asked = question;
    form.hidden = true; // until it has its fields
    if (!waiting) return;
    const { operations } = await getJson(`${encodeURIComponent(name)}/schema`, signal).catch(() => ({}));
    const schema = operations?.find((each) => each.path.endsWith("/resume"))?.request["application/json"] ?? {};
    if (question !== asked) return;
    fill(parts, { message: waiting.message ?? waiting.kind });
    try {
      makeForm(Object.keys(schema).length ? schema : waiting.expected_input_schema ?? {});
    } catch {
      makeForm({}); // what the wrapper says is no schema
    }
  }

  function makeForm(schema) {
    const whole = schema.properties ? schema : { properties: { [ANSWER]: schema }, $defs: schema.$defs };
    const fields = formOf(whole, () => answer());
    answer = () => (whole === schema ? fields.get() : fields.get()[ANSWER]);
    fill(parts, { fields: fields.root });
    form.hidden = false;
  }

  // Do what a button says, and then *next*: follow what becomes of it.
  async function act(sent, next = go) {
    fill(parts, { refusal: "" });
    await sent.then(accepted).then(next, ({ message }) => fill(parts, { refusal: message }));
  }

  function go() {
    isOver = false;
    read();
    follow();
  }

  form.onsubmit = () => act(postJson(`${path}/resume`, answer()));
  cancel.onclick = () => act(postJson(`${path}/cancel`));
  retry.onclick = () => act(postJson(`${path}/retry`));
  remove.onclick = () => act(call(path, { method: "DELETE" }), () => (location.hash = "#executions"));
  // Where there can be none nothing is asked: it would open their database.
  return { root: parts.root, update: ({ executions }) => executions && !isOver && follow() };
}

// What has happened, the last first.
function momentsOf({ status, created_at: ordered, cancellation_requested_at: canceled, attempts, progress }) {
  const moments = [{ key: "ordered", at: ordered }, { key: "its end is wanted", at: canceled }];
  for (const { attempt, revision, started_at: from, ended_at: to, outcome } of attempts) {
    const isLost = !to && (attempt < attempts.length || status !== "running");
    const about = joined(`revision ${revision}`, isLost && "its process has ended");
    moments.push({ key: `attempt ${attempt} begins`, at: from, about });
    const took = milliseconds((seconds(to) - seconds(from)) * 1000);
    moments.push({ key: `attempt ${attempt}: ${outcome}`, at: to, about: `after ${took}` });
  }
  for (const { sequence: key, timestamp: at, message, metadata } of progress) {
    const about = Object.keys(metadata).length > 0 && JSON.stringify(metadata);
    moments.push({ key, at, what: message, about });
  }
  const sorted = moments.filter(({ at }) => at).toSorted((a, b) => seconds(b.at) - seconds(a.at));
  return sorted.map(({ at, ...each }) => ({ what: element("b", {}, each.key), ...each, at: seconds(at) }));
}
