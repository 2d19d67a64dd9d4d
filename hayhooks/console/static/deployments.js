// The list of deployments: what is failed or stale stands first.

import { bars, latest, rate, total } from "./chart.js";
import { fill, partsOf, showRows } from "./dom.js";
import { showFailure } from "./failure.js";
import { joined } from "./formats.js";

const ORDER = ["failed", "stale", "loading", "serving"];

export function deploymentsView() {
  const parts = partsOf("deployments");

  function update({ deployments, numbers, problem }) {
    fill(parts, { problem });
    const place = ({ state }) => ORDER.indexOf(state);
    const sorted = deployments.toSorted((a, b) => place(a) - place(b) || (a.name < b.name ? -1 : 1));
    showRows(parts.list, sorted, "name", "deployment-row", (row, deployment) => {
      const { name, state, description, revision, canary } = deployment;
      const own = numbers?.pipelines[name];
      fill(row, {
        ...deployment,
        revision: joined(revision ?? "–", canary && `canary ${canary}`),
        about: description.split("\n")[0],
        graph: bars(own),
        rate: rate(own, numbers?.step_s),
        p50_ms: latest(own?.p50_ms),
        p95_ms: latest(own?.p95_ms),
        errors: total(own?.errors),
      });
      row.name.href = `#/${encodeURIComponent(name)}`;
      row.state.className = `state ${state}`;
      showFailure(row.why, deployment);
    });
  }
  return { root: parts.root, update, points: 36 };
}
