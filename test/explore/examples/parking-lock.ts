/**
 * A lock in shared memory: spin a little, then park. It records its owner, so that other workers can recover it after
 * the owner's death.
 */

const OWNER = 0;
const PARKED = 1;
/** Number of words of a lock. */
export const LOCK_WORDS = 2;

const FREE = 0;
const SPINS = 2;

export class ParkingLock {
  readonly #words: Int32Array;
  /** The value of the owner word: the worker's number plus one. */
  readonly #me: number;

  constructor(words: Int32Array, worker: number) {
    this.#words = words;
    this.#me = worker + 1;
  }

  lock(): void {
    for (let spin = 0; spin < SPINS; spin++) if (this.#tryLock()) return;
    Atomics.add(this.#words, PARKED, 1);
    while (!this.#tryLock()) this.#park();
    Atomics.sub(this.#words, PARKED, 1);
  }

  #tryLock(): boolean {
    return Atomics.compareExchange(this.#words, OWNER, FREE, this.#me) === FREE;
  }

  #park(): void {
    const owner = Atomics.load(this.#words, OWNER);
    if (owner !== FREE) Atomics.wait(this.#words, OWNER, owner);
  }

  unlock(): void {
    Atomics.store(this.#words, OWNER, FREE);
    this.#wakeOne();
  }

  #wakeOne(): void {
    if (Atomics.load(this.#words, PARKED) > 0) Atomics.notify(this.#words, OWNER, 1);
  }

  /** Takes the lock from a dead worker, if that worker holds it. */
  seize(dead: number): boolean {
    return Atomics.compareExchange(this.#words, OWNER, dead + 1, this.#me) === dead + 1;
  }
}
