/** Small drawings: lines of the last minutes, and bars of memory. Each says in words what it shows, or stands by a figure. */

import { h, set, svg } from "./dom.js";

const WIDTH = 100;
const HEIGHT = 28;

// What moves by less than a share of itself is drawn flat, not as noise over the whole height.
const LEAST_SHARE = 0.1;

/** Return a line chart whose `draw` takes the values and what they are in words. */
export function sparkline(kind) {
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const node = svg(
    "svg",
    { class: `spark ${kind}`, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
    area,
    line,
  );
  const draw = (values, label) => {
    const points = pointsOf(values);
    const path = points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
    set(line, "d", path);
    set(area, "d", path && `${path}L${points.at(-1)[0].toFixed(1)} ${HEIGHT}L${points[0][0].toFixed(1)} ${HEIGHT}Z`);
    set(node, "aria-label", label);
    set(node, "aria-hidden", label ? null : "true");
  };
  return { node, draw };
}

function pointsOf(values) {
  if (values.length < 2) return [];
  const most = Math.max(...values);
  const least = Math.min(0, ...values);
  const span = Math.max(most - least, most * LEAST_SHARE) || 1;
  const step = WIDTH / (values.length - 1);
  return values.map((value, at) => [at * step, HEIGHT - 2 - ((value - least) / span) * (HEIGHT - 4)]);
}

/** Return a bar whose `draw` takes the share of each part, by the name of its class, and what it shows in words. */
export function bar(...kinds) {
  const parts = new Map(kinds.map((kind) => [kind, h("span", { class: kind })]));
  const node = h("div", { class: "bar", role: "img" }, ...parts.values());
  const draw = (shares, label) => {
    for (const [kind, part] of parts)
      part.style.width = `${(100 * Math.min(1, Math.max(0, shares[kind] ?? 0))).toFixed(2)}%`;
    set(node, "aria-label", label);
    set(node, "aria-hidden", label ? null : "true");
  };
  return { node, draw };
}
