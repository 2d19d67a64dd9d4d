// What people do with the TypeScript SDK of A2A; prints what it found as JSON.

import { randomUUID } from "node:crypto";
import { Role, TaskState } from "@a2a-js/sdk";
import { ClientFactory } from "@a2a-js/sdk/client";

const client = await new ClientFactory().createFromUrl(process.argv[2]);
const message = (text) => ({
  tenant: "",
  message: {
    messageId: randomUUID(),
    contextId: "",
    taskId: "",
    role: Role.ROLE_USER,
    extensions: [],
    referenceTaskIds: [],
    parts: [{ content: { $case: "text", value: text }, filename: "", mediaType: "" }],
  },
});
const state = (status) => TaskState[status.state];
const text = (artifact) => artifact.parts.map((part) => part.content.value).join("");
const found = {};

const sent = await client.sendMessage(message("hello"));
found.sent = [state(sent.status), text(sent.artifacts[0])];

let streamed = "";
for await (const { payload } of client.sendMessageStream(message("hello"))) {
  if (payload.$case === "artifactUpdate") streamed += text(payload.value.artifact);
  if (payload.$case === "statusUpdate") found.streamed = [state(payload.value.status), streamed];
}

found.task = (await client.getTask({ tenant: "", id: sent.id })).id === sent.id;
for await (const { payload } of client.sendMessageStream(message("wait"))) {
  if (payload.$case !== "artifactUpdate") continue;
  found.cancelled = state((await client.cancelTask({ tenant: "", id: payload.value.taskId })).status);
  break;
}
const failed = await client.sendMessage(message("refuse"));
found.failed = [state(failed.status), text(failed.status.message)];
console.log(JSON.stringify(found));
process.exit(0);
