// The pipeline as a drawing; what failed or took longest in its last request is marked.

import { call, getJson, pathOf } from "./api.js";
import { element, milliseconds } from "./dom.js";

export function drawingTab(name) {
  const note = element("p", { class: "facts", role: "status" });
  const image = element("div", { class: "drawing", tabindex: "0", role: "group", "aria-label": `Drawing of ${name}` });
  const root = element("div", {}, note, image);

  async function shown() {
    const answer = await call(`draw/${pathOf(name)}?format=svg`).catch(() => null);
    const text = (await answer?.text()) ?? "";
    const drawn = answer?.ok ? new DOMParser().parseFromString(text, "image/svg+xml").documentElement : null;
    if (drawn?.localName !== "svg") {
      note.textContent = answer ? detailOf(text) : "The server is away.";
      image.replaceChildren();
      return;
    }
    image.replaceChildren(drawn);
    note.textContent = "";
    await mark();
  }

  async function mark() {
    const { traces } = await getJson(`traces?limit=1&pipeline=${encodeURIComponent(name)}`).catch(() => ({ traces: [] }));
    const trace = traces.length ? await getJson(`traces/${pathOf(traces[0].id)}`).catch(() => null) : null;
    const parts = [...image.querySelectorAll("[data-component], [data-tool]")];
    const boxes = (span) => parts.filter(({ dataset }) => (dataset.component ?? dataset.tool) === span.name);
    const ran = (trace?.spans ?? []).filter((span) => span.kind !== "request" && boxes(span).length);
    const failed = ran.filter((span) => span.error);
    const slowest = ran.toSorted((a, b) => (b.took_ms ?? Infinity) - (a.took_ms ?? Infinity))[0];
    if (!slowest) return;
    boxes(slowest).forEach((box) => box.classList.add("slowest"));
    failed.flatMap(boxes).forEach((box) => box.classList.add("failing"));
    note.textContent = `In the last request ${slowest.name} took longest, ${milliseconds(slowest.took_ms)}` +
      (failed.length ? `; ${failed.at(-1).name} failed: ${failed.at(-1).error}` : "");
  }

  return { root, shown };
}

function detailOf(text) {
  try {
    return JSON.parse(text).detail;
  } catch {
    return "There is no drawing.";
  }
}
