// What Run and Chat share: one request at a time, which can be stopped, and is sent again on save; the new answer then
// stands beside the old one, and the words that differ are marked.

import { postJson } from "./api.js";
import { element, fill, filled } from "./dom.js";
import { joined, milliseconds } from "./formats.js";

const MOST_COMPARED = 100_000; // characters; the server compares no more

// *controls* are {send, stop, again, kept}; *sendAgain* is called when a new revision serves and the switch is on.
export function sender({ send, stop, again, kept }, sendAgain, viewSignal) {
  let stopper = null;
  let last = null; // {text, revision} of the last answer that came whole
  let before = null; // the one that the next answer is compared with

  // Get an answer from *post*, a function of a signal; *receive* returns its text, and more facts to tell in *facts*.
  async function exchange(post, receive, { facts, compared }) {
    const own = (stopper = new AbortController());
    const started = performance.now();
    let [answer, revision, problem, text, more] = [null, null, "", null, []];
    const tell = (...told) => {
      const id = answer?.headers.get("x-request-id");
      facts.textContent = joined(...told, revision && `revision ${revision}`, id && `request ${id}`);
    };
    const old = before;
    before = last = null;
    facts.className = "facts";
    tell("sending …");
    send.disabled = true;
    stop.hidden = false;
    try {
      answer = await post(AbortSignal.any([own.signal, viewSignal]));
      revision = answer.headers.get("x-hayhooks-revision");
      tell(answer.status, "receiving");
      [text, ...more] = await receive(answer, started);
    } catch (error) {
      problem = error.name === "AbortError" ? "stopped" : `the connection broke: ${error.message}`;
    }
    own.abort(); // what may be left of an answer that broke off
    facts.classList.add(answer?.ok && !problem ? "good" : "bad");
    tell(problem, answer?.status, milliseconds(performance.now() - started), ...more);
    if (stopper !== own) return; // another request has been sent
    stopper = null;
    send.disabled = false;
    stop.hidden = true;
    if (!problem) last = { text, revision: revision ?? "–" };
    const areTexts = [old, last].every((each) => typeof each?.text === "string");
    if (areTexts) fill({ compared }, { compared: await comparison(old, last).catch(() => "") });
  }

  function served() {
    kept.textContent = "";
    if (!again.checked || !last || stopper) return;
    before = last;
    sendAgain();
  }

  function failed(revision, reason) {
    const told = `The save does not load, so the answer is that of revision ${revision}: ${reason}`;
    if (again.checked) kept.textContent = told;
  }

  stop.onclick = () => stopper?.abort();
  return { exchange, served, failed, abort: stop.onclick, isBusy: () => stopper !== null };
}

// *old* and *now* are {text, revision}.
async function comparison(old, now) {
  if (old.text === now.text) return element("p", {}, `The same answer as that of revision ${old.revision}.`);
  const [before, after] = [old, now].map(({ text }) => text.slice(0, MOST_COMPARED));
  const { runs } = await (await postJson("console/difference", { before, after })).json();
  const marked = (kind, tag) => runs.filter((run) => run.kind === "same" || run.kind === kind).map(
    (run) => element(run.kind === kind ? tag : "span", {}, run.text),
  );
  const titles = { before: `Before: revision ${old.revision}`, after: `Now: revision ${now.revision}` };
  return filled("comparison", { ...titles, old: marked("removed", "del"), now: marked("added", "ins") });
}
