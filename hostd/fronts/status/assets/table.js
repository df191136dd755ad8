/** The list of models: a table that is sorted and filtered, cards on a phone. */

import { control } from "./access.js";
import { noDirectory, openDeploy } from "./deploy.js";
import { openLoad } from "./loading.js";
import { COLUMNS, linkTo } from "./columns.js";
import { arrange, h, say, set } from "./dom.js";
import { counted, labelled } from "./format.js";

const choice = { key: "id", isReversed: false, filter: "" };
let latest = null;

/** Return the view of all models: its `node`, and `update`. */
export function listView(store) {
  const heads = COLUMNS.map((column) => headOf(column, () => sortBy(column.key)));
  const body = h("tbody", { role: "rowgroup" });
  const count = h("p", { class: "count", role: "status" });
  const nothing = h("p", { class: "nothing" });
  const order = h(
    "select",
    { onchange: () => sortBy(order.value, false), "aria-label": "Sort by" },
    COLUMNS.map((column) => h("option", { value: column.key }, `Sort by ${column.label.toLowerCase()}`)),
  );
  const filter = h("input", {
    type: "search",
    placeholder: "Filter by id, state, loader, label",
    "aria-label": "Filter the models",
    value: choice.filter,
    oninput: () => ((choice.filter = filter.value), update()),
  });
  const load = control(store, "load", "Load…", () => openLoad(store), { kind: "main" });
  const deploy = control(store, "deploy", "Deploy…", () => openDeploy(store), { problem: () => noDirectory(store) });
  const rows = new Map();
  const sortBy = (key, mayTurn = true) => {
    choice.isReversed = mayTurn && choice.key === key && !choice.isReversed;
    choice.key = key;
    update();
  };
  const update = () => {
    const shown = chosen(store);
    for (const id of [...rows.keys()]) if (!store.models.has(id)) rows.delete(id);
    arrange(
      body,
      shown.map((model) => rowOf(rows, model, store)),
    );
    for (const head of heads) head.update();
    order.value = choice.key;
    say(
      count,
      shown.length === store.models.size
        ? counted(shown.length, "model")
        : `${shown.length} of ${counted(store.models.size, "model")}`,
    );
    say(
      nothing,
      shown.length
        ? ""
        : store.models.size
          ? `No model matches “${choice.filter}”.`
          : "No models yet. Load one, or drop a model’s folder on this page.",
    );
    load.update();
    deploy.update();
  };
  const table = h(
    "table",
    { role: "table", "aria-label": "Models" },
    h(
      "thead",
      { role: "rowgroup" },
      h(
        "tr",
        { role: "row" },
        heads.map((head) => head.node),
      ),
    ),
    body,
  );
  const tools = h(
    "div",
    { class: "tools" },
    h("h2", null, "Models"),
    count,
    h("div", { class: "order" }, order),
    filter,
    load.node,
    deploy.node,
  );
  latest = filter;
  return { node: h("section", { class: "list" }, tools, h("div", { class: "card scroll" }, table, nothing)), update };
}

/** Put the focus into the filter. */
export function focusFilter() {
  latest?.focus();
}

function chosen(store) {
  const text = choice.filter.trim().toLowerCase();
  const { by, isFigure } = COLUMNS.find((column) => column.key === choice.key);
  const shown = [...store.models.values()].filter((model) =>
    `${model.id}\n${model.state}\n${model.loader ?? ""}\n${labelled(model.labels)}`.toLowerCase().includes(text),
  );
  const turn = Boolean(isFigure) === choice.isReversed ? 1 : -1;
  return shown
    .map((model) => [by(model, store), model])
    .sort((one, other) => compare(one, other, turn))
    .map(([, model]) => model);
}

// What is not known comes last, whichever way it is sorted; equal ones by id, so that rows do not jump.
function compare([one, model], [other, otherModel], turn) {
  const isOneKnown = one !== null;
  const isOtherKnown = other !== null;
  if (isOneKnown !== isOtherKnown) return isOneKnown ? -1 : 1;
  if (one !== other && isOneKnown) return one < other ? -turn : turn;
  return model.id < otherModel.id ? -1 : 1;
}

function headOf(column, sort) {
  const arrow = h("span", { class: "arrow", "aria-hidden": "true" });
  const button = h(
    "button",
    { type: "button", onclick: sort },
    column.isFigure ? [arrow, column.label] : [column.label, arrow],
  );
  const node = h(
    "th",
    { role: "columnheader", scope: "col", class: `${column.key}${column.isFigure ? " right" : ""}` },
    button,
  );
  const update = () => {
    const isFirstDown = Boolean(column.isFigure) !== choice.isReversed;
    const isChosen = choice.key === column.key;
    set(node, "aria-sort", isChosen ? (isFirstDown ? "descending" : "ascending") : null);
    say(arrow, isChosen ? (isFirstDown ? "↓" : "↑") : "");
  };
  return { node, update };
}

function rowOf(rows, model, store) {
  const row = rows.get(model.id) ?? newRow(model.id);
  rows.set(model.id, row);
  row.update(model, store);
  return row.node;
}

function newRow(id) {
  const cells = COLUMNS.map((column) => ({ column, ...column.cell() }));
  const why = h("td", { role: "cell", class: "reason", colspan: COLUMNS.filter((column) => column.isFigure).length });
  const node = h(
    "tr",
    {
      role: "row",
      onclick: (event) => event.target.closest("a") || getSelection().toString() || (location.hash = linkTo(id)),
    },
    cells.map(({ column, node: content }) =>
      h(
        "td",
        { role: "cell", class: `${column.key}${column.isFigure ? " right" : ""}`, "data-label": column.label },
        content,
      ),
    ),
    why,
  );
  const update = (model, store) => {
    // A model without a process has no figures, but a reason; it gets their place.
    set(node, "class", model.generation ? null : "away");
    set(why, "hidden", model.generation > 0);
    say(why, model.reason);
    for (const cell of cells) cell.update(model, store);
  };
  return { node, update };
}
