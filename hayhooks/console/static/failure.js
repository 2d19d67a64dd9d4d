// What went wrong: why a revision does not serve, and the place in the user's code.

import { element, fill, filled, partsOf } from "./dom.js";

const toldIn = new WeakMap(); // what is shown in a box

// Show in *box* why the newest revision of *deployment* does not serve; return whether that is another than before.
export function showFailure(box, deployment) {
  const { failure, revision } = deployment ?? {};
  const told = JSON.stringify([failure, revision]);
  if (toldIn.get(box) === told) return false; // what is selected and unfolded stays so
  toldIn.set(box, told);
  box.replaceChildren();
  if (!failure) return true;
  const place = failure.place && sourceOf(failure.place);
  const serves = revision ? `Revision ${revision} keeps serving.` : "Nothing serves.";
  fill(partsOf("failure", box), { ...failure, place, serves });
  return true;
}

// A place in the user's code, with the lines around it.
export function sourceOf({ file, line, source }) {
  const lines = (source ?? []).map(([number, code]) =>
    element("span", { class: number === line && "here" }, `${String(number).padStart(5)}  ${code}\n`),
  );
  return filled("place", { line: `${file}:${line}`, source: lines });
}
