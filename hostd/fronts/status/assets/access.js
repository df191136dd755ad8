/** Who asks: the token of this tab, its role, what that allows, and controls that say what they need. */

import { get, keepToken, token } from "./api.js";
import { field, openDialog, tell, trouble } from "./dialogs.js";
import { h, set } from "./dom.js";

const ALLOWED = [
  ["read", "see models, figures, events and logs"],
  ["call", "call methods of models"],
  ["load", "load, unload, reload and pin models"],
  ["deploy", "send files of models, and replace them"],
  ["admin", "see and reload the settings of the host"],
];
const ROLES = ["none", ...ALLOWED.map(([role]) => role)];

/** Whether a role allows what another one is needed for. */
export function allows(role, needed) {
  return ROLES.indexOf(role ?? "none") >= ROLES.indexOf(needed);
}

/** Ask the host for the role of this tab; a token that it does not know raises. */
export async function askRole(store) {
  store.role = (await get("v1/me")).value.role;
  store.changed();
}

/** Return the form for a token; `entered` is called when there is another one, or none any more. */
export function accessForm(store, entered) {
  const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false", name: "token" });
  const wrong = trouble();
  const use = async (text) => {
    const before = token();
    keepToken(text);
    try {
      await askRole(store);
      if (text && !allows(store.role, "read")) throw new Error("This token allows nothing that this page shows.");
      entered();
    } catch (error) {
      keepToken(before);
      wrong.say(`${error.message}.`.replace(/\.\.$/, "."));
      input.focus();
    }
  };
  const submit = (event) => {
    event.preventDefault();
    if (input.value.trim()) use(input.value.trim());
    else wrong.say("Paste a token first.");
  };
  return h(
    "form",
    { class: "access", onsubmit: submit, novalidate: true },
    field("Token", input, "Kept in this tab only, and forgotten when you close it."),
    wrong.node,
    h(
      "p",
      { class: "buttons" },
      token() && h("button", { type: "button", onclick: () => use("") }, "Forget the token"),
      h("button", { type: "submit", class: "main" }, "Use this token"),
    ),
  );
}

/** Return the list of what a role allows, and what it does not. */
export function allowedList(role) {
  const item = ([needed, text]) => {
    const isAllowed = allows(role, needed);
    return h(
      "li",
      { class: isAllowed ? "yes" : "no" },
      h("span", { class: "mark" }, isAllowed ? "Yes" : "No"),
      h("span", null, text),
      h("code", null, needed),
    );
  };
  return h("ul", { class: "allowed" }, ALLOWED.map(item));
}

/** Show what is shown in place of the models when the host wants a token. */
export function askForToken(main, store, error, entered) {
  const isWrong = Boolean(token());
  const title = isWrong ? "This token does not open this page" : "This host asks for a token";
  const text = isWrong
    ? `The host says: ${error.message}.`
    : "Whoever runs it has tokens, one a line, in the file that the setting fronts.tokens names.";
  const panel = h(
    "section",
    { class: "card panel", "aria-labelledby": "token-title" },
    h("h2", { id: "token-title" }, title),
    h("p", null, text),
    accessForm(store, entered),
    h("h3", null, "What you may do now"),
    allowedList(store.role),
  );
  main.replaceChildren(panel);
  panel.querySelector("input").focus();
}

/** Open the dialog about the role of this tab. */
export function openAccess(store, entered) {
  const { close, node } = openDialog("Your access", {
    body: null,
    buttons: (closing) => [h("button", { type: "button", onclick: closing }, "Close")],
  });
  const form = accessForm(store, () => {
    close();
    entered();
  });
  const said = token() ? "With your token you have the role " : "Without a token you have the role ";
  node
    .querySelector("h2")
    .after(h("p", null, said, h("strong", null, store.role ?? "none"), "."), allowedList(store.role), form);
}

/**
 * Return a button that needs a role. Without it, or while nothing is known, it stays reachable and says why it does
 * nothing: a button that is `disabled` cannot be focused, so its hint could not be read.
 */
export function control(store, needed, label, act, { kind = null, problem = () => "" } = {}) {
  const why = () => {
    if (store.lost) return "The host is not reachable.";
    if (!allows(store.role, needed)) return `This needs the role ${needed}; you have ${store.role ?? "none"}.`;
    return problem();
  };
  const button = h("button", { type: "button", class: kind, onclick: () => (why() ? tell(why()) : act()) }, label);
  const update = () => {
    set(button, "aria-disabled", why() ? "true" : null);
    set(button, "title", why() || null);
    set(button, "aria-description", why() || null);
  };
  update();
  return { node: button, update };
}
