// The page: which view is shown, and what reaches all views.

import { getJson } from "./api.js";
import { deploymentView } from "./deployment.js";
import { deploymentsView } from "./deployments.js";
import { follow, once, poll } from "./live.js";
import { numbersView } from "./numbers.js";
import { requestsList } from "./requests.js";

const CHANGES = "loading,deployed,canary,failed,restored,undeployed";
const VIEWS = { "#requests": ["Requests", requestsList], "#numbers": ["Numbers", numbersView] };
const main = document.getElementById("main");
const connection = document.getElementById("connection");
const FIGURES_MS = 2000; // of a canary, which are no events
const state = { deployments: [], canaries: [], numbers: null, problem: null };
let view = null;
let showing = new AbortController(); // of the view

function change(changes) {
  Object.assign(state, changes);
  view?.update(state);
}

const read = once(() =>
  getJson("status").then(
    ({ deployments, canaries, error }) => change({ deployments, canaries, problem: error }),
    ({ message }) => /scopes/.test(message) && change({ problem: message }), // else `follow` tells that it is away
  ),
);

function show() {
  const [start, name, tab] = location.hash.split("/").map(decoded);
  if (view?.name && view.name === name) return view.show(tab);
  showing.abort();
  showing = new AbortController();
  const [title, makeView] = VIEWS[start] ?? (name ? [name, deploymentView] : ["", deploymentsView]);
  view = makeView(name, showing.signal, tab);
  document.title = title ? `${title} · hayhooks` : "hayhooks";
  for (const link of document.querySelectorAll("nav a")) {
    link.toggleAttribute("aria-current", link.hash !== "" && link.hash === (VIEWS[start] ? start : "#/"));
  }
  main.replaceChildren(view.root);
  view.update(state);
  view.shown?.(showing.signal);
  if (view.points) poll(`console/numbers?points=${view.points}`, (numbers) => change({ numbers }), showing.signal);
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
window.addEventListener("hashchange", show);
await read();
show();
setInterval(() => state.canaries.length && !document.hidden && read(), FIGURES_MS);
follow(CHANGES, (isConnected, why = "no connection: trying again") => {
  connection.textContent = isConnected ? "live" : why;
  connection.className = isConnected ? "live" : "away";
  if (isConnected) read();
});
