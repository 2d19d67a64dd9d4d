// The page: which view is shown, and what reaches all views.

import { getJson } from "./api.js";
import { deploymentView } from "./deployment.js";
import { deploymentsView } from "./deployments.js";
import { executionView } from "./execution.js";
import { executionsView } from "./executions.js";
import { follow, once, poll } from "./live.js";
import { numbersView } from "./numbers.js";
import { requestsList } from "./requests.js";

const CHANGES = "loading,deployed,canary,failed,restored,undeployed";
const VIEWS = {
  "#executions": ["Executions", (name, ...rest) => (name ? executionView : executionsView)(name, ...rest)],
  "#requests": ["Requests", requestsList],
  "#numbers": ["Numbers", numbersView],
};
const main = document.getElementById("main");
const connection = document.getElementById("connection");
const UNSETTLED_MS = 2000; // until the status is read again while it changes without an event
const state = { deployments: [], canaries: [], executions: false, numbers: null, problem: null };
let isUnsettled = false; // a canary's figures change, or the worker that was asked is behind another
let view = null;
let showing = new AbortController(); // of the view

function change(changes) {
  Object.assign(state, changes);
  document.getElementById("executions-link").hidden = !state.executions;
  view?.update(state);
}

const read = once(() =>
  getJson("status").then(
    ({ deployments, canaries, executions, workers, error }) => {
      const isLoading = deployments.some((each) => each.state === "loading");
      isUnsettled = canaries.length > 0 || isLoading || workers.some((each) => each.revision !== workers[0].revision);
      change({ deployments, canaries, executions, problem: error });
    },
    ({ message }) => /scopes/.test(message) && change({ problem: message }), // else `follow` tells that it is away
  ),
);

function show() {
  const [start, name, tab] = location.hash.split("/").map(decoded);
  if (!VIEWS[start] && view?.name && view.name === name) return view.show(tab);
  showing.abort();
  showing = new AbortController();
  const { signal } = showing;
  const [title, makeView] = VIEWS[start] ?? (name ? [name, deploymentView] : ["", deploymentsView]);
  view = makeView(name, signal, tab);
  document.title = title ? `${title} · hayhooks` : "hayhooks";
  for (const link of document.querySelectorAll("nav a")) {
    link.toggleAttribute("aria-current", link.hash !== "" && link.hash === (VIEWS[start] ? start : "#/"));
  }
  main.replaceChildren(view.root);
  view.update(state);
  view.shown?.(signal);
  const numbers = `console/numbers?points=${view.points}`;
  if (view.points) poll(() => getJson(numbers, signal).then((read) => change({ numbers: read })), signal);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

document.querySelector(".skip").onclick = () => {
  main.focus();
  return false;
};
window.addEventListener("hashchange", () => {
  show();
  read(); // executions may have begun, which is no event
});
await read();
show();
setInterval(() => isUnsettled && !document.hidden && read(), UNSETTLED_MS);
follow(CHANGES, (isConnected, why = "no connection: trying again") => {
  connection.textContent = isConnected ? "live" : why;
  connection.className = isConnected ? "live" : "away";
  if (isConnected) read();
});
