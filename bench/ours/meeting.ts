/**
 * A barrier in shared memory: threads that meet here leave within a microsecond of each other, if each has a processor.
 *
 * The coordinator gives each meeting its number, the count of arrivals at which it is complete; so nothing has to be reset.
 * It is attended twice: who came early may nap the first time, and is awake the second.
 */
export class Meeting {
  readonly #arrivals: Int32Array<SharedArrayBuffer>;

  constructor(buffer: SharedArrayBuffer) {
    this.#arrivals = new Int32Array(buffer);
  }

  static createBuffer(): SharedArrayBuffer {
    return new SharedArrayBuffer(8);
  }

  /** Comes to the meeting that is complete with the `complete`th arrival ever, and waits for the others. */
  attend(complete: number): void {
    Atomics.add(this.#arrivals, 0, 1);
    waitUntil(this.#arrivals, 0, complete);
    Atomics.add(this.#arrivals, 1, 1);
    waitUntil(this.#arrivals, 1, complete, LOOKS * 4);
  }
}

/** Looks before a thread naps between two: on a machine with too much to do, the other may need this processor. */
const LOOKS = 5000;
/** Milliseconds of a nap. Nobody is told to end it, for telling would cost the other time at each step. */
const NAP = 0.02;

/** Waits until the word has come to `goal`, counting modulo 2^32, and returns the word. */
export function waitUntil(
  words: Int32Array<SharedArrayBuffer>,
  at: number,
  goal: number,
  patience: number = LOOKS,
): number {
  for (let looks = 0; ; looks++) {
    const word = Atomics.load(words, at);
    if (((word - goal) | 0) >= 0) return word;
    if (looks > patience) Atomics.wait(words, at, word, NAP);
  }
}
