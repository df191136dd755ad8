/** The states of a model: a colour, a sign and the word itself, so that none of them is needed to tell it. */

import { h, say, set } from "./dom.js";

const KINDS = {
  READY: ["good", "●"],
  DEGRADED: ["warn", "◐"],
  LOADING: ["busy", "◔"],
  UNLOADING: ["busy", "◕"],
  STARTING: ["busy", "◔"],
  STOPPING: ["busy", "◕"],
  FAILED: ["bad", "✕"],
  QUARANTINED: ["bad", "✕"],
  DEAD: ["off", "✕"],
  EVICTED: ["off", "○"],
  AVAILABLE: ["off", "○"],
};

/** Return a badge; its `update` takes a state, and whether that is only the last that is known. */
export function badge() {
  const sign = h("span", { class: "sign", "aria-hidden": "true" });
  const word = h("span");
  const node = h("span", { class: "badge" }, sign, word);
  const update = (state, isPast = false) => {
    const [kind, shape] = KINDS[state] ?? ["off", "·"];
    set(node, "class", `badge ${isPast ? "off" : kind}`);
    say(sign, isPast ? "?" : shape);
    say(word, isPast ? `was ${state.toLowerCase()}` : state.toLowerCase());
  };
  return { node, update };
}

/** Return a badge of a state that does not change any more. */
export function badgeOf(state) {
  const made = badge();
  made.update(state);
  return made.node;
}

/** Whether a model answers calls. */
export const serves = (model) => model.state === "READY" || model.state === "DEGRADED";
