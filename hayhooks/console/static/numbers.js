// The numbers of the last 15 minutes: of the server, of its workers, and of each pipeline.

import { getJson } from "./api.js";
import { latest, lines, total } from "./chart.js";
import { bytes, element, estimated } from "./dom.js";

const READ_MS = 5000;

export function numbersView() {
  const charts = element("div", { class: "charts" });
  const workers = element("div");
  const pipelines = element("div");
  const root = element("section", { "aria-labelledby": "title" }, element("h1", { id: "title" }, "The last 15 minutes"), charts, workers, pipelines);
  let served = new Set(); // names
  let timer = null;

  async function read() {
    timer = setTimeout(read, READ_MS);
    const numbers = document.hidden ? null : await getJson("console/numbers").catch(() => null);
    if (!numbers) return;
    const { server, step_s: step } = numbers;
    const perSecond = (series) => series.map((count) => (count === null ? null : count / step));
    const rate = (value) => `${value.toFixed(1)} /s`;
    charts.replaceChildren(
      figure("Requests", perSecond(server.requests), rate),
      figure("Errors", perSecond(server.errors), rate),
      figure("In flight", server.in_flight, String),
      figure("Processor, all workers", server.cpu, (share) => `${Math.round(share * 100)} %`),
      figure("Memory, all workers", server.memory_bytes, bytes),
    );
    workers.replaceChildren(...(numbers.workers.length > 1 ? [workersTable(numbers.workers)] : []));
    pipelines.replaceChildren(...Object.entries(numbers.pipelines).map(([name, own]) => pipelineBox(name, served.has(name), own, perSecond, rate)));
  }

  read();
  const update = ({ deployments }) => (served = new Set(deployments.map((each) => each.name)));
  return { name: "numbers", root, update, close: () => clearTimeout(timer) };
}

function figure(title, series, format) {
  const last = latest(series);
  return element("figure", {}, element("figcaption", {}, title, element("b", {}, last === null ? "–" : format(last))), lines(title, series, format));
}

function pipelineBox(name, isServed, own, perSecond, rate) {
  return element(
    "section",
    { "aria-label": name },
    element("h2", {}, isServed ? element("a", { href: `#/${encodeURIComponent(name)}` }, name) : `${name}, removed`),
    element("p", { class: "facts" }, `${total(own.requests)} requests, ${total(own.errors)} errors, ${total(own.chunks)} chunks`),
    element(
      "div",
      { class: "charts" },
      figure("Requests", perSecond(own.requests), rate),
      figure("Chunks", perSecond(own.chunks), rate),
      figure("In flight", own.in_flight, String),
      figure("p50, estimated", own.p50_ms, estimated),
      figure("p95, estimated", own.p95_ms, estimated),
    ),
  );
}

function workersTable(workers) {
  const head = ["Process", "Revisions", "Requests", "Errors", "Memory", ""];
  const cells = (each) => [each.pid, each.revision, each.requests, each.errors, bytes(each.memory_bytes), each.differs ? "serves other revisions than most" : ""];
  return element(
    "table",
    {},
    element("caption", {}, "Workers"),
    element("thead", {}, element("tr", {}, head.map((text) => element("th", { scope: "col" }, text)))),
    element("tbody", {}, workers.map((each) => element("tr", each.differs ? { class: "stale" } : {}, cells(each).map((text) => element("td", {}, String(text ?? "–")))))),
  );
}
