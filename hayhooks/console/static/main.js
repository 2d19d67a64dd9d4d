// The page: which view is shown, and what reaches all views.

import { getJson, pathOf } from "./api.js";
import { deploymentView } from "./deployment.js";
import { deploymentsView } from "./deployments.js";
import { element } from "./dom.js";
import { follow } from "./events.js";
import { numbersView } from "./numbers.js";
import { requestsView } from "./requests.js";

const NUMBERS_MS = 5000;
const CHANGES = "loading,deployed,failed,restored,undeployed";
const VIEWS = { "#requests": ["Requests", requestsView], "#numbers": ["Numbers", numbersView] };
const main = document.getElementById("main");
const connection = document.getElementById("connection");
const state = { deployments: [], failures: new Map(), numbers: null, problem: null };
let view = null;
let reading = null;
let again = false;

// Read what is served; a change while it is read is read after it.
function read() {
  if (reading) {
    again = true;
    return reading;
  }
  reading = readOnce().finally(() => {
    reading = null;
    if (again) {
      again = false;
      read();
    }
  });
  return reading;
}

async function readOnce() {
  try {
    const status = await getJson("status");
    const broken = status.deployments.filter((each) => each.error !== null);
    const failures = await Promise.all(broken.map((each) => getJson(`status/${pathOf(each.name)}`).catch(() => null)));
    state.failures = new Map(failures.filter(Boolean).map((each) => [each.name, each.failure]));
    state.deployments = status.deployments;
    state.problem = status.error;
    view?.update(state);
  } catch (error) {
    if (/scopes/.test(error.message)) {
      state.problem = error.message; // of the API key
      view?.update(state);
    }
    // `follow` tells that the server is away, and what it serves is read when it is back.
  }
}

async function readNumbers() {
  if (!document.hidden) {
    state.numbers = await getJson("console/numbers?points=36").catch(() => null);
    view?.update(state);
  }
  setTimeout(readNumbers, NUMBERS_MS);
}

function show() {
  const [start, name, tab] = location.hash.split("/").map(decoded);
  if (view?.show && name && view.name === name) {
    view.show(tab);
    return;
  }
  view?.close?.();
  const [title, make] = VIEWS[start] ?? (name ? [name, () => deploymentView(name, tab)] : ["", deploymentsView]);
  view = make();
  document.title = title ? `${title} · hayhooks` : "hayhooks";
  for (const link of document.querySelectorAll("nav a")) {
    link.toggleAttribute("aria-current", link.hash !== "" && link.hash === (VIEWS[start] ? start : "#/"));
  }
  main.replaceChildren(view.root);
  view.update(state);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", show);
main.replaceChildren(element("p", { class: "quiet" }, "Reading what is served …"));
await read();
show();
readNumbers();
follow(
  CHANGES,
  read,
  (isConnected) => {
    connection.textContent = isConnected ? "live" : "no connection: trying again";
    connection.className = isConnected ? "live" : "away";
    if (isConnected) read();
  },
);
