/** The time for which a wait polls memory before it sleeps until an interrupt. */

/** The longest poll of a wait, in milliseconds: beyond it, the latency of an interrupt hardly matters. */
const LONGEST = 0.5;
/** Share of the time that all polling of a function takes at most. */
const SHARE = 0.5;
/** Milliseconds of polling that can be saved up. */
const MAX_CREDIT = 5;

/**
 * Adapts the time to the latest wait of the vector: twice that wait, so that the next one probably ends while it polls, or
 * nothing after a wait longer than 0.5 ms. A device that answers fast is polled; a slow or idle one costs nothing.
 */
export class AdaptivePolling {
  readonly #limits: Float64Array;
  #credit = MAX_CREDIT;
  #credited = 0;

  /** @param vectors Number of vectors. */
  constructor(vectors: number) {
    this.#limits = new Float64Array(vectors);
  }

  /** Milliseconds for which a wait may poll that begins at `now`. */
  limit(vector: number, now: number): number {
    const limit = this.#limits[vector]!;
    if (limit === 0) return 0;
    this.#credit = Math.min(MAX_CREDIT, this.#credit + (now - this.#credited) * SHARE);
    this.#credited = now;
    // No shorter poll: it would cost time and not save the interrupt.
    return this.#credit < limit ? 0 : limit;
  }

  /** Records the end of a wait of `waited` milliseconds, of which it polled `polled`. */
  record(vector: number, waited: number, polled: number): void {
    this.#credit -= polled;
    this.#limits[vector] = waited > LONGEST ? 0 : Math.min(2 * waited, LONGEST);
  }
}
