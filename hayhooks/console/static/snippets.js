// The request of a form as a command, and as a program.

import { hasKey, urlOf } from "./api.js";

// *files* are [field, file] pairs; null for a body of JSON.
export function asCurl(path, value, files) {
  const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
  const lines = [`curl -N ${quoted(urlOf(path).href)}`];
  if (hasKey()) lines.push('-H "Authorization: Bearer $HAYHOOKS_API_KEY"');
  if (files) {
    lines.push(...formFields(value).map(([name, text]) => `--form-string ${quoted(`${name}=${text}`)}`));
    lines.push(...files.map(([name, file]) => `-F ${quoted(`${name}=@${file.name}`)}`));
  } else lines.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(value))}`);
  return lines.join(" \\\n  ");
}

export function asPython(path, value, files) {
  const parts = [JSON.stringify(urlOf(path).href)];
  if (hasKey()) parts.push(`headers={"Authorization": f"Bearer {os.environ['HAYHOOKS_API_KEY']}"}`);
  if (files) {
    const groups = Map.groupBy(formFields(value), ([name]) => name);
    const data = [...groups].map(([name, pairs]) => [name, pairs.map(([, text]) => text)]);
    const opened = files.map(([name, file]) => `(${literal(name)}, open(${literal(file.name)}, "rb"))`);
    parts.push(`data=${literal(Object.fromEntries(data))}`, `files=[${opened.join(", ")}]`);
  } else parts.push(`json=${literal(value)}`);
  const imports = `${hasKey() ? "import os\n\n" : ""}import httpx`;
  const call = `answer = httpx.post(\n    ${[...parts, "timeout=600"].join(",\n    ")},\n)`;
  return `${imports}\n\n${call}\nanswer.raise_for_status()\nprint(answer.text)\n`;
}

// What a form sends for *value*: lists item by item.
export function formFields(value) {
  const text = (each) => (typeof each === "string" ? each : JSON.stringify(each));
  return Object.entries(value).flatMap(([name, each]) => [each].flat().map((item) => [name, text(item)]));
}

function literal(value) {
  const words = new Map([[null, "None"], [true, "True"], [false, "False"]]);
  if (typeof value !== "object" || value === null) return words.get(value) ?? JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  return `{${Object.entries(value).map(([key, each]) => `${literal(key)}: ${literal(each)}`).join(", ")}}`;
}
