// Elements and formats. Children are text or elements, never HTML.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  set(made, attributes);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(made, attributes);
  made.append(...children);
  return made;
}

function set(target, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) target.addEventListener(name.slice(2), value);
    else if (value === true) target.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) target.setAttribute(name, value);
  }
}

let lastId = 0;

export function newId(prefix) {
  return `${prefix}-${++lastId}`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 10) return `${value.toFixed(1)} ms`;
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(value < 10000 ? 2 : 1)} s`;
}

// A quantile is known to a bucket of the histogram.
export function estimated(value) {
  return value === null ? "–" : `≈ ${milliseconds(value)}`;
}

export function age(at) {
  const seconds = Math.max(0, Date.now() / 1000 - at);
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return seconds < 86400 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} d`;
}

export function bytes(size) {
  if (size < 1000) return `${size} B`;
  return size < 1e6 ? `${(size / 1000).toFixed(1)} kB` : `${(size / 1e6).toFixed(1)} MB`;
}

// The object that the JSON *text* is; an empty text is an empty object.
export function parsedObject(text) {
  const value = text.trim() === "" ? {} : JSON.parse(text);
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error("an object is needed");
  return value;
}

export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString();
}
