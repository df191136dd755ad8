/** The parts of a model's view that are lists and tables of facts. */

import { h } from "./dom.js";
import { age, counted, instant, labelled, latency, number, size, value } from "./format.js";
import { badgeOf } from "./states.js";

function table(label, heads, rows) {
  return h(
    "table",
    { class: "small", "aria-label": label },
    h(
      "thead",
      null,
      h(
        "tr",
        null,
        heads.map((head) => h("th", { scope: "col" }, head)),
      ),
    ),
    h(
      "tbody",
      null,
      rows.map((cells) =>
        h(
          "tr",
          null,
          cells.map((cell) => h("td", null, cell)),
        ),
      ),
    ),
  );
}

/** Return the record of a model as a list, and what an eviction would do. */
export function facts({ model, eviction }) {
  const known = [
    ["Path", model.path && h("code", null, model.path)],
    ["Type", model.type],
    ["Loader", model.loader],
    ["Labels", labelled(model.labels) || null],
    ["Generation", model.generation || null],
    [
      "Memory",
      model.generation
        ? `${size(model.charge_bytes)} of the budget, ${size(model.size)} resident (${model.size_source})`
        : null,
    ],
    ["Limit", model.memory_limit && size(model.memory_limit)],
    ["Calls", model.generation ? `${number(model.calls)}, ${counted(model.errors, "error")}` : null],
    [
      "Latency",
      model.latency_p50_s === null ? null : `p50 ${latency(model.latency_p50_s)}, p99 ${latency(model.latency_p99_s)}`,
    ],
    ["Loaded", model.ready_s && `at ${instant(model.ready_s)}, in ${latency(model.load_duration_s)}`],
    ["Last used", model.last_used_s && instant(model.last_used_s)],
    ["Files", model.generation ? model.files : null],
    ["Pinned", model.pinned ? "yes: it is not evicted" : null],
    ["Unloaded when idle", model.idle_ttl_s && `for ${age(model.idle_ttl_s)}`],
    ["CPU threads", model.cpu_threads],
    ["Eviction", eviction && evictionOf(eviction)],
  ];
  return h(
    "dl",
    null,
    known
      .filter(([, text]) => text !== null && text !== undefined && text !== 0)
      .map(([name, text]) => h("div", null, h("dt", null, name), h("dd", null, text))),
  );
}

function evictionOf(eviction) {
  if (eviction.why_not) return `not now: ${eviction.why_not}`;
  const turn = eviction.rank === null ? "" : `its turn is ${eviction.rank}; `;
  return `${turn}it would free ${size(eviction.would_free_bytes)}`;
}

/** Return the calls that a model has now. */
export function callsNow(calls) {
  return table(
    "Calls in progress",
    ["Method", "Caller", "Since", "State"],
    calls
      .slice(0, 20)
      .map((call) => [
        h("code", null, call.method),
        value(call.caller),
        age(call.age_s),
        [call.state, call.why && `: ${call.why}`],
      ]),
  );
}

/** Return the processes of a model. */
export function processes(workers) {
  const rows = workers.map((worker) => [
    number(worker.pid).replaceAll(",", ""),
    badgeOf(worker.state),
    size(worker.rss_bytes),
    size(worker.uss_bytes),
    size(worker.peak_bytes),
    number(worker.in_flight),
    originOf(worker),
  ]);
  return table("Processes", ["Pid", "State", "RSS", "USS", "Peak", "In flight", "Begun"], rows);
}

function originOf(worker) {
  const more = worker.processes > 1 ? `, ${worker.processes} processes` : "";
  const gpu = worker.gpu_bytes ? `, ${size(worker.gpu_bytes)} on the device` : "";
  return `${worker.template === null ? "afresh" : `forked from template ${worker.template}`}${more}${gpu}`;
}

/** Return the methods of a model, with what goes in and comes out. */
export function methods(known) {
  return Object.values(known).map((method) =>
    h(
      "div",
      { class: "method" },
      h(
        "p",
        null,
        h("code", null, h("strong", null, method.name), method.signature),
        method.streams && h("span", { class: "tag" }, "streams"),
        method.is_async && h("span", { class: "tag" }, "async"),
      ),
      method.doc && h("p", { class: "hint" }, method.doc),
      tensors("in", method.inputs),
      tensors("out", method.outputs),
    ),
  );
}

function tensors(way, all) {
  return all.length
    ? h(
        "ul",
        { class: "tensors" },
        all.map((tensor) =>
          h("li", null, h("span", { class: "way" }, way), h("code", null, tensor.name), ` ${typeOf(tensor)}`),
        ),
      )
    : null;
}

/** Return in words what a tensor must be. */
export function typeOf(tensor) {
  const sizes = tensor.shape?.map((at) => (at === -1 ? "any" : at)).join(" × ");
  const shape = tensor.shape === null ? "of any shape" : sizes ? `[${sizes}]` : "";
  return [tensor.datatype || "any type", shape, tensor.optional ? "optional" : ""].filter(Boolean).join(" ");
}

/** Return the settings of a model, and where each comes from. */
export function settings(all) {
  return table(
    "Settings in force",
    ["Setting", "Value", "Origin"],
    all.map((setting) => [
      h("code", null, setting.name),
      h("span", { class: "value" }, value(setting.value)),
      setting.origin,
    ]),
  );
}

/** Return what happened to a model, the last first. */
export function story(events) {
  const item = (event) =>
    h(
      "li",
      null,
      h("time", { datetime: new Date(event.time_s * 1000).toISOString() }, instant(event.time_s)),
      h(
        "div",
        null,
        h(
          "p",
          null,
          event.subject === "worker" ? `worker ${event.worker_id} ` : "model ",
          h(
            "span",
            { class: "step" },
            event.old === event.new
              ? event.cause.toLowerCase()
              : `${event.old.toLowerCase()} → ${event.new.toLowerCase()}`,
          ),
        ),
        h("p", { class: "hint" }, event.reason),
      ),
    );
  return h("ol", { class: `story` }, [...events].reverse().map(item));
}
