// What a deployment is to agents: its tools of MCP, and its card of A2A.

import { call, urlOf } from "./api.js";
import { element, fill, partsOf } from "./dom.js";

const VERSION = "2026-07-28"; // of MCP: requests of this version need no session
const META = { "io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {} };
const NO_TOOL =
  "It is no tool: it has no run_api (mcp_chat = True offers its chat), skip_mcp = True, or your API key may not call it.";
const NO_AGENT = "It is no agent: it has no chat, or a2a = False.";

export function protocolsTab(name) {
  const parts = partsOf("protocols");
  const card = `${encodeURIComponent(name)}/.well-known/agent-card.json`;

  async function shown() {
    const { result, detail } = await listTools();
    const own = result?.tools.filter((tool) => [name, `${name}_chat`].includes(tool.name)) ?? [];
    fill(parts, {
      mcp: own.length ? [element("code", {}, String(urlOf("mcp")))] : detail ?? NO_TOOL,
      tools: own.map((tool) => described("Tool", tool)),
    });
    const answer = await call(card);
    const read = await answer.json().catch(() => ({}));
    fill(parts, {
      a2a: answer.ok ? [element("code", {}, String(urlOf(`${encodeURIComponent(name)}/`)))] : answer.status === 404 ? NO_AGENT : read.detail,
      card: answer.ok && [described("Agent card", read)],
    });
  }
  return { root: parts.root, shown, served: () => parts.root.checkVisibility() && shown() };
}

// The answer to MCP's tools/list, or {detail} of an error.
async function listTools() {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/list", params: { _meta: META } });
  const about = { "MCP-Protocol-Version": VERSION, "Mcp-Method": "tools/list" }; // as the body says
  const types = { "Content-Type": "application/json", Accept: "application/json, text/event-stream" };
  const answer = await call("mcp", { method: "POST", body, headers: { ...types, ...about } });
  const { result, error, detail } = await answer.json().catch(() => ({}));
  return { result, detail: detail ?? error?.message };
}

function described(label, { name, description, ...more }) {
  const json = JSON.stringify({ name, description, ...more }, null, 2);
  const pre = element("pre", { class: "source", tabindex: 0, "aria-label": `${label} ${name}` }, json);
  return element("details", {}, element("summary", {}, `${label} ${name}: ${description.split("\n")[0]}`), pre);
}
