// The pipeline as a drawing; what failed or took longest in its last request is marked.

import { get, getJson } from "./api.js";
import { fill, partsOf } from "./dom.js";
import { milliseconds } from "./formats.js";

export function drawingTab(name) {
  const parts = partsOf("drawing");
  parts.image.setAttribute("aria-label", `Drawing of ${name}`);

  async function shown() {
    try {
      const text = await (await get(`draw/${encodeURIComponent(name)}?format=svg`)).text();
      const drawn = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
      fill(parts, { image: drawn, note: await marked(drawn) });
    } catch (error) {
      fill(parts, { image: "", note: error.message });
    }
  }

  // Mark what the last request ran in *drawn*; return what is to be said of it.
  async function marked(drawn) {
    const last = await getJson(`traces?limit=1&pipeline=${encodeURIComponent(name)}`).catch(() => null);
    const id = last?.traces[0]?.id;
    const trace = id && (await getJson(`traces/${encodeURIComponent(id)}`).catch(() => null));
    const parts = [...drawn.querySelectorAll("[data-component], [data-tool]")];
    const boxes = (span) => parts.filter(({ dataset }) => (dataset.component ?? dataset.tool) === span.name);
    const ran = (trace?.spans ?? []).filter((span) => span.kind !== "request" && boxes(span).length);
    const failed = ran.filter((span) => span.error);
    const slowest = ran.toSorted((a, b) => (b.took_ms ?? Infinity) - (a.took_ms ?? Infinity))[0];
    if (!slowest) return "";
    boxes(slowest).forEach((box) => box.classList.add("slowest"));
    failed.flatMap(boxes).forEach((box) => box.classList.add("failing"));
    const told = `In the last request ${slowest.name} took longest, ${milliseconds(slowest.took_ms)}`;
    return failed.length ? `${told}; ${failed.at(-1).name} failed: ${failed.at(-1).error}` : told;
  }
  return { root: parts.root, shown };
}
