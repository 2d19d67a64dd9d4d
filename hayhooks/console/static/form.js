// A form from a JSON schema. Each field has its element, `get` (undefined: left out) and `set`.

import { element } from "./dom.js";

let lastId = 0;

// Make the form of *schema*, the schema of an object; *onInput* is called after each change that a person makes.
export function formOf(schema, onInput) {
  const form = objectField(schema, { defs: schema.$defs });
  form.root.oninput = onInput;
  form.root.onclick = ({ target }) => target.localName === "button" && onInput();
  return form;
}

// *schema* without what only refers to another one, or allows null too.
function resolved(schema, defs, depth = 0) {
  const { $ref, allOf, anyOf, ...rest } = schema;
  const others = anyOf?.filter((each) => each.type !== "null") ?? [];
  const [base, ...more] = $ref ? [defs[$ref.replace("#/$defs/", "")]] : (allOf ?? others);
  return base && !more.length && depth < 20 ? resolved({ ...base, ...rest }, defs, depth + 1) : schema;
}

function fieldOf(schema, context) {
  const { type, properties } = schema;
  const choices = schema.enum ?? (type === "boolean" ? [true, false] : "const" in schema && [schema.const]);
  const items = type === "array" && !schema.prefixItems && schema.items && resolved(schema.items, context.defs);
  if (choices) return choiceField(choices, schema, context);
  if (isFile(items || schema)) return fileField(Boolean(items), context);
  if (items) return listField(items, context);
  if (type === "string") return textField(schema, context);
  if (type !== "object" || !properties) return valueField(schema, context);
  return context.isRequired ? objectField(schema, context) : optionalField(schema, context);
}

const isFile = ({ type, format, contentMediaType }) => type === "string" && (format === "binary" || contentMediaType);
const defaultText = (schema) => ("default" in schema ? `default: ${JSON.stringify(schema.default)}` : "");

// A field of one *input*: *read* turns its text into a value, *write* a value into text.
function inputField(input, read, write) {
  return { root: input, input, get: () => read(input.value), set: (value) => (input.value = write(value)) };
}

function choiceField(choices, schema, { id, isRequired }) {
  const isOpen = !isRequired || choices.length > 1; // nobody approves because "true" is the first choice
  const none = isOpen && element("option", { value: "" }, isRequired ? "choose" : defaultText(schema) || "not set");
  const textOf = (each) => (typeof each === "string" ? each : JSON.stringify(each));
  const options = choices.map((each, index) => element("option", { value: index }, textOf(each)));
  const write = (value) => (choices.includes(value) ? choices.indexOf(value) : isOpen ? "" : 0);
  return inputField(element("select", { id, required: isRequired }, none, options), (index) => choices[index], write);
}

function textField(schema, { id, isRequired }) {
  const isLong = !schema.format && !schema.pattern && !(schema.maxLength < 100);
  const attributes = { id, rows: isLong && 1, placeholder: defaultText(schema), spellcheck: "false" };
  const read = (text) => (text === "" && !isRequired ? undefined : text);
  const write = (value) => (typeof value === "string" ? value : "");
  return inputField(element(isLong ? "textarea" : "input", attributes), read, write);
}

// A number, or any other value as JSON.
function valueField({ type, minimum: min, maximum: max, ...schema }, { id }) {
  const isNumber = type === "number" || type === "integer";
  const code = { class: "code", rows: 2, spellcheck: "false", placeholder: defaultText(schema) || "JSON" };
  const number = { type: "number", step: type === "integer" ? 1 : "any", min, max, placeholder: defaultText(schema) };
  const input = element(isNumber ? "input" : "textarea", { id, ...(isNumber ? number : code) });
  const read = (text) => {
    input.setCustomValidity("");
    try {
      return text.trim() === "" ? undefined : isNumber ? Number(text) : JSON.parse(text);
    } catch (error) {
      input.setCustomValidity(`not JSON: ${error.message}`);
      return undefined;
    }
  };
  const write = (value) => (isNumber && typeof value !== "number" ? "" : (JSON.stringify(value) ?? ""));
  return inputField(input, read, write);
}

function fileField(multiple, { id }) {
  const input = element("input", { id, type: "file", multiple });
  return { root: input, input, get: () => undefined, set: () => {}, files: () => [...input.files] };
}

function objectField(schema, { defs }) {
  const { properties = {}, required = [] } = schema;
  const fields = Object.keys(properties).map((name) => labelled(name, properties[name], required.includes(name), defs));
  const pairs = () => fields.map(({ name, get }) => [name, get()]).filter(([, value]) => value !== undefined);
  return {
    root: element("div", { class: "object", role: "group" }, fields.map((each) => each.root)),
    get: () => Object.fromEntries(pairs()),
    set: (value) => fields.forEach(({ name, set }) => set(value?.[name])),
    files: () => fields.flatMap(({ name, files }) => (files?.() ?? []).map((file) => [name, file])),
  };
}

function labelled(name, unresolved, isRequired, defs) {
  const id = `field-${++lastId}`;
  const schema = resolved(unresolved, defs);
  const made = fieldOf(schema, { id, isRequired, defs, label: name });
  const mark = isRequired && element("abbr", { title: "required" }, "*");
  const label = element(made.input ? "label" : "span", made.input ? { for: id } : { id, class: "label" }, name, mark);
  const about = schema.description && element("small", { id: `${id}-about` }, schema.description);
  if (about) made.root.setAttribute("aria-describedby", about.id);
  if (!made.input) made.root.setAttribute("aria-labelledby", id);
  return { ...made, name, root: element("div", { class: "field" }, label, about, made.root) };
}

const buttonOf = (text, attributes) => element("button", { type: "button", class: "small", ...attributes }, text);

// An object that may be left out; its fields are made when they are wanted, for schemas may have cycles.
function optionalField(schema, context) {
  const button = buttonOf("Fill in", { onclick: () => choose(!inner) });
  const root = element("div", { role: "group" }, button);
  let inner = null;

  function choose(isWanted) {
    if (isWanted === Boolean(inner)) return;
    inner?.root.remove();
    inner = isWanted ? objectField(schema, context) : null;
    button.textContent = isWanted ? "Leave out" : "Fill in";
    if (inner) root.append(inner.root);
  }

  function set(value) {
    choose(value !== null && typeof value === "object");
    inner?.set(value);
  }
  return { root, get: () => inner?.get(), set };
}

function listField(schema, { defs, label }) {
  const list = element("ol", { class: "items" });
  let items = null; // the fields; null if the list is left out

  function add(value) {
    items ??= [];
    const title = `${label} ${items.length + 1}`;
    const made = fieldOf(schema, { id: `field-${++lastId}`, isRequired: true, defs, label: title });
    const onclick = () => {
      items.splice(items.indexOf(made), 1);
      item.remove();
    };
    const item = element("li", {}, made.root, buttonOf("×", { onclick, "aria-label": `Remove ${title}` }));
    made.root.setAttribute("aria-label", title);
    made.set(value);
    items.push(made);
    list.append(item);
  }

  function set(value) {
    list.replaceChildren();
    items = Array.isArray(value) ? [] : null;
    items && value.forEach(add);
  }

  const onclick = () => {
    add();
    list.lastElementChild.querySelector("input, textarea, select")?.focus();
  };
  const root = element("div", { role: "group" }, list, buttonOf("Add an item", { onclick }));
  return { root, get: () => items?.map((each) => each.get() ?? null), set };
}
