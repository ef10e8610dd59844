/**
 * The lock of a shared pool. Its word is the number of its holder, so that another worker can take it over after the
 * holder died.
 *
 * The lock orders memory: its holder sees all writes that the previous holder made before the release (ECMAScript memory
 * model: the releasing store synchronizes with the compareExchange that reads it). The lock protects all shared state
 * except the words of a worker's own blocks and the few words that their comments name.
 */
import { DmaTimeoutError } from '../errors.ts';
import { ATTACHED, H_LOCK, H_SLEEPERS, slotAt, W_STATE } from './layout.ts';

/** Attempts before parking. A holder on another CPU normally releases within this time. */
const SPINS = 200;
/** Milliseconds parked before the next attempt, which detects an exit of the holder: an exit wakes no parked thread. */
const PARK = 2;
/** Timeout in milliseconds while the holder is not marked dead. */
const LOCK_TIMEOUT = 5000;
/**
 * Timeout in milliseconds of a thread that must not park: the holder's exit event may be queued on its own event loop.
 * Longer than a preemption of the holder.
 */
const SHORT_LOCK_TIMEOUT = 200;

export class PoolLock {
  readonly #header: Int32Array<SharedArrayBuffer>;
  readonly #me: number;
  #mayPark: boolean;

  /**
   * @param me Number of this worker.
   * @param mayPark False for threads that must not park: a browser's window, and threads that receive exit events.
   */
  constructor(header: Int32Array<SharedArrayBuffer>, me: number, mayPark: boolean) {
    this.#header = header;
    this.#me = me;
    this.#mayPark = mayPark;
  }

  /** From now on this thread does not park, because it receives exit events on its event loop. */
  neverPark(): void {
    this.#mayPark = false;
  }

  /**
   * Acquires the lock. True after a takeover from a dead worker: the caller must then rebuild the free list.
   *
   * @param timeout Milliseconds. Default: 5000, or 200 if the thread must not park.
   * @throws {@link DmaTimeoutError} when a worker that is not marked dead holds it for longer.
   */
  acquire(timeout?: number): boolean {
    for (let tries = 0; tries < SPINS; tries++) {
      if (Atomics.compareExchange(this.#header, H_LOCK, 0, this.#me) === 0) return false;
    }
    return this.#acquireSlowly(timeout ?? (this.#mayPark ? LOCK_TIMEOUT : SHORT_LOCK_TIMEOUT));
  }

  #acquireSlowly(timeout: number): boolean {
    const deadline = performance.now() + timeout;
    for (;;) {
      const holder = Atomics.compareExchange(this.#header, H_LOCK, 0, this.#me);
      if (holder === 0) return false;
      // A holder that is not attached never releases the lock.
      if (Atomics.load(this.#header, slotAt(holder) + W_STATE) !== ATTACHED) {
        if (Atomics.compareExchange(this.#header, H_LOCK, holder, this.#me) === holder) return true;
      } else if (this.#mayPark) {
        Atomics.add(this.#header, H_SLEEPERS, 1);
        Atomics.wait(this.#header, H_LOCK, holder, PARK);
        Atomics.sub(this.#header, H_SLEEPERS, 1);
      }
      if (performance.now() > deadline) {
        throw new DmaTimeoutError(`worker ${String(holder)} holds the pool's lock for more than ${String(timeout)} ms`);
      }
    }
  }

  release(): void {
    // No plain store: another worker may have taken the lock over.
    Atomics.compareExchange(this.#header, H_LOCK, this.#me, 0);
    // A worker killed while parked stays counted, which costs an unnecessary notify per release.
    if (Atomics.load(this.#header, H_SLEEPERS) !== 0) Atomics.notify(this.#header, H_LOCK, 1);
  }
}
