// The numbers of the last 15 minutes: of the server, of its workers, and of each pipeline.

import { figure, total } from "./chart.js";
import { element, fill, filled, partsOf } from "./dom.js";
import { bytes, estimated } from "./formats.js";

const POINTS = 180;

export function numbersView() {
  const parts = partsOf("numbers");

  function update({ deployments, numbers }) {
    if (numbers?.points !== POINTS) return; // those of another view
    const { server, workers, step_s: step } = numbers;
    const perSecond = (count) => `${(count / step).toFixed(1)} /s`;
    const pipelineBox = ([name, own]) => {
      const link = element("a", { href: `#/${encodeURIComponent(name)}` }, name);
      const contents = {
        name: deployments.some((each) => each.name === name) ? link : `${name}, removed`,
        totals: `${total(own.requests)} requests, ${total(own.errors)} errors, ${total(own.chunks)} chunks`,
        charts: [
          figure("Requests", own.requests, perSecond),
          figure("Chunks", own.chunks, perSecond),
          figure("In flight", own.in_flight, String),
          figure("p50, estimated", own.p50_ms, estimated),
          figure("p95, estimated", own.p95_ms, estimated),
        ],
      };
      return Object.assign(filled("pipeline", contents), { ariaLabel: name });
    };
    fill(parts, {
      charts: [
        figure("Requests", server.requests, perSecond),
        figure("Errors", server.errors, perSecond),
        figure("In flight", server.in_flight, String),
        figure("Processor, all workers", server.cpu, (share) => `${Math.round(share * 100)} %`),
        figure("Memory, all workers", server.memory_bytes, bytes),
      ],
      workers: workers.map(({ differs, ...facts }) =>
        filled("worker", { ...facts, differs: differs && "serves other revisions than most" }),
      ),
      pipelines: Object.entries(numbers.pipelines).map(pipelineBox),
    });
  }
  return { root: parts.root, update, points: POINTS };
}
