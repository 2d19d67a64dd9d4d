// The list of deployments: what is failed or stale stands first.

import { chart, latest, rate, total } from "./chart.js";
import { age, element, estimated, milliseconds } from "./dom.js";
import { sourceOf } from "./source.js";

const ORDER = { failed: 0, stale: 1, loading: 2, serving: 3 };

export function deploymentsView() {
  const list = element("ul", { class: "deployments" });
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const empty = element("p", { class: "quiet", hidden: true }, "Nothing is served yet. Save a folder with a pipeline_wrapper.py, or a YAML pipeline, in the pipelines directory.");
  const root = element("section", { "aria-labelledby": "title" }, element("h1", { id: "title" }, "Deployments"), problem, empty, list);
  const rows = new Map(); // by name

  function update({ deployments, failures, numbers, problem: reason }) {
    problem.hidden = !reason;
    problem.textContent = reason ?? "";
    empty.hidden = deployments.length > 0;
    const names = new Set(deployments.map((each) => each.name));
    for (const [name, row] of rows) {
      if (names.has(name)) continue;
      row.root.remove();
      rows.delete(name);
    }
    const sorted = deployments.toSorted((a, b) => ORDER[a.state] - ORDER[b.state] || (a.name < b.name ? -1 : 1));
    sorted.forEach((deployment, index) => {
      const row = rows.get(deployment.name) ?? newRow(deployment.name);
      rows.set(deployment.name, row);
      row.update(deployment, failures.get(deployment.name), numbers);
      if (list.children[index] !== row.root) list.insertBefore(row.root, list.children[index] ?? null);
    });
  }

  return { name: "", root, update };
}

function newRow(name) {
  const link = element("a", { href: `#/${encodeURIComponent(name)}`, class: "name" }, name);
  const badge = element("span");
  const about = element("span", { class: "about" });
  const numbersBox = element("dl", { class: "numbers" });
  const graph = element("div", { class: "graph" });
  const failureBox = element("div");
  const root = element("li", {}, element("div", { class: "head" }, element("h2", {}, link), badge, about), graph, numbersBox, failureBox);
  let shownFailure = "";

  function update(deployment, failure, numbers) {
    badge.className = `state ${deployment.state}`;
    badge.textContent = deployment.state;
    about.textContent = deployment.description.split("\n")[0];
    const own = numbers?.pipelines[name];
    const facts = [
      ["revision", deployment.revision ?? "–"],
      ["age", deployment.loaded_at ? age(deployment.loaded_at) : "–"],
      ["loaded in", milliseconds(deployment.load_ms)],
      ["requests", `${rate(own, numbers?.step_s ?? 5).toFixed(1)} /s`],
      ["p50", estimated(latest(own?.p50_ms))],
      ["p95", estimated(latest(own?.p95_ms))],
      ["errors", String(total(own?.errors))],
    ];
    facts.forEach(([label, text], index) => {
      numbersBox.children[index] ?? numbersBox.append(element("div", {}, element("dt", {}, label), element("dd")));
      const value = numbersBox.children[index].lastElementChild;
      if (value.textContent !== text) value.textContent = text; // a selection survives
    });
    graph.replaceChildren(chart(own));
    const now = JSON.stringify([failure, deployment.state, deployment.revision, deployment.error]);
    if (now !== shownFailure) {
      shownFailure = now;
      failureBox.replaceChildren(...(deployment.error ? [failureOf(deployment, failure)] : []));
    }
  }

  return { root, update };
}

// Why the newest revision of *deployment* does not serve, and what serves instead.
export function failureOf(deployment, failure) {
  const place = failure?.place;
  return element(
    "div",
    { class: "failure" },
    element("p", { class: "reason" }, failure?.reason ?? deployment.error),
    place && sourceOf(place),
    failure?.hint && element("p", { class: "hint" }, failure.hint),
    element("p", { class: "serves" }, deployment.revision ? `Revision ${deployment.revision} keeps serving.` : "Nothing serves."),
    failure?.traceback && element("details", {}, element("summary", {}, "Traceback"), element("pre", { tabindex: "0" }, failure.traceback)),
  );
}
