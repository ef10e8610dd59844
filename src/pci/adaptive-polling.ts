/** The time for which a wait polls memory before it sleeps until an interrupt. */

/** The longest poll of a wait, in milliseconds: beyond it, the latency of an interrupt hardly matters. */
const LONGEST = 0.5;
/** Share of the time that all polling of a function takes at most. */
const SHARE = 0.5;
/** Milliseconds of polling that can be saved up. */
const MAX_CREDIT = 5;

/**
 * Adapts the time to the latest wait of the vector, the latency of its interrupt included: twice that wait, so that the
 * next one probably ends while it polls, or nothing after a wait longer than 0.5 ms. So a device that answers fast is
 * polled; a slow or idle one costs nothing.
 */
export class AdaptivePolling {
  readonly #limits: Float64Array;
  /** Milliseconds that polling may take, as of `#settled`. */
  #credit = MAX_CREDIT;
  #settled = 0;
  /** Waits that poll. Together they take the time of one: each turn of the event loop checks all of them. */
  #polling = 0;

  /** @param vectors Number of vectors. */
  constructor(vectors: number) {
    this.#limits = new Float64Array(vectors);
  }

  /** Milliseconds for which a wait may poll that begins at `now`. */
  limit(vector: number, now: number): number {
    const limit = this.#limits[vector]!;
    if (limit === 0) return 0;
    this.#settle(now);
    // No shorter poll: it would cost time and not save the interrupt.
    return this.#credit < limit ? 0 : limit;
  }

  /** A wait begins to poll. */
  begin(now: number): void {
    this.#settle(now);
    this.#polling++;
  }

  /** A wait ends to poll. */
  end(now: number): void {
    this.#settle(now);
    this.#polling--;
  }

  /** Records the milliseconds that a wait took. */
  record(vector: number, waited: number): void {
    this.#limits[vector] = waited > LONGEST ? 0 : Math.min(2 * waited, LONGEST);
  }

  /** Adds the credit of the time since the last call, and charges that time if it was spent on polling. */
  #settle(now: number): void {
    const change = (now - this.#settled) * (this.#polling > 0 ? SHARE - 1 : SHARE);
    this.#settled = now;
    this.#credit = Math.min(MAX_CREDIT, this.#credit + change);
  }
}
