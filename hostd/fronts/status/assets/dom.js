/** Elements made and changed. What the host says becomes text and attributes here, never markup. */

const SVG = "http://www.w3.org/2000/svg";

/** Return an element; a function under a name such as `onclick` listens, null, undefined and false set nothing. */
export function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Return an element of SVG. */
export function svg(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else set(node, name, value);
  }
  node.append(...present(children));
  return node;
}

function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Set an attribute, or remove it; one that is so already is left alone. */
export function set(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
}

/** Say a text in a node; one that says it already keeps its selection, and is not read out again. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Put children in the place of those that a node has. */
export function fill(node, ...children) {
  node.replaceChildren(...present(children));
}

/** Have a node show what `draw` makes of a value, drawn anew only if the value has changed. */
export function showing(node, draw) {
  let shown;
  return (value) => {
    const text = JSON.stringify(value);
    if (text === shown) return;
    shown = text;
    fill(node, draw(value));
  };
}

/** Put nodes in an order; those that have it already are not moved, so that the focus stays. */
export function arrange(parent, nodes) {
  const isSame = nodes.length === parent.children.length && nodes.every((node, at) => node === parent.children[at]);
  if (isSame) return;
  const focused = document.activeElement;
  parent.replaceChildren(...nodes);
  if (parent.contains(focused)) focused.focus({ preventScroll: true });
}

let count = 0;

/** Return an id that no other element has. */
export function newId(word) {
  count += 1;
  return `${word}-${count}`;
}
