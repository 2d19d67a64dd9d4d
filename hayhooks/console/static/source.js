// A place in the user's code, with the lines around it.

import { element } from "./dom.js";

export function sourceOf({ file, line, source }) {
  const lines = (source ?? []).map(([number, code]) =>
    element("span", number === line ? { class: "here" } : {}, `${String(number).padStart(5)}  ${code}\n`),
  );
  return element(
    "div",
    {},
    element("p", { class: "place" }, `${file}:${line}`),
    lines.length > 0 && element("pre", { class: "source", tabindex: "0", "aria-label": "Source" }, lines),
  );
}
