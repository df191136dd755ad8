/**
 * What the page knows: the last look at the host, what two looks say together, and whether it still holds.
 *
 * Figures of the past are kept for the charts only, and forgotten when the host has started again.
 */

const KEPT = 60;

// Looks come sooner when events tell that something has changed; a rate of a moment would jump.
const RATE_AFTER_MS = 1500;
const GAP_MS = 15_000;

export class Store {
  role = null;
  host = null;
  memory = null;
  models = new Map();
  /** Why nothing is known now, in words; null while all is well. */
  lost = null;
  /** When the last look was, in milliseconds since the epoch. */
  lookedMs = null;
  /** How far the host's clock is ahead of the browser's. */
  aheadMs = 0;
  /** The instant at which a new start of the host was noticed. */
  restartedMs = null;

  #base = null;
  #rates = new Map();
  #past = new Map();
  #listeners = new Set();

  /** Have a function called after each change; return what ends that. */
  onChange(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Tell that something has changed. */
  changed() {
    for (const listener of [...this.#listeners]) listener();
  }

  /** Take what the host has just said. */
  take({ host, memory, models, dateMs }) {
    const isNew = this.host !== null && this.host.epoch !== host.epoch;
    if (isNew) {
      this.#forget();
      this.restartedMs = Date.now();
    }
    Object.assign(this, { host, memory, lost: null, lookedMs: Date.now() });
    this.models = new Map(models.map((model) => [model.id, model]));
    // The header has whole seconds; what differs by less is no difference.
    this.aheadMs = Math.abs(dateMs - Date.now()) > 2000 ? dateMs - Date.now() : 0;
    this.#measure(performance.now());
    this.changed();
  }

  /** Take an event; the look that follows has the figures. */
  happened(event) {
    const model = this.models.get(event.model_id);
    if (event.subject !== "model" || !model) return;
    this.models.set(model.id, { ...model, state: event.new, reason: event.reason });
    this.changed();
  }

  /** Note that nothing is known any more. */
  lose(why) {
    this.lost = why;
    this.#base = null;
    this.changed();
  }

  /** The host's time in seconds. */
  get nowS() {
    return (Date.now() + this.aheadMs) / 1000;
  }

  /** Calls a second of a model, null if that is not known. */
  rateOf(id) {
    return this.lost ? null : (this.#rates.get(id) ?? null);
  }

  /** The past of a model's rates and bytes, or that of all together. */
  pastOf(id = "") {
    return this.#past.get(id) ?? { rates: [], bytes: [] };
  }

  /** Calls a second of all models. */
  get totalRate() {
    if (this.lost || !this.#rates.size) return null;
    return [...this.#rates.values()].reduce((sum, rate) => sum + (rate ?? 0), 0);
  }

  /** Know nothing any more: whoever asks may no longer see it. */
  forgetAll() {
    this.#forget();
    Object.assign(this, { host: null, memory: null, models: new Map(), lost: null, lookedMs: null });
  }

  #forget() {
    this.#base = null;
    this.#rates.clear();
    this.#past.clear();
  }

  #measure(now) {
    const base = this.#base;
    if (base && now - base.at < RATE_AFTER_MS) return;
    if (base && now - base.at > GAP_MS) this.#past.clear();
    const before = base && now - base.at <= GAP_MS ? base : null;
    this.#rates = new Map([...this.models.values()].map((model) => [model.id, rateBetween(before, model, now)]));
    this.#base = { at: now, models: this.models };
    if (!before) return;
    for (const model of this.models.values()) this.#note(model.id, this.#rates.get(model.id), model.charge_bytes);
    const { measured_bytes, reserved_bytes, templates_bytes } = this.memory;
    this.#note("", this.totalRate, measured_bytes + reserved_bytes + templates_bytes);
  }

  #note(id, rate, bytes) {
    const past = this.pastOf(id);
    this.#past.set(id, { rates: [...past.rates, rate ?? 0].slice(-KEPT), bytes: [...past.bytes, bytes].slice(-KEPT) });
  }
}

function rateBetween(base, model, now) {
  const before = base?.models.get(model.id);
  if (!before) return null;
  return (model.calls - before.calls) / ((now - base.at) / 1000);
}
