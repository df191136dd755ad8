/** The log of a model: its last lines, and what is printed from now on. */

import { follow, pathOf } from "./api.js";
import { h, say, set } from "./dom.js";

const TAIL = 300;
const MOST_LINES = 2000;

/** Return the card: its `node`, `update` with the model's record, and `close`. */
export function logCard(store, id) {
  const lines = h("div", { class: "log", role: "log", tabindex: "0", "aria-label": "Log", "aria-live": "off" });
  const state = h("span", { class: "hint" });
  const toggle = h("button", { type: "button", "aria-pressed": "true", onclick: () => want(!isWanted) }, "Follow");
  const node = h(
    "section",
    { class: "card", "aria-label": "Log" },
    h("div", { class: "with-button" }, h("h3", null, "Log"), state, toggle),
    lines,
  );
  let isWanted = true;
  let run = null;
  const stop = (why) => {
    run?.abort();
    run = null;
    say(state, why);
  };
  const want = (isSo) => {
    isWanted = isSo;
    set(toggle, "aria-pressed", String(isSo));
    if (isSo) start();
    else stop("Not followed.");
  };
  const start = async () => {
    run?.abort();
    run = new AbortController();
    const { signal } = run;
    lines.replaceChildren();
    say(state, "");
    try {
      for await (const event of follow(`${pathOf(id, "logs")}?follow=true&tail=${TAIL}`, signal))
        add(lines, event.data);
      if (!signal.aborted) stop("It has ended.");
    } catch (error) {
      if (!signal.aborted) stop(error.message);
    }
  };
  const onVisible = () => (document.hidden ? stop("") : isWanted && start());
  document.addEventListener("visibilitychange", onVisible);
  let followed = null;
  const update = (model) => {
    if (store.lost) followed = null;
    // What was followed has ended with the connection, or with the load before.
    else if (followed !== model.generation && isWanted) {
      followed = model.generation;
      start();
    }
  };
  const close = () => {
    document.removeEventListener("visibilitychange", onVisible);
    run?.abort();
  };
  return { node, update, close };
}

function add(lines, line) {
  const isAtEnd = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 30;
  const time = line.time_s === null ? "" : new Date(line.time_s * 1000).toLocaleTimeString("en-GB");
  lines.append(
    h(
      "div",
      { class: line.is_note ? "note" : null },
      h("time", null, time),
      h("span", null, line.is_note ? `host: ${line.text}` : line.text),
    ),
  );
  while (lines.childElementCount > MOST_LINES) lines.firstChild.remove();
  // Whoever has scrolled back reads there.
  if (isAtEnd) lines.scrollTop = lines.scrollHeight;
}
