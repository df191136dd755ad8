/** One model: what it is, why it is so, what can be done to it. */

import { allows, control } from "./access.js";
import { get, pathOf } from "./api.js";
import { callCard } from "./call.js";
import { sparkline } from "./charts.js";
import { noDirectory, openDeploy } from "./deploy.js";
import { h, say, set, showing } from "./dom.js";
import { callsNow, facts, methods, processes, settings, story } from "./facts.js";
import { rate, size } from "./format.js";
import { loadAgain, openLoad, pin, reload, unload } from "./loading.js";
import { logCard } from "./log.js";
import { badge, serves } from "./states.js";

/** Return the view of a model: its `node`, `update`, and `close`, which ends what it follows. */
export function modelView(store, id) {
  const heading = h("h2", { tabindex: "-1" }, id);
  const state = badge();
  const reason = h("p", { class: "why" });
  const warnings = h("div");
  const controls = controlsOf(store, id);
  const trends = trendsOf();
  const call = callCard(store, id);
  const log = logCard(store, id);
  const parts = partsOf();
  const gone = h(
    "section",
    { class: "card panel", hidden: true },
    h("p", null, `There is no model “${id}” now.`),
    h("p", { class: "buttons" }, h("button", { type: "button", onclick: () => openLoad(store, id) }, "Load it…")),
  );
  const body = h(
    "div",
    { class: "columns" },
    h("div", null, call.node, log.node, parts.story.node),
    h(
      "div",
      null,
      trends.node,
      parts.facts.node,
      parts.calls.node,
      parts.processes.node,
      parts.methods.node,
      parts.settings.node,
    ),
  );
  const node = h(
    "article",
    { class: "model" },
    h("p", { class: "back" }, h("a", { href: "#/" }, "← All models")),
    h("div", { class: "title" }, heading, state.node, h("div", { class: "buttons" }, controls.nodes)),
    reason,
    warnings,
    gone,
    body,
  );
  const showWarnings = showing(warnings, (all) => all.map((text) => h("p", { class: "notice degraded" }, text)));
  let lookedMs = null;
  const explained = async () => {
    const { value } = await get(pathOf(id, "explain"));
    parts.story.update(value.story);
    parts.settings.update(value.settings);
    parts.calls.update(value.calls);
    parts.facts.update({ model: value.model, eviction: value.eviction });
  };
  const update = () => {
    const model = store.models.get(id);
    set(gone, "hidden", Boolean(model) || store.host === null);
    set(body, "hidden", !model);
    set(state.node, "hidden", !model);
    controls.update(model);
    if (!model) return say(reason, "");
    state.update(model.state, Boolean(store.lost));
    say(reason, model.reason);
    showWarnings([
      ...model.warnings,
      ...(model.files === "changed" || model.files === "gone"
        ? [`Its files are ${model.files} since it was loaded; a reload loads them as they are.`]
        : []),
    ]);
    parts.processes.update(model.workers);
    parts.methods.update(model.methods);
    trends.update(model, store);
    call.update(model);
    log.update(model);
    if (lookedMs !== store.lookedMs) {
      lookedMs = store.lookedMs;
      explained().catch(() => {});
    }
  };
  return { node, heading, update, close: () => (log.close(), call.close()) };
}

function partsOf() {
  return {
    facts: part("Record", facts),
    calls: part("Calls in progress", callsNow),
    processes: part("Processes", processes),
    methods: part("Methods", methods),
    settings: part("Settings in force", settings),
    story: part("What happened", story),
  };
}

function part(title, draw) {
  const content = h("div", { class: "scroll", role: "group", "aria-label": title });
  // What does not fit is scrolled, by keys too; what fits is no stop on the way of whoever uses them.
  const fit = () => set(content, "tabindex", content.scrollWidth > content.clientWidth ? 0 : null);
  new ResizeObserver(fit).observe(content);
  const node = h("section", { class: "card", "aria-label": title }, h("h3", null, title), content);
  const show = showing(content, draw);
  const update = (value) => {
    set(node, "hidden", Array.isArray(value) ? !value.length : !Object.keys(value).length);
    show(value);
    fit();
  };
  return { node, update };
}

function controlsOf(store, id) {
  const model = () => store.models.get(id);
  const when = (isSo, text) => ({ problem: () => (model() && isSo(model()) ? "" : text) });
  const isHeld = (it) => it.generation > 0;
  const all = {
    load: control(store, "load", "Load", () => loadAgain(model()), {
      kind: "main",
      ...when((it) => !isHeld(it) && it.path, "It has no path that it can be loaded from."),
    }),
    unload: control(store, "load", "Unload…", () => unload(model()), when(isHeld, "It is not loaded.")),
    reload: control(store, "load", "Reload…", () => reload(model()), when(serves, "It is not loaded.")),
    pin: control(store, "load", "Pin", () => pin(model()), when(serves, "It is not loaded.")),
    deploy: control(store, "deploy", "Deploy files…", () => openDeploy(store, [], id), {
      problem: () => noDirectory(store),
    }),
  };
  const hint = h("p", { class: "hint" });
  const update = (now) => {
    for (const one of Object.values(all)) one.update();
    set(all.load.node, "hidden", !now || isHeld(now));
    for (const name of ["unload", "reload", "pin"]) set(all[name].node, "hidden", !now || !isHeld(now));
    set(all.deploy.node, "hidden", !now);
    say(all.pin.node, now?.pinned ? "Unpin" : "Pin");
    set(hint, "hidden", allows(store.role, "deploy"));
    say(
      hint,
      `Your role is ${store.role}; ${allows(store.role, "load") ? "a deploy needs deploy" : "these need load and deploy"}.`,
    );
  };
  return { nodes: [...Object.values(all).map((one) => one.node), hint], update };
}

function trendsOf() {
  const calls = sparkline("calls");
  const held = sparkline("held");
  const now = h("strong");
  const bytes = h("strong");
  const node = h(
    "section",
    { class: "card trends", "aria-label": "The last two minutes of this model" },
    h("div", null, h("h3", null, "Calls a second ", now), calls.node),
    h("div", null, h("h3", null, "Memory ", bytes), held.node),
  );
  const update = (model, store) => {
    const past = store.pastOf(model.id);
    say(now, rate(store.rateOf(model.id)));
    say(bytes, model.charge_bytes ? size(model.charge_bytes) : "–");
    calls.draw(past.rates, `Calls a second in the last minutes: at most ${rate(Math.max(0, ...past.rates))}`);
    held.draw(past.bytes, `Memory in the last minutes: at most ${size(Math.max(0, ...past.bytes))}`);
  };
  return { node, update };
}
