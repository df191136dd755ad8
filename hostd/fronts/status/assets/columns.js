/** The columns of the models: what each sorts by, and how its cell is drawn. */

import { bar, sparkline } from "./charts.js";
import { h, say, set } from "./dom.js";
import { age, latency, number, rate, size } from "./format.js";
import { badge, serves } from "./states.js";

/** The address of a model in this page. */
export const linkTo = (id) => `#/models/${encodeURIComponent(id)}`;

/** Calls that a model's workers have now. */
export const inFlight = (model) => model.workers.reduce((sum, worker) => sum + worker.in_flight, 0);

const idleS = (model, store) => (model.last_used_s === null ? null : store.nowS - model.last_used_s);
const figure = (text) => () => {
  const node = h("span", { class: "figure" });
  return { node, update: (model, store) => say(node, text(model, store)) };
};
const whileServing = (text) => (model, store) => (serves(model) && !store.lost ? text(model, store) : "–");

/** `by` is what a column sorts by, `cell` makes a cell with its `update`; figures sort from the largest. */
export const COLUMNS = [
  { key: "id", label: "Model", by: (model) => model.id.toLowerCase(), cell: nameCell },
  { key: "state", label: "State", by: (model) => model.state, cell: stateCell },
  { key: "memory", label: "Memory", isFigure: true, by: (model) => model.charge_bytes, cell: memoryCell },
  { key: "rate", label: "Calls/s", isFigure: true, by: (model, store) => store.rateOf(model.id), cell: rateCell },
  {
    key: "calls",
    label: "Calls",
    isFigure: true,
    by: (model) => model.calls,
    cell: figure((model) => (model.generation ? number(model.calls) : "–")),
  },
  { key: "errors", label: "Errors", isFigure: true, by: (model) => model.errors, cell: errorsCell },
  {
    key: "p50",
    label: "p50",
    isFigure: true,
    by: (model) => model.latency_p50_s,
    cell: figure((model) => latency(model.latency_p50_s)),
  },
  {
    key: "p99",
    label: "p99",
    isFigure: true,
    by: (model) => model.latency_p99_s,
    cell: figure((model) => latency(model.latency_p99_s)),
  },
  {
    key: "flight",
    label: "In flight",
    isFigure: true,
    by: inFlight,
    cell: figure(whileServing((model) => number(inFlight(model)))),
  },
  {
    key: "idle",
    label: "Idle",
    isFigure: true,
    by: idleS,
    cell: figure(whileServing((model, store) => age(idleS(model, store)))),
  },
  {
    key: "pinned",
    label: "Pinned",
    isFigure: true,
    by: (model) => Number(model.pinned),
    cell: figure((model) => (model.pinned ? "pinned" : "–")),
  },
];

function nameCell() {
  const link = h("a");
  const reason = h("span", { class: "reason" });
  const update = (model) => {
    set(link, "href", linkTo(model.id));
    say(link, model.id);
    say(reason, model.state === "READY" || !model.generation ? "" : model.reason);
  };
  return { node: [link, reason], update };
}

function stateCell() {
  const made = badge();
  return { node: made.node, update: (model, store) => made.update(model.state, Boolean(store.lost)) };
}

function memoryCell() {
  const text = h("span", { class: "figure" });
  const drawn = bar("measured", "reserved");
  const update = (model, { memory, models }) => {
    const whole = memory.budget_bytes ?? Math.max(1, ...[...models.values()].map((other) => other.charge_bytes));
    const measured = model.charge_bytes - model.reserved_bytes;
    say(text, model.charge_bytes ? size(model.charge_bytes) : "–");
    set(drawn.node, "hidden", !model.charge_bytes);
    drawn.draw({ measured: measured / whole, reserved: model.reserved_bytes / whole }, "");
  };
  return { node: h("div", { class: "memory" }, text, drawn.node), update };
}

function rateCell() {
  const text = h("span", { class: "figure" });
  const chart = sparkline("calls");
  const update = (model, store) => {
    const { rates } = store.pastOf(model.id);
    const isQuiet = !rates.some((value) => value > 0);
    say(text, serves(model) ? rate(store.rateOf(model.id)) : "–");
    chart.draw(isQuiet ? [] : rates, "");
  };
  return { node: h("div", { class: "rate" }, chart.node, text), update };
}

function errorsCell() {
  const text = h("span", { class: "figure" });
  const update = (model) => {
    say(text, model.generation ? number(model.errors) : "–");
    text.classList.toggle("some", model.errors > 0);
  };
  return { node: text, update };
}
