/**
 * A barrier in shared memory. Threads leave it within a microsecond of each other, if each has a CPU.
 *
 * The count of arrivals is never reset: the coordinator passes each wait the total that completes it. A wait has two
 * phases. Early threads may sleep in the first; all are awake in the second.
 */
export class Barrier {
  readonly #arrivals: Int32Array<SharedArrayBuffer>;

  constructor(buffer: SharedArrayBuffer) {
    this.#arrivals = new Int32Array(buffer);
  }

  static createBuffer(): SharedArrayBuffer {
    return new SharedArrayBuffer(8);
  }

  /** Waits until `complete` threads in total have arrived, over all waits. */
  wait(complete: number): void {
    Atomics.add(this.#arrivals, 0, 1);
    waitUntil(this.#arrivals, 0, complete);
    Atomics.add(this.#arrivals, 1, 1);
    waitUntil(this.#arrivals, 1, complete, SPINS * 4);
  }
}

/** Polls before a thread sleeps between polls: on a busy machine another thread may need this CPU. */
const SPINS = 5000;
/** Milliseconds of a sleep. No notify ends it early: that would cost the other thread time at each step. */
const SLEEP = 0.02;

/** Waits until the word reaches `goal` (mod 2^32). Returns the word. */
export function waitUntil(
  words: Int32Array<SharedArrayBuffer>,
  at: number,
  goal: number,
  maxSpins: number = SPINS,
): number {
  for (let spins = 0; ; spins++) {
    const word = Atomics.load(words, at);
    if (((word - goal) | 0) >= 0) return word;
    if (spins > maxSpins) Atomics.wait(words, at, word, SLEEP);
  }
}
