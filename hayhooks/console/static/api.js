// Calls of this server: relative to the page, with the API key of this tab.

const base = new URL(".", location.href.split("#")[0]);
const KEPT = `hayhooks-key ${base.pathname}`;
let asking = null;

export function urlOf(path) {
  return new URL(path.replace(/^\/+/, ""), base);
}

export function pathOf(name, rest = "") {
  return `${encodeURIComponent(name)}${rest}`;
}

// Fetch *path*; without a valid key ask for one, and try again.
export async function call(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEPT);
    const headers = new Headers(options.headers);
    if (key) headers.set("Authorization", `Bearer ${key}`);
    const answer = await fetch(urlOf(path), { ...options, headers });
    if (answer.status !== 401 || !answer.headers.has("www-authenticate")) return answer;
    if (key === sessionStorage.getItem(KEPT)) await askForKey(key ? "The API key is not valid." : "");
  }
}

export async function getJson(path) {
  const answer = await call(path);
  const body = await answer.json();
  if (!answer.ok && body.state === undefined) throw new Error(body.detail ?? `status ${answer.status}`);
  return body;
}

export function hasKey() {
  return sessionStorage.getItem(KEPT) !== null;
}

function askForKey(problem) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key");
    const input = document.getElementById("key-input");
    if (problem) document.getElementById("key-problem").textContent = problem;
    input.value = "";
    dialog.oncancel = (event) => event.preventDefault();
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      const key = input.value.trim();
      if (!/^[!-~]+$/.test(key)) {
        document.getElementById("key-problem").textContent = "A key has letters, digits and signs of ASCII, no spaces.";
        return;
      }
      sessionStorage.setItem(KEPT, key);
      dialog.close();
      asking = null;
      resolve();
    };
    dialog.showModal();
  });
  return asking;
}

// The server-sent events of *answer*, as {id, type, data: text}.
export async function* serverSentEvents(answer) {
  let event = { id: "", type: "message", data: [] };
  let rest = "";
  for await (const text of texts(answer)) {
    const lines = (rest + text).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (line === "") {
        if (event.data.length) yield { ...event, data: event.data.join("\n") };
        event = { id: "", type: "message", data: [] };
      } else if (field === "data") event.data.push(value);
      else if (field === "event") event.type = value;
      else if (field === "id") event.id = value;
    }
  }
}

// The body of *answer*, as pieces of text as they come.
export async function* texts(answer) {
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield decoder.decode(value, { stream: true });
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
