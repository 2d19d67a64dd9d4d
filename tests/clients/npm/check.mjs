// What the official npm package makes of our answers, as JSON on standard output.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "not needed" });
const messages = [{ role: "user", content: "hello" }];
const tools = JSON.parse(process.argv[3]);
const found = {};

const whole = await client.chat.completions.create({ model: "words", messages });
found.whole = [whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage.total_tokens];

found.streamed = "";
let usage = null;
const stream = await client.chat.completions.create({
  model: "words", messages, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  found.streamed += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
found.usage = usage.total_tokens;

const helper = client.chat.completions.stream({ model: "words", messages });
found.snapshots = 0;
helper.on("content", () => { found.snapshots += 1; });
found.helper = (await helper.finalChatCompletion()).choices[0].message.content;

const called = client.chat.completions.stream({ model: "tools", messages, tools });
found.calls = (await called.finalChatCompletion()).choices[0].message.tool_calls.map((call) => call.function);

const runner = client.chat.completions.runTools({
  model: "tools",
  messages,
  tools: [{ ...tools[0], function: { ...tools[0].function, function: () => "sunny", parse: JSON.parse } }],
});
found.ran = await runner.finalContent();

const failures = {
  unknown: { model: "nobody", messages },
  bad: { model: "words", messages: [] },
  failing: { model: "failing", messages },
  failingStream: { model: "failing", messages, stream: true },
};
for (const [name, request] of Object.entries(failures)) {
  try {
    await client.chat.completions.create(request);
    found[name] = "no error";
  } catch (error) {
    found[name] = [error.constructor.name, error.status, error.code ?? null, error.message];
  }
}
try {
  for await (const chunk of await client.chat.completions.create({ model: "midway", messages, stream: true })) {
    found.before = (found.before ?? "") + (chunk.choices[0]?.delta.content ?? "");
  }
  found.midway = "no error";
} catch (error) {
  found.midway = [error instanceof OpenAI.APIError, error.message];
}

found.response = (await client.responses.create({ model: "words", input: "hello" })).output_text;
const events = [];
for await (const event of await client.responses.create({ model: "words", input: "hello", stream: true })) {
  events.push(event.type);
}
found.events = [events[0], events.at(-1)];
found.finalResponse = (await client.responses.stream({ model: "words", input: "hello" }).finalResponse()).output_text;

found.models = [];
for await (const model of client.models.list()) found.models.push(model.id);
const file = await client.files.create({ file: new File(["some notes"], "notes.txt"), purpose: "user_data" });
found.file = [file.filename, file.bytes];

console.log(JSON.stringify(found));
