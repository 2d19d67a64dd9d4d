// One deployment: its state, and a tab for each thing to do with it.

import { ask, getJson } from "./api.js";
import { chatTab } from "./chat.js";
import { element, fill, partsOf, showRows } from "./dom.js";
import { drawingTab } from "./drawing.js";
import { showFailure } from "./failure.js";
import { age, joined, milliseconds } from "./formats.js";
import { protocolsTab } from "./protocols.js";
import { requestsList } from "./requests.js";
import { runTab } from "./run.js";

// In the order of their buttons and panels in the page.
const TABS = [runTab, chatTab, requestsList, drawingTab, schemaTab, protocolsTab, historyTab];

export function deploymentView(name, signal, firstTab) {
  const parts = fill(partsOf("deployment"), { name });
  const buttons = [...parts.tabs.children];
  const panels = [...parts.root.querySelectorAll("[role=tabpanel]")];
  const tabs = new Map(); // by key, those that there are
  let chosen = firstTab;
  let showing = new AbortController(); // of the tab that can be seen
  let revision;

  function show(key) {
    chosen = key || chosen;
    const current = tabs.has(chosen) ? chosen : buttons.find((each) => !each.hidden).value;
    buttons.forEach((button, index) => {
      const isCurrent = button.value === current;
      button.setAttribute("aria-selected", String(isCurrent));
      button.tabIndex = isCurrent ? 0 : -1;
      panels[index].hidden = !isCurrent;
    });
    showing.abort();
    showing = new AbortController();
    tabs.get(current).shown?.(AbortSignal.any([signal, showing.signal]));
  }

  function add(button) {
    const tab = TABS[buttons.indexOf(button)](name, signal);
    tabs.set(button.value, tab);
    panels[buttons.indexOf(button)].append(tab.root);
    button.hidden = false;
    button.onclick = () => (location.hash = `#/${encodeURIComponent(name)}/${button.value}`);
  }

  parts.tabs.onkeydown = ({ key }) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (!step) return;
    const there = buttons.filter((each) => !each.hidden);
    const next = there.at((there.indexOf(document.activeElement) + step) % there.length);
    next.focus();
    next.click();
  };

  // The tabs follow the operations of the revision that serves; what is typed stays.
  async function readSchema() {
    const schema = await getJson(`${encodeURIComponent(name)}/schema`).catch(() => null);
    const operations = schema?.operations ?? [];
    const run = operations.find((each) => each.method === "POST" && /\/run(-durable)?$/.test(each.path));
    const isThere = { run, chat: operations.some((each) => each.path.endsWith("/chat")) };
    buttons.filter(({ value }) => !tabs.has(value) && (isThere[value] ?? value !== "run")).forEach(add);
    tabs.get("run")?.describe(run);
    tabs.get("schema").describe(operations);
    show();
    if (schema) for (const tab of tabs.values()) tab.served?.();
  }

  function update({ deployments, canaries, problem }) {
    const deployment = deployments.find((each) => each.name === name);
    const { state, revision: serving = null, loaded_at: loadedAt, load_ms: loadMs, canary, failure } = deployment ?? {};
    const gone = `${name} is not in the pipelines directory. What you typed is kept; it works again when it is back.`;
    const facts = [`for ${age(loadedAt)}`, `loaded in ${milliseconds(loadMs)}`, canary && `canary ${canary}`];
    fill(parts, {
      state: state ?? "not served",
      facts: serving && joined(`revision ${serving}`, ...facts),
      about: deployment ? deployment.description : problem ?? gone,
      canary: canaries.filter((each) => each.name === name).map(compared),
    });
    parts.state.className = `state ${state ?? "failed"}`;
    if (showFailure(parts.why, deployment)) {
      tabs.get("history")?.shown();
      if (failure) for (const tab of tabs.values()) tab.failed?.(serving, failure.reason);
    }
    ask(canary); // who has just saved wants to see the answer of the save
    if ((canary ?? serving) !== revision) {
      revision = canary ?? serving;
      readSchema();
    }
  }
  return { name, root: parts.root, update, show };
}

// What a canary and the revision beside it did so far.
function compared({ share, ends_in_s: leftS, canary, serving }) {
  const did = ({ requests, failed, p95_ms: p95 }) => `${requests} answers, ${failed} failed, p95 ${milliseconds(p95)}`;
  const gets = `The canary ${canary.revision} gets ${Number((share * 100).toPrecision(3))} % of the requests`;
  const beside = `Beside it ${serving.revision}: ${did(serving)}`;
  return `${gets}: ${did(canary)}. ${beside}. It is decided within ${Math.ceil(leftS)} s.`;
}

// What each operation takes and returns, as JSON schemas.
function schemaTab() {
  const parts = partsOf("schema");
  const pretty = (schemas) => JSON.stringify(schemas, null, 2);
  const shown = ({ method, path, summary, ...schemas }) => [
    element("h2", {}, `${method} ${path}`),
    element("p", { class: "about" }, summary),
    element("pre", { class: "source", tabindex: 0, "aria-label": `Schema of ${path}` }, pretty(schemas)),
  ];
  return { root: parts.root, describe: (operations) => fill(parts, { operations: operations.flatMap(shown) }) };
}

// The last revisions of *name*, with what differed.
function historyTab(name) {
  const list = element("ol", { class: "history", reversed: true });

  async function shown() {
    const read = await getJson(`status/${encodeURIComponent(name)}/revisions`).catch(() => null);
    showRows(list, read?.revisions ?? [], "at", "revision", (row, { files, ...facts }) => {
      fill(row, { ...facts, files: files.join(", ") });
      row.root.className = facts.outcome;
    });
  }
  return { root: list, shown };
}
