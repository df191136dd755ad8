/** What is done to models that are there: load, unload, reload, pin. */

import { pathOf, post } from "./api.js";
import { confirm, field, openDialog, tell, tick, trouble } from "./dialogs.js";
import { h, set } from "./dom.js";
import { latency, size } from "./format.js";

/** Ask for a model to load. */
export function openLoad(store, id = "") {
  const inputs = {
    id: h("input", { name: "id", value: id, autocomplete: "off", spellcheck: "false" }),
    path: h("input", { name: "path", autocomplete: "off", spellcheck: "false", placeholder: "/models/name" }),
    options: h("textarea", { name: "options", rows: 3, spellcheck: "false", placeholder: '{"threads": 2}' }),
  };
  const wrong = trouble();
  const { close, form, node } = openDialog("Load a model", {
    body: [
      field("Id", inputs.id, "The name to call it by."),
      field("Path", inputs.path, "Where it is on the host’s machine, from / on."),
      field(
        "Options",
        inputs.options,
        "Of its loader, as a JSON map; they go over those of its model.yaml. May be empty.",
      ),
      wrong.node,
    ],
    buttons: (closing) => [
      h("button", { type: "button", onclick: closing }, "Cancel"),
      h("button", { type: "button", class: "check", onclick: () => attempt(check) }, "What would happen?"),
      h("button", { type: "submit", class: "main" }, "Load"),
    ],
    onsubmit: () => attempt(load),
  });
  const attempt = async (work) => {
    wrong.say();
    setBusy(form, true);
    try {
      await work(inputs.id.value.trim(), asked(inputs));
    } catch (error) {
      wrong.say(h("p", null, error.message), tracebackOf(error));
      if (!node.isConnected) tell(`${inputs.id.value}: ${error.message}`, { isError: true });
    }
    setBusy(form, false);
  };
  const load = async (name, body) => {
    const record = await post(pathOf(name, "load"), body);
    close();
    tell(
      record.already_loaded
        ? `${name} was loaded already.`
        : `${name} is loaded: ${size(record.charge_bytes)}, in ${latency(record.load_duration_s)}.`,
    );
  };
  const check = async (name, body) =>
    wrong.say(h("p", { class: "plan" }, planText(await post(pathOf(name, "plan"), body))));
}

function asked(inputs) {
  if (!inputs.id.value.trim()) throw new Error("The id is missing.");
  if (!inputs.path.value.trim()) throw new Error("The path is missing.");
  return { path: inputs.path.value.trim(), ...optionsOf(inputs.options.value) };
}

/** Return the options in a field as a parameter, none for an empty one. */
export function optionsOf(text) {
  if (!text.trim()) return {};
  let options;
  try {
    options = JSON.parse(text);
  } catch (error) {
    throw new Error(`The options are not JSON: ${error.message}`);
  }
  if (options === null || typeof options !== "object" || Array.isArray(options))
    throw new Error('The options must be a map, such as {"threads": 2}.');
  return { options };
}

function planText(plan) {
  const outcomes = {
    start: "It would start at once.",
    evict: `It would start after evicting ${plan.victims.map((victim) => victim.model_id).join(", ")}.`,
    wait: "It would wait for memory.",
    refuse: "It would be refused.",
  };
  return `${outcomes[plan.outcome] ?? plan.outcome} It needs ${size(plan.need_bytes)} (${plan.need_source}); ${size(plan.free_bytes)} are free. ${plan.reason}`;
}

function setBusy(form, isBusy) {
  set(form, "aria-busy", isBusy ? "true" : null);
  for (const button of form.querySelectorAll("button.main, button.check")) set(button, "disabled", isBusy);
}

/** Return the model's own traceback of an error, folded; null if there is none. */
export function tracebackOf(error, isOpen = false) {
  const text = error.details?.traceback;
  return text
    ? h("details", { open: isOpen }, h("summary", null, "Traceback"), h("pre", { tabindex: "0" }, text))
    : null;
}

/** Load a model that the host knows from where it is. */
export function loadAgain(model) {
  return done(`Loading ${model.id}…`, async () => {
    const record = await post(pathOf(model.id, "load"), { path: model.path, type: model.type });
    return `${model.id} is loaded, in ${latency(record.load_duration_s)}.`;
  });
}

/** Load a model anew, after a question. */
export async function reload(model) {
  const answer = await confirm(
    `Reload ${model.id}?`,
    "It is unloaded first, and loaded from where it was. What it holds in memory is lost; calls in flight are ended in peace, and new ones wait.",
    "Reload",
  );
  if (!answer) return;
  await done(`Reloading ${model.id}…`, async () => {
    const record = await post(pathOf(model.id, "load"), { reload: true });
    return `${model.id} is loaded anew, in ${latency(record.load_duration_s)}.`;
  });
}

/** Unload a model, after a question. */
export async function unload(model) {
  const answer = await confirm(
    `Unload ${model.id}?`,
    `What it holds in memory is lost, and ${size(model.charge_bytes)} are given back. Its files stay.`,
    "Unload",
    tick("now", "End calls in flight at once, with an error"),
  );
  if (!answer) return;
  const now = answer.elements.now.checked;
  await done(`Unloading ${model.id}…`, async () => {
    const report = await post(pathOf(model.id, "unload"), { now });
    return `${model.id} is unloaded: every process is gone, ${size(report.freed_bytes)} given back in ${latency(report.duration_s)}.`;
  });
}

/** Keep a model in memory, or let it be evicted again. */
export function pin(model) {
  return done(null, async () => {
    await post(pathOf(model.id, model.pinned ? "unpin" : "pin"));
    return model.pinned ? `${model.id} may be evicted again.` : `${model.id} is pinned: it is not evicted.`;
  });
}

async function done(begun, work) {
  if (begun) tell(begun);
  try {
    tell(await work());
  } catch (error) {
    tell(error.message, { isError: true });
  }
}
