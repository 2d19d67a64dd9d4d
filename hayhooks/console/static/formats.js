// Numbers, times and JSON as text, and the other way round.

const AGES = [["d", 86400], ["h", 3600], ["min", 60], ["s", 0]]; // units and seconds

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 10) return `${value.toFixed(1)} ms`;
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(value < 10000 ? 2 : 1)} s`;
}

export const estimated = (value) => (value === null ? "–" : `≈ ${milliseconds(value)}`); // from buckets

export function age(at) {
  if (!at) return "–";
  const seconds = Math.max(0, Date.now() / 1000 - at);
  const [unit, size] = AGES.find(([, each]) => seconds >= each);
  return `${Math.floor(seconds / (size || 1))} ${unit}`;
}

export function bytes(size) {
  if (size < 1000) return `${size} B`;
  return size < 1e6 ? `${(size / 1000).toFixed(1)} kB` : `${(size / 1e6).toFixed(1)} MB`;
}

// The time *at*, with the date if that is not today's.
export function clock(at) {
  const time = new Date(at * 1000);
  const isToday = time.toDateString() === new Date().toDateString();
  return isToday ? time.toLocaleTimeString() : time.toLocaleString();
}

export const seconds = (text) => text && Date.parse(text) / 1000; // of a time in ISO 8601
export const joined = (...facts) => facts.filter(Boolean).join(" · ");

// What is said of a *text* of which only *most* characters are shown.
export function cutNote(text, most) {
  if (text.length <= most) return "";
  return `The first ${most.toLocaleString()} of ${text.length.toLocaleString()} characters. `;
}

// The object that the JSON in the element *input* is, {} if that is empty; null if it is not valid, as *problem* tells.
export function readObject(input, problem, what) {
  problem.textContent = "";
  try {
    const value = JSON.parse(input.value.trim() || "{}");
    if (value?.constructor === Object) return value;
    throw new Error("an object is needed");
  } catch (error) {
    problem.textContent = `${what} not valid: ${error.message}`;
    return null;
  }
}
