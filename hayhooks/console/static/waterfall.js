// One request as a waterfall: what ran in it, when, and with which inputs and outputs.

import { element, milliseconds, svg } from "./dom.js";
import { sourceOf } from "./source.js";

export function waterfall(trace) {
  const whole = Math.max(trace.took_ms, ...trace.spans.map((span) => span.start_ms + (span.took_ms ?? 0)), 0.001);
  const children = Map.groupBy(trace.spans.keys(), (index) => trace.spans[index].parent);
  const rows = [];
  const add = (index, depth) => {
    rows.push(row(trace.spans[index], depth, whole));
    for (const child of children.get(index) ?? []) add(child, depth + 1);
  };
  add(0, 0);
  return element(
    "section",
    { class: "waterfall", "aria-label": "Waterfall" },
    element("p", { class: "facts" }, [
      `request ${trace.id}`, trace.trace_id && `trace ${trace.trace_id}`, `revision ${trace.revision || "–"}`, `${trace.chunks} chunks`,
      trace.cut && "more ran than is kept",
    ].filter(Boolean).join(" · ")),
    trace.error && element("p", { class: "reason" }, trace.error),
    trace.place && sourceOf(trace.place),
    element("ol", { class: "spans" }, rows),
  );
}

function row(span, depth, whole) {
  const took = span.took_ms ?? whole - span.start_ms;
  const bar = svg("svg", { class: "bar", role: "presentation", "aria-hidden": "true" });
  const percent = (value) => `${Math.max(0.3, (value / whole) * 100)}%`;
  bar.append(svg("rect", { class: span.error ? "error" : span.kind, x: `${(span.start_ms / whole) * 100}%`, width: percent(took), height: "100%" }));
  const head = element(
    "summary",
    {},
    element("span", { class: "span" }, element("b", {}, span.name), ` ${span.type.split(".").at(-1) || span.kind}`),
    bar,
    element("span", { class: "took" }, span.took_ms === null ? "not ended" : milliseconds(span.took_ms)),
  );
  head.firstChild.style.setProperty("--depth", Math.min(depth, 12));
  return element(
    "li",
    {},
    element(
      "details",
      {},
      head,
      element("p", { class: "quiet" }, `${span.kind} ${span.type}, from ${milliseconds(span.start_ms)} on`),
      span.error && element("p", { class: "reason" }, span.error),
      sockets("Inputs", span.inputs),
      sockets("Outputs", span.outputs),
    ),
  );
}

function sockets(title, values) {
  const names = Object.keys(values);
  if (!names.length) return null;
  return element("dl", { class: "sockets" }, element("dt", {}, title), names.map((name) => element("dd", {}, element("code", {}, name), ` ${values[name]}`)));
}
