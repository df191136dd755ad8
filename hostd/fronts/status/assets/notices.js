/** Banners above the models: a connection that is lost, a host that has started again, what the host says is wrong. */

import { h, showing } from "./dom.js";
import { instant } from "./format.js";

/** Put the notices into their node; return what draws them anew. `again` is called for a try at once. */
export function notices(node, store, again) {
  const dismiss = () => {
    store.restartedMs = null;
    store.changed();
  };
  const show = showing(node, (found) =>
    found.map(([kind, title, text]) =>
      h(
        "section",
        { class: `notice ${kind}`, role: kind === "lost" ? "alert" : "status" },
        h("div", null, h("h2", null, title), h("p", null, text)),
        kind === "lost" && h("button", { type: "button", onclick: again }, "Try now"),
        kind === "restarted" && h("button", { type: "button", onclick: dismiss }, "Understood"),
      ),
    ),
  );
  return () => {
    document.body.classList.toggle("stale", Boolean(store.lost));
    show(found(store));
  };
}

function found(store) {
  const all = [];
  if (store.lost) all.push(["lost", "The host is not reachable", lostText(store)]);
  if (store.restartedMs)
    all.push([
      "restarted",
      "The host has started again",
      `Noticed at ${instant(store.restartedMs / 1000)}. Its counts and figures begin anew.`,
    ]);
  if (store.lost || !store.host) return all;
  for (const reason of store.host.degraded) all.push(["degraded", "Degraded", reason]);
  const { over_budget: over, paused, waiting } = store.memory;
  if (over) all.push(["degraded", "Over the budget", over]);
  if (paused.length) all.push(["degraded", "Loads are paused until there is room", paused.join(", ")]);
  if (waiting.length) all.push(["waiting", "Loads wait for memory", waiting.join(", ")]);
  return all;
}

function lostText(store) {
  const since = store.lookedMs ? ` What is shown below was so at ${instant(store.lookedMs / 1000)}.` : "";
  return `${store.lost[0].toUpperCase()}${store.lost.slice(1)}.${since} This page keeps trying.`;
}
