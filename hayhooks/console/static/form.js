// A form from a JSON schema. Each field has its element, `get` (undefined: left out) and `set`.

import { element, newId } from "./dom.js";

// Make the form of *schema*, the schema of an object; *onInput* is called after each change of it.
export function formOf(schema, onInput) {
  const form = objectField(schema, { defs: schema.$defs ?? {}, path: "" });
  form.root.addEventListener("input", onInput);
  form.root.addEventListener("change", onInput);
  return form;
}

export function isFile(schema) {
  return schema.type === "string" && (schema.format === "binary" || schema.contentMediaType !== undefined);
}

function resolved(schema, defs) {
  for (let depth = 0; schema.$ref && depth < 20; depth++) {
    const { $ref, ...rest } = schema;
    schema = { ...defs[$ref.replace("#/$defs/", "")], ...rest };
  }
  if (schema.allOf?.length === 1) return resolved({ ...schema.allOf[0], ...schema, allOf: undefined }, defs);
  const others = schema.anyOf?.filter((each) => each.type !== "null") ?? [];
  if (others.length !== 1) return schema;
  const { anyOf, ...rest } = schema;
  return { ...resolved(others[0], defs), ...rest };
}

function field(name, unresolved, required, context) {
  const schema = resolved(unresolved, context.defs);
  const id = newId("field");
  const made = fieldOf(schema, required, { ...context, id, label: name });
  const label = [name, required ? element("abbr", { title: "required" }, "*") : null];
  const about = schema.description ? element("small", { id: `${id}-about` }, schema.description) : null;
  if (about) made.input?.setAttribute("aria-describedby", about.id);
  const head = made.input ? element("label", { for: id }, label) : element("span", { class: "label", id }, label);
  if (!made.input) made.root.setAttribute("aria-labelledby", id);
  return { ...made, root: element("div", { class: "field" }, head, about, made.root) };
}

function fieldOf(schema, required, context) {
  const choices = schema.enum ?? (schema.const !== undefined ? [schema.const] : null);
  if (choices) return choiceField(choices, schema, required, context);
  if (schema.type === "boolean") return choiceField([true, false], schema, required, context);
  if (isFile(schema)) return fileField(context, false);
  if (schema.type === "string") return textField(schema, required, context);
  if (schema.type === "integer" || schema.type === "number") return numberField(schema, required, context);
  if (schema.type === "array" && schema.items && !schema.prefixItems) {
    return isFile(resolved(schema.items, context.defs)) ? fileField(context, true) : listField(schema, context);
  }
  if (schema.type === "object" && schema.properties) {
    return required ? objectField(schema, context) : optionalField(schema, context);
  }
  return jsonField(schema, context);
}

function defaultText(schema) {
  return schema.default === undefined ? "" : `default: ${JSON.stringify(schema.default)}`;
}

function choiceField(choices, schema, required, { id }) {
  const options = choices.map((each, index) => element("option", { value: index }, typeof each === "string" ? each : JSON.stringify(each)));
  const none = required ? [] : [element("option", { value: "" }, defaultText(schema) || "not set")];
  const input = element("select", { id }, none, options);
  const set = (value) => {
    const index = choices.findIndex((each) => each === value);
    input.value = index >= 0 ? String(index) : required ? "0" : "";
  };
  return { root: input, input, set, get: () => (input.value === "" ? undefined : choices[Number(input.value)]) };
}

function textField(schema, required, { id }) {
  const isLong = !schema.format && !schema.pattern && !(schema.maxLength < 100);
  const attributes = { id, placeholder: defaultText(schema), spellcheck: "false" };
  const input = isLong ? element("textarea", { ...attributes, rows: 1 }) : element("input", attributes);
  const get = () => (input.value === "" && !required ? undefined : input.value);
  return { root: input, input, get, set: (value) => (input.value = typeof value === "string" ? value : "") };
}

