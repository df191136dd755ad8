/**
 * Keeps the store as the host is: looks at it every two seconds and follows its events while the tab is seen.
 *
 * A browser has six connections to a host, and tabs that nobody sees would take them: these follow nothing.
 */

import { askRole } from "./access.js";
import { follow, get } from "./api.js";

const PERIOD_MS = 2000;
const SOON_MS = 150;
const LONGEST_WAIT_S = 15;

export class Watch {
  #store;
  #denied;
  #run = null;
  #soon = null;
  #wake = () => {};

  /** `denied` is called with the error when the host wants a token, or another one. */
  constructor(store, denied) {
    this.#store = store;
    this.#denied = denied;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stop() : this.start()));
  }

  /** Begin, also anew. */
  start() {
    this.stop();
    if (document.hidden) return;
    this.#run = new AbortController();
    this.#go(this.#run.signal);
  }

  /** End it all. */
  stop() {
    this.#run?.abort();
    clearTimeout(this.#soon);
    this.#wake();
  }

  /** Look in a moment: several changes that come together are seen by one look. */
  lookSoon() {
    clearTimeout(this.#soon);
    const signal = this.#run?.signal;
    this.#soon = setTimeout(() => this.#look(signal).catch(() => {}), SOON_MS);
  }

  async #go(signal) {
    for (let failures = 0; !signal.aborted;) {
      try {
        await askRole(this.#store);
        await this.#look(signal);
        failures = 0;
        await this.#stay(signal);
      } catch (error) {
        if (signal.aborted) return;
        if (error.isOfAccess) {
          this.#denied(error);
          return;
        }
        this.#store.lose(error.message);
        await this.#pause(1000 * Math.min(LONGEST_WAIT_S, 2 ** failures));
        failures += 1;
      }
    }
  }

  /** Look and follow until either fails. */
  async #stay(signal) {
    const both = new AbortController();
    const until = AbortSignal.any([signal, both.signal]);
    try {
      await Promise.race([this.#follow(until), this.#keepLooking(until)]);
    } finally {
      both.abort();
    }
  }

  async #follow(signal) {
    for await (const event of follow("v1/events", signal)) {
      this.#store.happened(event.data);
      this.lookSoon();
    }
    throw new Error("the host has ended the connection");
  }

  async #keepLooking(signal) {
    for (;;) {
      await this.#pause(PERIOD_MS);
      await this.#look(signal);
    }
  }

  async #look(signal) {
    const [host, memory, models] = await Promise.all(
      ["v1/host", "v1/host/memory", "v1/models?all=true"].map((path) => get(path, signal)),
    );
    if (signal?.aborted) return;
    this.#store.take({ host: host.value, memory: memory.value, models: models.value.data, dateMs: host.dateMs });
  }

  #pause(ms) {
    return new Promise((resolve) => {
      this.#wake = resolve;
      setTimeout(resolve, ms);
    });
  }
}
