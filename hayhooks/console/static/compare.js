// Run again on save: the switch, and the new answer beside the old one.

import { difference } from "./difference.js";
import { element, newId } from "./dom.js";

const MOST_COMPARED = 100_000; // characters

// Call *again* when a new revision serves and the switch is on; *hasAnswer* tells whether there is one to compare with.
export function runAgain(again, hasAnswer) {
  const id = newId("again");
  const input = element("input", { id, type: "checkbox" });
  const told = element("p", { class: "problem", role: "status" });
  const root = element("div", { class: "again" }, input, element("label", { for: id }, "Run again on save"), told);
  return {
    root,
    served() {
      told.textContent = "";
      if (input.checked && hasAnswer()) again();
    },
    failed(revision, reason) {
      if (input.checked) told.textContent = `The save does not load, so the answer is that of revision ${revision}: ${reason}`;
    },
  };
}

// *before* and *after* are {text, revision}.
export function comparison(before, after) {
  if (before.text === after.text) return element("p", { class: "quiet" }, `The same answer as that of revision ${before.revision}.`);
  const [old, now] = difference(before.text.slice(0, MOST_COMPARED), after.text.slice(0, MOST_COMPARED));
  const side = (title, text) => element("figure", {}, element("figcaption", {}, title), text);
  return element(
    "div",
    { class: "comparison", role: "group", "aria-label": "Difference to the answer before the save" },
    side(`Before: revision ${before.revision}`, old),
    side(`Now: revision ${after.revision}`, now),
  );
}
