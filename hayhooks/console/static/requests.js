// The last requests to all pipelines or to one: a list that follows what comes, and each request as a waterfall.

import { getJson } from "./api.js";
import { element, fill, filled, partsOf, showRows } from "./dom.js";
import { sourceOf } from "./failure.js";
import { joined, milliseconds } from "./formats.js";
import { follow, once } from "./live.js";

const REREAD_MS = 300; // between two reads
const NOT_KEPT = "No requests are kept: start the server with HAYHOOKS_TRACES=200, or with hayhooks dev.";

// The requests to *name*; without it to all, with a choice.
export function requestsList(name) {
  const parts = partsOf("requests");
  const { pipeline, status, list } = parts;
  const read = once(readOnce, REREAD_MS);
  if (name) for (const part of [parts.title, parts.choice]) part.remove();
  pipeline.onchange = status.onchange = read;

  async function readOnce() {
    const query = new URLSearchParams({ limit: 100, status: status.value });
    if (name || pipeline.value) query.set("pipeline", name || pipeline.value);
    try {
      const { traces } = await getJson(`traces?${query}`);
      fill(parts, { problem: traces.length ? "" : "No such request is kept. Send one, and it appears here." });
      showRows(list, traces, "id", "request-row", fillRow);
    } catch ({ message }) {
      fill(parts, { problem: /HAYHOOKS_TRACES/.test(message) ? NOT_KEPT : `The requests cannot be read: ${message}` });
    }
  }

  function update({ deployments }) {
    const known = [...pipeline.options].map((option) => option.value);
    const added = deployments.filter((each) => !known.includes(each.name));
    pipeline.append(...added.map((each) => element("option", {}, each.name)));
  }
  return { root: parts.root, update, shown: (signal) => follow("request", read, signal) };
}

function fillRow(parts, trace) {
  const { details, inside } = parts;
  fill(parts, {
    ...trace,
    path: `${trace.method} ${trace.path}`,
    pipeline: !trace.path.startsWith(`/${trace.pipeline}/`) && trace.pipeline,
    error: trace.error.split("\n")[0],
  });
  parts.status.className = trace.error || trace.status >= 500 ? "bad" : trace.status >= 400 ? "warn" : "good";
  details.ontoggle = async () => {
    if (!details.open || inside.firstChild) return;
    const read = getJson(`traces/${encodeURIComponent(trace.id)}`).then(waterfall);
    inside.replaceChildren(await read.catch((error) => element("p", { class: "quiet" }, error.message)));
  };
}

// What ran in a request, when, and with which inputs and outputs.
function waterfall(trace) {
  const whole = Math.max(trace.took_ms, ...trace.spans.map((span) => span.start_ms + (span.took_ms ?? 0)), 0.001);
  const children = Map.groupBy(trace.spans.keys(), (index) => trace.spans[index].parent);
  const rowsOf = (index, depth) => {
    const inner = children.get(index) ?? [];
    return [spanRow(trace.spans[index], depth, whole), ...inner.flatMap((child) => rowsOf(child, depth + 1))];
  };
  const { id, trace_id: otherId, revision, chunks, cut, error, place } = trace;
  const ids = [`request ${id}`, otherId && `trace ${otherId}`, `revision ${revision || "–"}`];
  const facts = joined(...ids, `${chunks} chunks`, cut && "more ran than is kept");
  return filled("waterfall", { facts, error, place: place && sourceOf(place), spans: rowsOf(0, 0) });
}

function spanRow(span, depth, whole) {
  const { kind, type, error, start_ms: start, took_ms: took } = span;
  const { root, bar } = fill(partsOf("span"), {
    ...span,
    title: type.split(".").at(-1) || kind,
    took: took === null ? "not ended" : milliseconds(took),
    about: `${kind} ${type}, from ${milliseconds(start)} on`,
    inputs: sockets("Inputs", span.inputs),
    outputs: sockets("Outputs", span.outputs),
  });
  bar.className = error ? "error" : kind;
  bar.style.left = `${(start / whole) * 100}%`;
  bar.style.width = `${Math.max(0.3, ((took ?? whole - start) / whole) * 100)}%`;
  root.style.setProperty("--depth", Math.min(depth, 12));
  return root;
}

function sockets(title, values) {
  const rows = Object.entries(values).map(([name, shape]) => element("dd", {}, element("code", {}, name), ` ${shape}`));
  return rows.length ? [element("dt", {}, title), ...rows] : [];
}
