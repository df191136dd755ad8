/** Requests to the host's verbs, with the token of this tab. */

import { eventsOf } from "./sse.js";

const KEY = "hostd.token";
const PATIENCE_MS = 10_000;

/** The host has answered with an error. */
export class Refusal extends Error {
  constructor(status, told) {
    super(told.error ?? `the front answered ${status}`);
    this.status = status;
    this.kind = told.kind ?? "";
    this.details = told.details ?? {};
  }

  /** Whether a token, or another one, may help. */
  get isOfAccess() {
    return this.status === 401 || this.status === 403;
  }
}

/** Nothing has answered. */
export class Unreachable extends Error {}

export function token() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** Keep a token as long as this tab is open; an empty one is forgotten. */
export function keepToken(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

/** Return the path of a model's verb; a slash in an id is part of it. */
export function pathOf(id, verb = "") {
  return `v1/models/${encodeURIComponent(id)}${verb && `/${verb}`}`;
}

/** Return the path with the parameters that are not undefined. */
export function withQuery(path, parameters) {
  const known = Object.entries(parameters).filter(([, value]) => value !== undefined);
  return known.length ? `${path}?${new URLSearchParams(known)}` : path;
}

/** Return headers with the token, if there is one. */
export function headers(more = {}) {
  return token() ? { ...more, Authorization: `Bearer ${token()}` } : more;
}

/** Return what the host answers to a GET; it must begin to within a few seconds. */
export async function get(path, signal) {
  const timeout = AbortSignal.timeout(PATIENCE_MS);
  const response = await send(path, { signal: signal ? AbortSignal.any([signal, timeout]) : timeout });
  return { value: await response.json(), dateMs: Date.parse(response.headers.get("date")) };
}

/** Return what the host answers to a POST of a map; loads and drains take as long as they take. */
export async function post(path, body = {}) {
  const response = await sendBody(path, JSON.stringify(body), "application/json");
  return response.json();
}

/** Return the response to a POST of a body that is made already. */
export function sendBody(path, body, type, more = {}, signal = undefined) {
  return send(path, { method: "POST", body, headers: { "Content-Type": type, ...more }, signal });
}

/** Yield the events of a GET until it ends or the signal ends it; an event `error` is raised. */
export async function* follow(path, signal) {
  yield* streamed(await send(path, { headers: { Accept: "text/event-stream" }, signal }));
}

/** Yield the events of a response. */
export async function* streamed(response) {
  for await (const event of eventsOf(response)) {
    if (event.name === "error") throw new Refusal(response.status, event.data);
    yield event;
  }
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      ...options,
      headers: headers({ Accept: "application/json", ...options.headers }),
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("nothing answers at this address");
  }
  if (response.ok) return response;
  throw new Refusal(response.status, await toldBy(response));
}

async function toldBy(response) {
  try {
    return await response.json();
  } catch {
    return {};
  }
}
