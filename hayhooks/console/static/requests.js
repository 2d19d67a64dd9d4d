// The last requests, of all pipelines or of one: a list that follows what comes, and each request as a waterfall.

import { getJson, pathOf } from "./api.js";
import { clock, element, milliseconds, newId } from "./dom.js";
import { follow } from "./events.js";
import { waterfall } from "./waterfall.js";

const STATUSES = [["", "any status"], ["error", "with an error"], ["2xx", "2xx"], ["4xx", "4xx"], ["5xx", "5xx"]];
const REREAD_MS = 300; // after an event

export function requestsView() {
  const list = requestsList();
  const root = element("section", { "aria-labelledby": "title" }, element("h1", { id: "title" }, "Requests"), list.root);
  list.shown();
  return { name: "requests", root, update: list.update, close: list.close };
}

// The list, of the requests to *name* if it is given.
export function requestsList(name) {
  const pipeline = element("select", { id: newId("pipeline"), onchange: read }, element("option", { value: "" }, "all pipelines"));
  const status = element("select", { id: newId("status"), onchange: read }, STATUSES.map(([value, text]) => element("option", { value }, text)));
  const problem = element("p", { class: "quiet", role: "status" });
  const list = element("ol", { class: "requests" });
  const filters = element(
    "p",
    { class: "filters" },
    name === undefined && [element("label", { for: pipeline.id }, "Pipeline"), pipeline],
    element("label", { for: status.id }, "Status"), status,
  );
  const root = element("div", {}, filters, problem, list);
  const rows = new Map(); // by request id
  let following = null;
  let waiting = null;

  async function read() {
    waiting = null;
    const query = new URLSearchParams({ limit: 100, status: status.value });
    if (name ?? pipeline.value) query.set("pipeline", name ?? pipeline.value);
    try {
      const { traces } = await getJson(`traces?${query}`);
      problem.textContent = traces.length ? "" : "No such request is kept. Send one, and it appears here.";
      const ids = new Set(traces.map((each) => each.id));
      for (const [id, row] of rows) if (!ids.has(id)) row.remove() ?? rows.delete(id);
      traces.forEach((trace, index) => {
        const row = rows.get(trace.id) ?? rowOf(trace);
        rows.set(trace.id, row);
        if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
      });
    } catch (error) {
      problem.textContent = /HAYHOOKS_TRACES/.test(error.message)
        ? "No requests are kept: start the server with HAYHOOKS_TRACES=200, or with hayhooks dev."
        : `The requests cannot be read: ${error.message}`;
    }
  }

  function update({ deployments }) {
    const known = new Set([...pipeline.options].map((option) => option.value));
    pipeline.append(...deployments.filter((each) => !known.has(each.name)).map((each) => element("option", {}, each.name)));
  }

  // Follow the requests while the list can be seen.
  function shown() {
    read();
    if (following) return;
    following = new AbortController();
    follow("request", () => (waiting ??= setTimeout(read, REREAD_MS)), (isConnected) => isConnected && read(), following.signal);
  }

  function close() {
    following?.abort();
    following = null;
    clearTimeout(waiting);
  }

  return { root, update, shown, hidden: close, close };
}

function rowOf(trace) {
  const kind = trace.error || trace.status >= 500 ? "bad" : trace.status >= 400 ? "warn" : "good";
  const inside = element("div");
  const row = element(
    "details",
    { ontoggle: open },
    element(
      "summary",
      {},
      element("time", { datetime: new Date(trace.at * 1000).toISOString() }, clock(trace.at)),
      element("span", { class: kind }, String(trace.status)),
      element("span", { class: "path" }, `${trace.method} ${trace.path}`),
      !trace.path.startsWith(`/${trace.pipeline}/`) && element("span", {}, trace.pipeline),
      element("span", { class: "took" }, milliseconds(trace.took_ms)),
      trace.error && element("span", { class: "reason" }, trace.error.split("\n")[0]),
    ),
    inside,
  );

  async function open() {
    if (!row.open || inside.firstChild) return;
    try {
      inside.replaceChildren(waterfall(await getJson(`traces/${pathOf(trace.id)}`)));
    } catch (error) {
      inside.replaceChildren(element("p", { class: "quiet" }, error.message));
    }
  }

  return element("li", {}, row);
}