function numberField(schema, required, { id }) {
  const step = schema.type === "integer" ? 1 : "any";
  const input = element("input", { id, type: "number", step, min: schema.minimum, max: schema.maximum, placeholder: defaultText(schema) });
  const get = () => (input.value === "" ? undefined : Number(input.value));
  return { root: input, input, get, set: (value) => (input.value = typeof value === "number" ? String(value) : "") };
}

function fileField({ id }, multiple) {
  const input = element("input", { id, type: "file", multiple });
  return { root: input, input, get: () => undefined, set: () => {}, files: () => [...input.files] };
}

function jsonField(schema, { id }) {
  const input = element("textarea", { id, class: "code", rows: 2, spellcheck: "false", placeholder: defaultText(schema) || "JSON" });
  const get = () => {
    input.setCustomValidity("");
    if (input.value.trim() === "") return undefined;
    try {
      return JSON.parse(input.value);
    } catch (error) {
      input.setCustomValidity(`not JSON: ${error.message}`);
      return undefined;
    }
  };
  const set = (value) => (input.value = value === undefined ? "" : JSON.stringify(value));
  return { root: input, input, get, set };
}

function objectField(schema, context) {
  const required = new Set(schema.required ?? []);
  const fields = Object.entries(schema.properties ?? {}).map(([name, each]) => [name, field(name, each, required.has(name), context)]);
  const root = element("div", { class: "object", role: "group" }, fields.map(([, each]) => each.root));
  const get = () => Object.fromEntries(fields.map(([name, each]) => [name, each.get()]).filter(([, value]) => value !== undefined));
  const set = (value) => fields.forEach(([name, each]) => each.set(value?.[name]));
  const files = () => fields.flatMap(([name, each]) => (each.files?.() ?? []).map((file) => [name, file]));
  return { root, get, set, files };
}

// An object that may be left out; its fields are made when they are wanted, for schemas may have cycles.
function optionalField(schema, context) {
  const root = element("div", { role: "group" });
  let inner = null;
  const button = element("button", { type: "button", class: "small" });

  function choose(isWanted) {
    inner = isWanted ? objectField(schema, context) : null;
    button.textContent = isWanted ? "Leave out" : "Fill in";
    root.replaceChildren(button, ...(inner ? [inner.root] : []));
  }

  button.addEventListener("click", () => {
    choose(inner === null);
    root.dispatchEvent(new Event("change", { bubbles: true }));
    button.focus();
  });
  choose(false);
  const set = (value) => {
    const isWanted = value !== null && typeof value === "object";
    if (isWanted !== (inner !== null)) choose(isWanted);
    inner?.set(value);
  };
  return { root, get: () => inner?.get(), set };
}

function listField(schema, context) {
  const list = element("ol", { class: "items" });
  const items = [];
  let isTouched = false;

  function add(value) {
    const made = fieldOf(resolved(schema.items, context.defs), true, { ...context, id: newId("item") });
    made.set(value);
    made.input?.setAttribute("aria-label", `${context.label} ${items.length + 1}`);
    const remove = element("button", { type: "button", class: "small", "aria-label": `Remove item ${items.length + 1}` }, "×");
    const item = element("li", {}, made.root, remove);
    remove.addEventListener("click", () => {
      items.splice(items.indexOf(made), 1);
      item.remove();
      list.dispatchEvent(new Event("change", { bubbles: true }));
    });
    items.push(made);
    list.append(item);
  }

  const button = element("button", { type: "button", class: "small" }, "Add an item");
  button.addEventListener("click", () => {
    isTouched = true;
    add(undefined);
    button.dispatchEvent(new Event("change", { bubbles: true }));
    list.lastElementChild.querySelector("input, textarea, select")?.focus();
  });
  const root = element("div", { role: "group" }, list, button);
  const get = () => (items.length || isTouched ? items.map((each) => each.get() ?? null) : undefined);
  const set = (value) => {
    items.length = 0;
    list.replaceChildren();
    isTouched = Array.isArray(value);
    if (isTouched) value.forEach(add);
  };
  return { root, get, set };
}
