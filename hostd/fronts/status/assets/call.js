/** The form that calls a method of a model, and what comes of it: a result, items of a stream, or an error. */

import { control } from "./access.js";
import { get, pathOf, sendBody, streamed } from "./api.js";
import { bodyWithArrays } from "./arrays.js";
import { trouble } from "./dialogs.js";
import { fill, h, newId, set, showing } from "./dom.js";
import { latency, pretty } from "./format.js";
import { fieldsOf } from "./inputs.js";
import { tracebackOf } from "./loading.js";

const MOST_SHOWN = 100_000;

// JavaScript's numbers lose the digits of longer ones.
const LONG_NUMBER = /[\d.]{16,}/;

/** Return the card: its `node`, `update` with the model's record, and `close`, which ends a call. */
export function callCard(store, id) {
  const choiceId = newId("method");
  const choice = h("select", { id: choiceId, onchange: () => showFields() });
  const place = h("div", { class: "fields" });
  const about = h("p", { class: "hint" });
  const wrong = trouble();
  const output = h("div", { class: "output", role: "status" });
  const call = control(store, "call", "Call", () => begin(), { kind: "main" });
  const stop = h("button", { type: "button", hidden: true, onclick: () => running?.abort() }, "Stop");
  const form = h(
    "form",
    { onsubmit: (event) => (event.preventDefault(), call.node.click()), novalidate: true },
    h("div", { class: "field" }, h("label", { for: choiceId }, "Method"), choice),
    about,
    place,
    wrong.node,
    h("p", { class: "buttons" }, stop, call.node),
  );
  const node = h(
    "section",
    { class: "card call", "aria-label": "Call a method" },
    h("h3", null, "Call a method"),
    form,
    output,
  );
  let model = null;
  let examples = {};
  let fields = null;
  let running = null;
  const showMethods = showing(choice, (names) => names.map((name) => h("option", { value: name }, name)));
  const showFields = () => {
    const method = model.methods[choice.value];
    fields = fieldsOf(method, examples[method.name]);
    fill(about, h("code", null, `${method.name}${method.signature}`), method.doc && ` ${method.doc}`);
    fill(place, ...fields.nodes);
    wrong.say();
  };
  const learn = async () => {
    examples = await get(pathOf(id, "examples")).then(
      ({ value }) => value,
      () => ({}),
    );
    showMethods(namesOf(model));
    if (model.default_method) choice.value = model.default_method;
    showFields();
    set(node, "hidden", false);
  };
  const begin = async () => {
    wrong.say();
    for (const input of form.querySelectorAll("[aria-invalid]")) set(input, "aria-invalid", null);
    let given;
    try {
      given = fields.arguments();
    } catch (error) {
      wrong.say(error.message);
      set(error.input, "aria-invalid", "true");
      error.input?.focus();
      return;
    }
    running = new AbortController();
    setBusy(true);
    await run(output, id, model.methods[choice.value], given, examples[choice.value]?.is_of_arrays, running.signal);
    setBusy(false);
  };
  const setBusy = (isBusy) => {
    set(stop, "hidden", !isBusy);
    set(call.node, "disabled", isBusy);
  };
  let known = "";
  const update = (record) => {
    model = record;
    call.update();
    const names = namesOf(record);
    // Without its fields there is nothing to call with yet.
    set(node, "hidden", !names.length || fields === null);
    const text = JSON.stringify([record.methods, record.default_method]);
    if (text === known || !names.length) return;
    known = text;
    learn();
  };
  return { node, update, close: () => running?.abort() };
}

function namesOf(model) {
  return Object.keys(model.methods).sort();
}

async function run(output, id, method, given, isOfArrays, signal) {
  const began = performance.now();
  const took = () => latency((performance.now() - began) / 1000);
  fill(output, h("p", { class: "hint" }, "Calling…"));
  try {
    const response = await ask(id, method, given, isOfArrays, signal);
    if (method.streams) await showItems(output, response, took);
    else showResult(output, await response.text(), took());
  } catch (error) {
    if (error.name === "AbortError") output.append(h("p", { class: "outcome" }, `Stopped after ${took()}.`));
    else showError(output, error, took());
  }
}

function ask(id, method, given, isOfArrays, signal) {
  const path = pathOf(id, `call/${encodeURIComponent(method.name)}${method.streams ? "?stream=true" : ""}`);
  const form = { Accept: method.streams ? "text/event-stream" : "application/json" };
  const arrays = isOfArrays && given.tensors ? bodyWithArrays(given) : null;
  return arrays
    ? sendBody(path, arrays, "application/msgpack", form, signal)
    : sendBody(path, `{"args": ${given.args.text}, "kwargs": ${given.kwargs.text}}`, "application/json", form, signal);
}

function showResult(output, text, took) {
  const shown = LONG_NUMBER.test(text) || text.length > MOST_SHOWN ? text : pretty(JSON.parse(text).result);
  fill(output, h("p", { class: "outcome good" }, `Returned after ${took}`), block(shown));
}

async function showItems(output, response, took) {
  const items = block("");
  const outcome = h("p", { class: "outcome" }, "Items as they come:");
  fill(output, outcome, items);
  let count = 0;
  for await (const { name, data } of streamed(response)) {
    if (name !== "item") break;
    count += 1;
    if (items.textContent.length < MOST_SHOWN) items.append(`${pretty(data)}\n`);
    items.scrollTop = items.scrollHeight;
  }
  fill(outcome, `Ended after ${count} items and ${took()}`);
  set(outcome, "class", "outcome good");
}

function showError(output, error, took) {
  const kept = output.querySelector("pre");
  fill(
    output,
    kept,
    h("p", { class: "outcome bad" }, `Failed after ${took}: `, h("strong", null, error.kind || "Error")),
    h("p", { class: "message" }, error.message),
    tracebackOf(error, true),
  );
}

function block(text) {
  const isLong = text.length > MOST_SHOWN;
  return h(
    "pre",
    { tabindex: "0", "aria-label": "Result" },
    isLong ? `${text.slice(0, MOST_SHOWN)}\n… and ${text.length - MOST_SHOWN} more characters` : text,
  );
}
