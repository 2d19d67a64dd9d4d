// Calls of this server: relative to the page, with the API key of this tab.

const base = new URL(".", location.href.split("#")[0]);
const KEPT = `hayhooks-key ${base.pathname}`;
let asking = null;
let revision = null;

export const urlOf = (path) => new URL(path.replace(/^\/+/, ""), base);

// Let calls be served by the revision *id*, a canary; by any without one.
export const ask = (id) => (revision = id);

// Fetch *path*; without a valid key ask for one, and try again.
export async function call(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEPT);
    const headers = new Headers(options.headers);
    if (key) headers.set("Authorization", `Bearer ${key}`);
    if (revision) headers.set("X-Hayhooks-Revision", revision);
    const answer = await fetch(urlOf(path), { ...options, headers });
    if (answer.status !== 401 || !answer.headers.has("www-authenticate")) return answer;
    if (key === sessionStorage.getItem(KEPT)) await askForKey(key);
  }
}

// Return *answer*; throw with what the server says if it refuses.
export async function accepted(answer) {
  if (answer.ok) return answer;
  const { detail } = await answer.json().catch(() => ({}));
  const told = Array.isArray(detail) ? detail.map(({ loc, msg }) => `${loc.slice(1).join(".")}: ${msg}`).join("\n") : detail;
  throw new Error(told ?? `status ${answer.status}`);
}

export const get = async (path, signal) => accepted(await call(path, { signal }));

export const getJson = async (path, signal) => (await get(path, signal)).json();

export function postJson(path, value, signal) {
  const headers = { "Content-Type": "application/json" };
  return call(path, { method: "POST", body: JSON.stringify(value), headers, signal });
}

export const hasKey = () => sessionStorage.getItem(KEPT) !== null;

// Ask for a key in place of *wrong*, once for all calls that wait for it; who closes the dialog is asked again.
function askForKey(wrong) {
  asking ??= new Promise((resolve) => {
    const [dialog, input, problem] = ["key", "key-input", "key-problem"].map((id) => document.getElementById(id));
    problem.textContent = wrong ? "The API key is not valid." : "This server needs an API key.";
    input.value = "";
    dialog.onclose = () => {
      if (input.validity.valid) sessionStorage.setItem(KEPT, input.value.trim());
      asking = null;
      resolve();
    };
    dialog.showModal();
  });
  return asking;
}

// The server-sent events of *answer*, as {type, id, data: text}.
export async function* serverSentEvents(answer) {
  let rest = "";
  for await (const text of texts(answer)) {
    const blocks = (rest + text).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const data = [...block.matchAll(/^data: ?(.*)$/gm)].map(([, line]) => line);
      const [type, id] = [/^event: ?(.*)$/m, /^id: ?(.*)$/m].map((field) => field.exec(block)?.[1] ?? "");
      if (data.length) yield { type, id, data: data.join("\n") };
    }
  }
}

// The body of *answer*, as pieces of text as they come.
export async function* texts(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
}
