// The answer of a run: text as it comes, JSON pretty-printed, other content as a file.

import { texts } from "./api.js";
import { comparison } from "./compare.js";
import { bytes, element, milliseconds } from "./dom.js";

const MOST_SHOWN = 200_000; // characters; a browser draws more of them only slowly

export function answerBox() {
  const facts = element("p", { class: "facts", role: "status" });
  const shown = element("pre", { class: "result", tabindex: "0", "aria-label": "Answer", hidden: true });
  const more = element("p", { class: "more" });
  const compared = element("div");
  const root = element("section", { class: "answer", "aria-label": "Answer" }, facts, shown, more, compared);
  let links = [];
  let last = null; // {text, revision} of the last answer that ended
  let before = null; // the one that is to be compared with it

  // Empty the box; with *compare* the next answer is shown beside the last one.
  function clear(compare) {
    before = compare ? last : null;
    compared.replaceChildren();
    links.forEach((link) => URL.revokeObjectURL(link));
    links = [];
    facts.className = "facts";
    facts.textContent = "sending …";
    shown.textContent = "";
    shown.hidden = true;
    more.replaceChildren();
  }

  function offer(blob, filename, label) {
    const href = URL.createObjectURL(blob);
    links.push(href);
    more.append(element("a", { href, download: filename }, label));
  }

  function tell(answer, started, note = "") {
    const revision = answer.headers.get("x-hayhooks-revision");
    facts.className = answer.ok && note !== "stopped" ? "facts good" : "facts bad";
    facts.textContent = [
      answer.status, milliseconds(performance.now() - started), revision && `revision ${revision}`,
      `request ${answer.headers.get("x-request-id")}`, note,
    ].filter(Boolean).join(" · ");
  }

  // Show *answer* to its end, or to an error.
  async function show(answer, started) {
    const type = answer.headers.get("content-type") ?? "";
    last = null;
    tell(answer, started, "receiving");
    const revision = answer.headers.get("x-hayhooks-revision");
    if (/json/.test(type)) {
      last = { text: pretty(await answer.text()), revision };
      showText(last.text, "json");
    } else if (/^text\//.test(type)) last = { text: await showPieces(answer), revision };
    else {
      const named = /filename="?([^";]+)/.exec(answer.headers.get("content-disposition") ?? "");
      const blob = await answer.blob();
      offer(blob, named?.[1] ?? "answer", `Download ${named?.[1] ?? type} (${bytes(blob.size)})`);
    }
    tell(answer, started);
    if (before && last) compared.replaceChildren(comparison(before, last));
  }

  function showText(text, extension) {
    shown.hidden = false;
    shown.textContent = text.slice(0, MOST_SHOWN);
    finish(text, extension);
  }

  function finish(text, extension) {
    if (text.length <= MOST_SHOWN) return;
    more.append(`The first ${MOST_SHOWN.toLocaleString()} of ${text.length.toLocaleString()} characters. `);
    offer(new Blob([text]), `answer.${extension}`, "Download all");
  }

  async function showPieces(answer) {
    const pieces = [];
    let waiting = "";
    let length = 0;
    let frame = 0;
    const draw = () => {
      frame = 0;
      shown.append(waiting);
      waiting = "";
    };
    shown.hidden = false;
    try {
      for await (const piece of texts(answer)) {
        pieces.push(piece);
        waiting += piece.slice(0, Math.max(0, MOST_SHOWN - length));
        length += piece.length;
        frame ||= requestAnimationFrame(draw);
      }
    } finally {
      cancelAnimationFrame(frame);
      draw();
      finish(pieces.join(""), "txt");
    }
    return pieces.join("");
  }

  function fail(error, answer, started) {
    const reason = error.name === "AbortError" ? "stopped" : `the connection broke: ${error.message}`;
    if (answer) tell(answer, started, reason);
    else facts.textContent = reason;
    facts.className = "facts bad";
  }

  return { root, clear, show, fail, hasAnswer: () => last !== null };
}

function pretty(text) {
  try {
    const value = JSON.parse(text);
    const result = value !== null && typeof value === "object" && Object.keys(value).join() === "result" ? value.result : value;
    return typeof result === "string" ? result : JSON.stringify(result, null, 2);
  } catch {
    return text;
  }
}
