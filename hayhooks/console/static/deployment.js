// One deployment: its state, and a tab for each thing to do with it.

import { getJson, pathOf } from "./api.js";
import { chatTab } from "./chat.js";
import { failureOf } from "./deployments.js";
import { age, clock, element, milliseconds } from "./dom.js";
import { drawingTab } from "./drawing.js";
import { requestsList } from "./requests.js";
import { runTab } from "./run.js";

export function deploymentView(name, firstTab) {
  const badge = element("span");
  const facts = element("p", { class: "facts" });
  const about = element("p", { class: "about" });
  const failureBox = element("div");
  const tabList = element("div", { role: "tablist", "aria-label": "What to do", class: "tabs" });
  const panels = element("div");
  const root = element(
    "section",
    { "aria-labelledby": "title" },
    element("p", { class: "back" }, element("a", { href: "#/" }, "← Deployments")),
    element("div", { class: "head" }, element("h1", { id: "title" }, name), badge),
    facts, about, failureBox, tabList, panels,
  );
  const tabs = new Map(); // by key: {button, panel, tab}
  let chosen = firstTab;
  let revision;
  let shownFailure = "";

  function show(key) {
    chosen = key || chosen;
    const current = tabs.has(chosen) ? chosen : tabs.keys().next().value;
    for (const [each, { button, panel, tab }] of tabs) {
      button.setAttribute("aria-selected", String(each === current));
      button.tabIndex = each === current ? 0 : -1;
      panel.hidden = each !== current;
      if (each !== current) tab.hidden?.();
    }
    tabs.get(current)?.tab.shown?.();
  }

  function add(key, label, tab) {
    const panel = element("div", { role: "tabpanel", id: `panel-${key}`, "aria-labelledby": `tab-${key}` }, tab.root);
    const button = element(
      "button",
      {
        role: "tab", id: `tab-${key}`, "aria-controls": `panel-${key}`,
        onclick: () => (location.hash = `#/${encodeURIComponent(name)}/${key}`),
      },
      label,
    );
    tabs.set(key, { button, panel, tab });
    tabList.append(button);
    panels.append(panel);
  }

  tabList.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const buttons = [...tabList.children];
    const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
  });

  // The form follows the schema of the revision that serves; what is typed stays.
  async function readSchema() {
    const schema = await getJson(pathOf(name, "/schema")).catch(() => null);
    const operations = schema?.operations ?? [];
    const run = operations.find((each) => each.method === "POST" && /\/run$/.test(each.path));
    const chat = operations.some((each) => each.path.endsWith("/chat"));
    if (run && !tabs.has("run")) add("run", "Run", runTab(name));
    if (chat && !tabs.has("chat")) add("chat", "Chat", chatTab(name));
    if (!tabs.has("history")) {
      add("requests", "Requests", requestsList(name));
      add("drawing", "Drawing", drawingTab(name));
      add("schema", "Schema", schemaTab());
      add("history", "History", historyTab(name));
    }
    tabs.get("run")?.tab.describe(run);
    tabs.get("schema").tab.describe(operations);
    show();
    if (schema) for (const { tab } of tabs.values()) tab.served?.();
  }

  function update({ deployments, failures }) {
    const deployment = deployments.find((each) => each.name === name);
    badge.className = `state ${deployment?.state ?? "failed"}`;
    badge.textContent = deployment?.state ?? "not served";
    facts.textContent = deployment?.revision
      ? `revision ${deployment.revision} · for ${age(deployment.loaded_at)} · loaded in ${milliseconds(deployment.load_ms)}`
      : "";
    about.textContent = deployment?.description ?? `${name} is not in the pipelines directory. What you typed is kept; it works again when it is back.`;
    const failure = failures.get(name);
    const now = JSON.stringify([failure, deployment?.error, deployment?.revision]);
    if (now !== shownFailure) {
      shownFailure = now;
      failureBox.replaceChildren(...(deployment?.error ? [failureOf(deployment, failure)] : []));
      tabs.get("history")?.tab.shown();
      if (deployment?.error) for (const { tab } of tabs.values()) tab.failed?.(deployment.revision, failure?.reason ?? deployment.error);
    }
    const serving = deployment?.revision ?? null;
    if (serving !== revision) {
      revision = serving;
      readSchema();
    }
  }

  function close() {
    for (const { tab } of tabs.values()) tab.close?.();
  }

  return { name, root, update, show, close };
}

// What each operation takes and returns, as JSON schemas.
function schemaTab() {
  const root = element("div");

  function describe(operations) {
    const each = ({ method, path, summary, ...schemas }) => [
      element("h2", {}, `${method} ${path}`),
      element("p", { class: "about" }, summary),
      element("pre", { class: "source", tabindex: "0", "aria-label": `Schema of ${path}` }, JSON.stringify(schemas, null, 2)),
    ];
    root.replaceChildren(...operations.flatMap(each), element("p", {}, element("a", { href: "docs" }, "All operations of the server")));
  }

  return { root, describe };
}

// The last revisions of *name*, with what differed.
function historyTab(name) {
  const list = element("ol", { class: "history", reversed: true });
  const root = element("div", {}, list);

  async function shown() {
    const { revisions } = await getJson(`status/${pathOf(name, "/revisions")}`).catch(() => ({ revisions: [] }));
    const items = revisions.map((each) =>
      element(
        "li",
        {},
        element("span", { class: `outcome ${each.outcome}` }, each.outcome),
        element("code", {}, each.revision ?? ""),
        element("time", { datetime: new Date(each.at * 1000).toISOString() }, clock(each.at)),
        element("span", { class: "quiet" }, `in ${milliseconds(each.took_ms)}`),
        each.files.length > 0 && element("span", {}, each.files.join(", ")),
        each.error && element("p", { class: "reason" }, each.error),
      ),
    );
    list.replaceChildren(...(items.length ? items : [element("li", { class: "quiet" }, "No changes are known.")]));
  }

  return { root, shown };
}
