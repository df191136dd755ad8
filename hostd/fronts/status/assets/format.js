/** Figures in words, as the command line has them. What is not known is a dash: no number is invented. */

export const NOTHING = "–";

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

const isNothing = (value) => value === null || value === undefined;

/** Return a size in bytes in words. */
export function size(bytes) {
  if (isNothing(bytes)) return NOTHING;
  let at = 0;
  let value = bytes;
  while (Math.abs(value) >= 1024 && at < UNITS.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${value.toFixed(at === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2).replace(/\.0+$/, "")} ${UNITS[at]}`;
}

/** Return a duration of a call or a load in words. */
export function latency(seconds) {
  if (isNothing(seconds)) return NOTHING;
  if (seconds < 0.001) return `${Math.max(1, Math.round(seconds * 1e6))} µs`;
  if (seconds < 1) return `${(seconds * 1000).toPrecision(seconds < 0.1 ? 2 : 3).replace(/\.0$/, "")} ms`;
  return seconds < 60 ? `${seconds.toPrecision(3)} s` : age(seconds);
}

/** Return how long something has been, in words of at most two units. */
export function age(seconds) {
  if (isNothing(seconds)) return NOTHING;
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** Return a rate a second. */
export function rate(perSecond) {
  if (isNothing(perSecond)) return NOTHING;
  if (perSecond === 0) return "0";
  return perSecond < 10 ? perSecond.toFixed(1) : Math.round(perSecond).toLocaleString("en");
}

/** Return a count with separators. */
export function number(value) {
  return isNothing(value) ? NOTHING : value.toLocaleString("en");
}

/** Return a count of things: "1 model", "3 models". */
export function counted(count, word) {
  return `${number(count)} ${word}${count === 1 ? "" : "s"}`;
}

/** Return an instant in seconds since the epoch as a time of the day, with the date if that is not today. */
export function instant(seconds) {
  if (isNothing(seconds)) return NOTHING;
  const then = new Date(seconds * 1000);
  const time = then.toLocaleTimeString("en-GB");
  return then.toDateString() === new Date().toDateString() ? time : `${then.toLocaleDateString("en-CA")} ${time}`;
}

/** Return a setting's value in words. */
export function value(thing) {
  if (isNothing(thing)) return NOTHING;
  return typeof thing === "string" ? thing : JSON.stringify(thing);
}

/** Return JSON for people: lists of plain values in one line. */
export function pretty(thing, indent = "") {
  if (thing === null || typeof thing !== "object") return JSON.stringify(thing);
  const isList = Array.isArray(thing);
  const items = isList ? thing : Object.values(thing);
  const brackets = isList ? "[]" : "{}";
  if (items.length === 0) return brackets;
  if (isList && items.every((item) => item === null || typeof item !== "object"))
    return `[${items.map((item) => JSON.stringify(item)).join(", ")}]`;
  const deeper = `${indent}  `;
  const lines = isList
    ? thing.map((item) => deeper + pretty(item, deeper))
    : Object.entries(thing).map(([name, item]) => `${deeper}${JSON.stringify(name)}: ${pretty(item, deeper)}`);
  return `${brackets[0]}\n${lines.join(",\n")}\n${indent}${brackets[1]}`;
}

/** Return labels as the command line has them. */
export function labelled(labels) {
  return Object.entries(labels ?? {})
    .map(([key, text]) => `${key}=${text}`)
    .join(", ");
}
