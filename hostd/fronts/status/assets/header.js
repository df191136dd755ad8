/** The top of the page: the host, its memory against the budget, and notices of what is not as it should be. */

import { openAccess } from "./access.js";
import { bar, sparkline } from "./charts.js";
import { h, say, set, showing } from "./dom.js";
import { age, counted, instant, rate, size } from "./format.js";
import { badge } from "./states.js";

const PARTS = [
  ["measured", "measured_bytes", "what models hold"],
  ["reserved", "reserved_bytes", "set aside for loads"],
  ["templates", "templates_bytes", "what templates hold"],
];

/** Put the header into its node; return what draws it anew. */
export function header(node, store, entered) {
  const name = h("h1", null, "hostd");
  const state = badge();
  const facts = h("p", { class: "facts" });
  const access = h("button", { type: "button", class: "quiet", onclick: () => openAccess(store, entered) });
  const memory = memoryCard();
  const calls = callsCard();
  const cards = h("div", { class: "cards", hidden: true }, memory.node, calls.node);
  node.append(h("div", { class: "top" }, h("div", { class: "name" }, name, state.node), facts, access), cards);
  const showFacts = showing(facts, (all) => all.map((fact) => h("span", null, fact)));
  return () => {
    say(access, `Access: ${store.role ?? "none"}`);
    set(state.node, "hidden", store.host === null);
    set(cards, "hidden", store.memory === null);
    say(name, nameOf(store.host));
    document.title = `${store.lost ? "(not reachable) " : ""}${nameOf(store.host)} – status`;
    showFacts(store.host ? factsOf(store) : []);
    if (!store.host) return;
    state.update(store.host.state, Boolean(store.lost));
    memory.update(store);
    calls.update(store);
  };
}

function nameOf(host) {
  return host?.name || "hostd";
}

function factsOf({ host, nowS, lost }) {
  return [
    `hostd ${host.version}`,
    lost ? `started ${instant(host.started_s)}` : `up ${age(nowS - host.started_s)}`,
    `${counted(host.models, "model")} loaded`,
    counted(host.workers, "process").replace("processs", "processes"),
    `pid ${host.pid}, ${size(host.rss_bytes)}`,
  ];
}

function memoryCard() {
  const title = h("strong");
  const drawn = bar(...PARTS.map(([kind]) => kind));
  const legend = h("ul", { class: "legend" });
  const source = h("p", { class: "hint" });
  const node = h(
    "section",
    { class: "card", "aria-label": "Memory" },
    h("h2", null, "Memory ", title),
    drawn.node,
    legend,
    source,
  );
  const showLegend = showing(legend, (items) => items.map(([kind, text]) => h("li", { class: kind }, text)));
  const update = ({ memory }) => {
    const budget = memory.budget_bytes;
    const used = PARTS.reduce((sum, [, key]) => sum + memory[key], 0);
    const whole = budget ?? used;
    const shares = Object.fromEntries(PARTS.map(([kind, key]) => [kind, whole ? memory[key] / whole : 0]));
    say(title, budget === null ? `${size(used)}, no budget` : `${size(used)} of ${size(budget)}`);
    showLegend(legendOf(memory));
    drawn.draw(
      shares,
      `Memory: ${legendOf(memory)
        .map(([, text]) => text)
        .join(", ")}`,
    );
    say(source, budget === null ? "" : `The budget: ${memory.budget_source}. ${historyOf(memory)}`);
    node.classList.toggle("over", memory.over_budget !== null);
  };
  return { node, update };
}

function legendOf(memory) {
  const parts = PARTS.map(([kind, key]) => [kind, `${kind} ${size(memory[key])}`]);
  return memory.free_bytes === null ? parts : [...parts, ["free", `free ${size(memory.free_bytes)}`]];
}

function historyOf(memory) {
  const evictions = Object.values(memory.evictions).reduce((sum, count) => sum + count, 0);
  return `Since the start: ${counted(evictions, "eviction")}, ${counted(memory.unloads, "unload")} gave back ${size(memory.freed_bytes)}, ${counted(memory.refusals, "refusal")}.`;
}

function callsCard() {
  const now = h("strong");
  const chart = sparkline("calls");
  const held = sparkline("held");
  const used = h("strong");
  const peak = h("p", { class: "hint" });
  const most = h("p", { class: "hint" });
  const node = h(
    "section",
    { class: "card trends", "aria-label": "The last two minutes of all models" },
    h("div", null, h("h2", null, "Calls a second ", now), chart.node, peak),
    h("div", null, h("h2", null, "In use ", used), held.node, most),
  );
  const update = (store) => {
    const { rates, bytes } = store.pastOf();
    say(now, rate(store.totalRate));
    say(used, bytes.length ? size(bytes.at(-1)) : "–");
    say(peak, `peak ${rate(Math.max(0, ...rates))} in 2 min`);
    say(most, `peak ${size(Math.max(0, ...bytes))} in 2 min`);
    chart.draw(rates, `Calls a second in the last minutes: at most ${rate(Math.max(0, ...rates))}`);
    held.draw(bytes, `Memory in use in the last minutes: at most ${size(Math.max(0, ...bytes))}`);
  };
  return { node, update };
}
