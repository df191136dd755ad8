/** Puts the page together: which view is shown, and what draws it anew. */

import { allows, askForToken } from "./access.js";
import { acceptDrops, noDirectory } from "./deploy.js";
import { fill, h, say } from "./dom.js";
import { instant } from "./format.js";
import { header } from "./header.js";
import { modelView } from "./model.js";
import { notices } from "./notices.js";
import { Store } from "./store.js";
import { focusFilter, listView } from "./table.js";
import { Watch } from "./watch.js";

const store = new Store();
const main = document.getElementById("main");
const asOf = document.getElementById("as-of");
const watch = new Watch(store, denied);
const drawn = [
  header(document.getElementById("host"), store, enter),
  notices(document.getElementById("notices"), store, () => watch.start()),
];
let view = null;

function draw() {
  for (const update of drawn) update();
  if (store.host && view) view.update();
  else if (store.host) route({ isFirst: true });
  say(asOf, store.lookedMs ? `${store.lost ? "Last seen" : "As of"} ${instant(store.lookedMs / 1000)}` : "");
}

/** Show what the address says; the focus goes where the new view begins. */
function route({ isFirst = false } = {}) {
  if (location.hash && !location.hash.startsWith("#/")) return;
  view?.close?.();
  const id = idOf(location.hash);
  view = id === null ? listView(store) : modelView(store, id);
  fill(main, view.node);
  document.body.classList.toggle("of-model", id !== null);
  view.update();
  if (!isFirst) (view.heading ?? main).focus();
  scrollTo(0, 0);
}

function idOf(hash) {
  const [, name] = hash.match(/^#\/models\/(.+)$/) ?? [];
  try {
    return name === undefined ? null : decodeURIComponent(name);
  } catch {
    return null;
  }
}

/** Begin, also with another token. */
function enter() {
  leave();
  fill(main, h("p", { class: "hint" }, "Asking the host…"));
  watch.start();
}

function leave() {
  watch.stop();
  view?.close?.();
  view = null;
}

function denied(error) {
  leave();
  store.forgetAll();
  if (error.status === 401) store.role = "none";
  askForToken(main, store, error, enter);
  draw();
}

function deployProblem() {
  if (!allows(store.role, "deploy")) return `A deploy needs the role deploy; you have ${store.role ?? "none"}.`;
  return store.lost ? "The host is not reachable." : noDirectory(store);
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => view && route());
addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, textarea, select, dialog");
  if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey || !main.querySelector(".list"))
    return;
  event.preventDefault();
  focusFilter();
});
acceptDrops(store, deployProblem);
store.onChange(draw);
enter();
