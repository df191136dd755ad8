/** The fields of a call's form: one for each input that is known, else one for arguments by position and one by name. */

import { field } from "./dialogs.js";
import { h } from "./dom.js";
import { typeOf } from "./facts.js";
import { pretty } from "./format.js";

const INTEGERS = /^U?INT\d+$/;
const FLOATS = /^(FP|BF)\d+$/;

// What stands for numbers that JSON does not have.
const NOT_FINITE = ["NaN", "Infinity", "-Infinity"];

/** Return the fields of a method as `{nodes, arguments}`; `arguments` raises for what is wrong, with its field. */
export function fieldsOf(method, example) {
  return method.inputs.length && method.passing ? knownFields(method, example) : freeFields(example);
}

function area(name, text, rows) {
  return h(
    "textarea",
    {
      name,
      rows: Math.max(rows, Math.min(8, text.split("\n").length)),
      spellcheck: "false",
      autocomplete: "off",
      class: "json",
    },
    text,
  );
}

function freeFields(example) {
  const args = area("args", pretty(example?.args ?? []), 2);
  const kwargs = area("kwargs", pretty(example?.kwargs ?? {}), 1);
  return {
    nodes: [field("Arguments by position", args, "A JSON list."), field("Arguments by name", kwargs, "A JSON map.")],
    arguments: () => ({ args: checked(args, "a list", Array.isArray), kwargs: checked(kwargs, "a map", isMap) }),
  };
}

function knownFields(method, example) {
  const values = exampleValues(method, example);
  const fields = method.inputs.map((tensor) => {
    const has = Object.hasOwn(values, tensor.name);
    const input = area(tensor.name, has ? pretty(values[tensor.name]) : "", 1);
    return {
      tensor,
      input,
      node: field(tensor.name, input, `${typeOf(tensor)}, as JSON${tensor.optional ? "; may be empty" : ""}`),
    };
  });
  return { nodes: fields.map(({ node }) => node), arguments: () => passed(method, fields) };
}

function exampleValues(method, example) {
  if (!example) return {};
  if (method.passing === "array") return { [method.inputs[0].name]: example.args[0] };
  return method.passing === "map" ? example.args[0] : example.kwargs;
}

function passed(method, fields) {
  const given = fields.filter(({ tensor, input }) => !(tensor.optional && input.value.trim() === ""));
  const values = given.map(({ tensor, input }) => [
    tensor,
    checked(input, typeOf(tensor), (value) => fits(value, tensor)),
  ]);
  if (method.passing === "array")
    return { args: list(values.map(([, value]) => value)), kwargs: map([]), tensors: values };
  const all = map(values.map(([tensor, value]) => [tensor.name, value]));
  return method.passing === "map"
    ? { args: list([all]), kwargs: map([]), tensors: values }
    : { args: list([]), kwargs: all, tensors: values };
}

// A value goes on as the text that was typed: JavaScript's numbers would lose digits of it.
function checked(input, expected, isRight) {
  const text = input.value.trim();
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw wrong(input, text ? `This is not JSON: ${error.message}. A text is in double quotes.` : "This is missing.");
  }
  if (!isRight(value)) throw wrong(input, `This must be ${expected}.`);
  return { text, value };
}

function wrong(input, message) {
  return Object.assign(new Error(`${input.name}: ${message}`), { input });
}

function list(items) {
  return { text: `[${items.map(({ text }) => text).join(", ")}]`, value: items.map(({ value }) => value) };
}

function map(entries) {
  const text = entries.map(([name, item]) => `${JSON.stringify(name)}: ${item.text}`).join(", ");
  return { text: `{${text}}`, value: Object.fromEntries(entries.map(([name, { value }]) => [name, value])) };
}

function isMap(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** Whether a value has the shape and the type of an input, as far as they are known. */
export function fits(value, { datatype, shape }) {
  if (shape === null) return true;
  if (shape.length === 0) return isScalar(value, datatype);
  const [size, ...rest] = shape;
  return (
    Array.isArray(value) &&
    (size === -1 || value.length === size) &&
    value.every((item) => fits(item, { datatype, shape: rest }))
  );
}

function isScalar(value, datatype) {
  if (datatype === "BOOL") return typeof value === "boolean";
  if (INTEGERS.test(datatype)) return Number.isInteger(value);
  if (FLOATS.test(datatype)) return typeof value === "number" || NOT_FINITE.includes(value);
  return datatype !== "BYTES" || typeof value === "string";
}
