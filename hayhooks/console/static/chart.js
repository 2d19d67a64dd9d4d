// Charts: small bars of requests and errors, and a line of one number.

import { fill, partsOf } from "./dom.js";

const SHOWN = 36; // bars

// The *numbers* of a pipeline in the last minutes, as bars.
export function bars(numbers) {
  const [requests, errors] = [numbers?.requests, numbers?.errors].map((series) => (series ?? []).slice(-SHOWN));
  const most = Math.max(1, ...requests);
  const bar = (count, step) => (count ? `M${step * 4 + 2} 27v${-Math.max(2, (count / most) * 26)}` : "");
  const { root, all, errors: failed } = partsOf("bars");
  all.setAttribute("d", requests.map(bar).join(""));
  failed.setAttribute("d", errors.map(bar).join(""));
  root.setAttribute("aria-label", `${total(requests)} requests in the last 3 minutes`);
  return root;
}

// A line of *series*, whose unknown values are gaps, with its title and the last value that is known.
export function figure(title, series, format) {
  const last = latest(series);
  const most = Math.max(...series, 0);
  const { root, chart, line } = fill(partsOf("figure"), { title, last: last === null ? "–" : format(last) });
  const points = series.map((value, step) => {
    const move = step && series[step - 1] !== null ? "L" : "M";
    return value === null ? "" : `${move}${(step * 100) / (series.length - 1)} ${27 - (value / (most || 1)) * 26}`;
  });
  line.setAttribute("d", points.join(""));
  chart.setAttribute("aria-label", `${title}: at most ${format(most)}`);
  return root;
}

// The last value that is known.
export const latest = (series) => (series ?? []).findLast((value) => value !== null) ?? null;
export const total = (series) => (series ?? []).reduce((sum, value) => sum + value, 0);

// Requests a second in the last minute.
export function rate(numbers, step) {
  const last = (numbers?.requests ?? []).slice(-12).filter((count) => count !== null);
  return `${(total(last) / (last.length * step || 1)).toFixed(1)} /s`;
}
