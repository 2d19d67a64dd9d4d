// What people do with the official TypeScript client; prints what it found as JSON.

import { writeFileSync } from "node:fs";

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { ToolListChangedNotificationSchema } from "@modelcontextprotocol/sdk/types.js";

const [url, root] = process.argv.slice(2);
const found = {};
const client = new Client({ name: "test", version: "1" });
let changed = false;
client.setNotificationHandler(ToolListChangedNotificationSchema, () => (changed = true));
await client.connect(new StreamableHTTPClientTransport(new URL(`${url}/mcp`)));

found.tools = (await client.listTools()).tools.map((tool) => tool.name);
found.structured = (await client.callTool({ name: "tool", arguments: { numbers: [1, 2] } })).structuredContent;
const failed = await client.callTool({ name: "tool", arguments: { numbers: [1], luck: false } });
found.error = [failed.isError, failed.content[0].text];
const heard = [];
const streamed = await client.callTool({ name: "stream", arguments: {} }, undefined, {
  onprogress: (progress) => heard.push(progress.message),
});
found.stream = [streamed.content[0].text, heard];
const abort = new AbortController();
setTimeout(() => abort.abort(), 300);
found.cancelled = await client
  .callTool({ name: "waits", arguments: { number: 3 } }, undefined, { signal: abort.signal })
  .then(() => "", (error) => String(error));
found.readme = (await client.readResource({ uri: "hayhooks://tool/README.md" })).contents[0].text;
for (let number = 0; !changed && number < 50; number++) {
  writeFileSync(`${root}/tool/data.txt`, `npm${number}`);
  await new Promise((resolve) => setTimeout(resolve, 300));
}
found.changed = changed;
await client.close();
console.log(JSON.stringify(found));
