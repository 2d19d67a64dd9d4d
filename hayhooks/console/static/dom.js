// Elements: made from the page's templates, or by name, and filled with text or elements, never with HTML.

import * as formats from "./formats.js";

const partsOfRows = new WeakMap();

// A copy of the template *id*, at the end of *list*, as {root, and each element with a data-part by that name}.
export function partsOf(id, list = null) {
  const root = document.getElementById(id).content.cloneNode(true).firstElementChild;
  list?.append(root);
  const named = [...root.querySelectorAll("[data-part]")].map((each) => [each.dataset.part, each]);
  return { ...Object.fromEntries(named), root };
}

// Put *contents* into the *parts* of the same names: text, a value for their formats, elements, or nothing, which hides
// the part. A text that is there already is left alone, so that it stays selected.
export function fill(parts, contents) {
  for (const [name, value] of Object.entries(contents).filter(([each]) => parts[each])) {
    const part = parts[name];
    const format = formats[part.dataset.format] ?? ((each) => each);
    const pieces = [format(value)].flat().filter((each) => each || each === 0);
    part.hidden = pieces.length === 0;
    if (part.localName === "time") part.dateTime = new Date(value * 1000).toISOString();
    if (pieces[0] instanceof Node) part.replaceChildren(...pieces);
    else if (part.textContent !== pieces.join("")) part.textContent = pieces.join("");
  }
  return parts;
}

export const filled = (id, contents) => fill(partsOf(id), contents).root;

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made[name] = value;
    else if (value !== false && value !== undefined) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter(Boolean));
  return made;
}

// Show a row for each of *items* in *list*, in their order; *update* fills its parts. A row is made once for each *key*
// from *template*, and moved only if its place is another.
export function showRows(list, items, key, template, update) {
  const known = new Map([...list.children].map((row) => [row.dataset.key, partsOfRows.get(row)]));
  items.forEach((item, index) => {
    const parts = known.get(String(item[key])) ?? partsOf(template);
    parts.root.dataset.key = item[key];
    known.delete(parts.root.dataset.key);
    partsOfRows.set(parts.root, parts);
    if (list.children[index] !== parts.root) list.insertBefore(parts.root, list.children[index] ?? null);
    update(parts, item);
  });
  known.forEach(({ root }) => root.remove());
}
