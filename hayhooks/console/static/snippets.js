// The request of a form as a command, and as a program.

import { hasKey, urlOf } from "./api.js";

export function asCurl(path, value, files) {
  const lines = [`curl -N ${quoted(urlOf(path).href)}`];
  if (hasKey()) lines.push(`-H "Authorization: Bearer $HAYHOOKS_API_KEY"`);
  if (files === null) lines.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(value))}`);
  else {
    for (const [name, text] of formFields(value)) lines.push(`--form-string ${quoted(`${name}=${text}`)}`);
    for (const [name, file] of files) lines.push(`-F ${quoted(`${name}=@${file.name}`)}`);
  }
  return lines.join(" \\\n  ");
}

export function asPython(path, value, files) {
  const parts = [JSON.stringify(urlOf(path).href)];
  if (hasKey()) parts.push(`headers={"Authorization": f"Bearer {os.environ['HAYHOOKS_API_KEY']}"}`);
  if (files === null) parts.push(`json=${literal(value)}`);
  else {
    const data = {};
    for (const [name, text] of formFields(value)) (data[name] ??= []).push(text);
    const opened = files.map(([name, file]) => `(${JSON.stringify(name)}, open(${JSON.stringify(file.name)}, "rb"))`);
    parts.push(`data=${literal(data)}`, `files=[${opened.join(", ")}]`);
  }
  const imports = hasKey() ? "import os\n\nimport httpx\n" : "import httpx\n";
  return `${imports}\nanswer = httpx.post(\n    ${parts.join(",\n    ")},\n    timeout=600,\n)\nanswer.raise_for_status()\nprint(answer.text)\n`;
}

// What a form sends for *value*: lists item by item.
export function formFields(value) {
  const text = (each) => (typeof each === "string" ? each : JSON.stringify(each));
  return Object.entries(value).flatMap(([name, each]) => (Array.isArray(each) ? each : [each]).map((item) => [name, text(item)]));
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function literal(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${literal(each)}`).join(", ")}}`;
}
