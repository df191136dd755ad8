/** What is asked and told in between: dialogs, questions before something is lost, and short messages. */

import { fill, h, newId, set } from "./dom.js";

const SHOWN_MS = 6000;

/** Show a dialog with a form; the browser keeps the focus in it, and Escape closes it. Return what closes it. */
export function openDialog(title, { body, buttons, onsubmit, onclose }) {
  const id = newId("dialog");
  const close = () => node.close();
  const form = h(
    "form",
    { onsubmit: (event) => (event.preventDefault(), onsubmit?.(form)), novalidate: true },
    body,
    h("p", { class: "buttons" }, buttons(close)),
  );
  const node = h("dialog", { "aria-labelledby": id }, h("h2", { id }, title), form);
  node.addEventListener("close", () => {
    node.remove();
    onclose?.();
  });
  document.body.append(node);
  node.showModal();
  return { close, form, node };
}

/** Ask before something is lost; return a promise of the form, null if the answer is no. */
export function confirm(title, text, action, extra = null) {
  return new Promise((resolve) => {
    let answer = null;
    const { close, node } = openDialog(title, {
      body: [h("p", null, text), extra],
      buttons: (closing) => [
        h("button", { type: "button", onclick: closing, autofocus: true }, "Cancel"),
        h("button", { type: "submit", class: "danger" }, action),
      ],
      onsubmit: (form) => {
        answer = form;
        close();
      },
      onclose: () => resolve(answer),
    });
    set(node, "role", "alertdialog");
  });
}

/** Say something that needs no answer; an error stays until it is closed. */
export function tell(text, { isError = false } = {}) {
  const close = () => node.remove();
  const node = h(
    "div",
    { class: isError ? "toast error" : "toast" },
    h("p", null, isError ? h("strong", null, "Failed: ") : null, text),
    h("button", { type: "button", class: "quiet", "aria-label": "Close this message", onclick: close }, "×"),
  );
  document.getElementById("toasts").append(node);
  if (!isError) setTimeout(close, SHOWN_MS);
}

/** Return a place in a form for what is wrong, with `say` to fill it; it is read out. */
export function trouble() {
  const node = h("div", { class: "trouble", role: "alert" });
  return { node, say: (...children) => fill(node, ...children) };
}

/** Return a field with its label, and a hint that belongs to it. */
export function field(label, input, hint = "") {
  const id = newId("field");
  set(input, "id", id);
  if (hint) set(input, "aria-describedby", `${id}-hint`);
  return h(
    "div",
    { class: "field" },
    h("label", { for: id }, label),
    input,
    hint && h("p", { class: "hint", id: `${id}-hint` }, hint),
  );
}

/** Return a box to tick with its label. */
export function tick(name, label) {
  return h("label", { class: "tick" }, h("input", { type: "checkbox", name }), h("span", null, label));
}
