// Charts: small bars of requests and errors, and a line of one number.

import { svg } from "./dom.js";

const SHOWN = 36; // steps

export function chart(numbers) {
  const requests = (numbers?.requests ?? []).slice(-SHOWN);
  const errors = (numbers?.errors ?? []).slice(-SHOWN);
  const most = Math.max(1, ...requests.map(Number));
  const image = svg("svg", { class: "chart", viewBox: `0 0 ${SHOWN * 4} 28`, role: "img", preserveAspectRatio: "none" });
  const sum = requests.reduce((total, count) => total + (count ?? 0), 0);
  image.setAttribute("aria-label", `${sum} requests in the last 3 minutes`);
  image.append(svg("line", { x1: 0, x2: SHOWN * 4, y1: 27.5, y2: 27.5 }));
  requests.forEach((count, step) => {
    for (const [value, kind] of [[count, "all"], [errors[step], "error"]]) {
      if (!value) continue;
      const height = Math.max(2, (value / most) * 26);
      image.append(svg("rect", { class: kind, x: step * 4 + 0.5, y: 27 - height, width: 3, height }));
    }
  });
  return image;
}

// A line of *series*, whose unknown values are gaps; the highest value stands beside it.
export function lines(title, series, format) {
  const most = Math.max(...series.map(Number), 0);
  const image = svg("svg", { class: "chart", viewBox: `0 0 ${series.length - 1} 40`, role: "img", preserveAspectRatio: "none" });
  image.setAttribute("aria-label", `${title}: at most ${format(most)}`);
  const point = (value, step) => `${step} ${(39 - (value / (most || 1)) * 37).toFixed(1)}`;
  const path = series.map((value, step) => value === null ? "" : `${step && series[step - 1] !== null ? "L" : "M"}${point(value, step)}`);
  image.append(svg("line", { x1: 0, x2: series.length - 1, y1: 39.5, y2: 39.5 }), svg("path", { d: path.join("") }));
  return image;
}

export function rate(numbers, step) {
  const last = (numbers?.requests ?? []).slice(-12).filter((count) => count !== null);
  return last.length ? last.reduce((sum, count) => sum + count, 0) / (last.length * step) : 0;
}

// The last value that is known.
export function latest(series) {
  return (series ?? []).findLast((value) => value !== null) ?? null;
}

export function total(series) {
  return (series ?? []).reduce((sum, value) => sum + (value ?? 0), 0);
}
