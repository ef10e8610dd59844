/**
 * The one lock of a shared pool. It knows who holds it, so that it can be taken over from a worker that died with it.
 *
 * Atomics on the lock's word are what orders memory between workers: whatever one wrote before it released the lock,
 * the next holder sees (ECMAScript memory model: the store that releases synchronizes with the compareExchange that
 * reads it). All of the pool's shared state but the words of a worker's own blocks is written under it.
 */
import { DmaTimeoutError } from '../errors.ts';
import { ATTACHED, H_LOCK, H_SLEEPERS, slotAt, W_STATE } from './layout.ts';

/** Tries before parking: a holder on another CPU is through in less than this. */
const SPINS = 200;
/** Milliseconds parked before looking again: a death is seen without being told. */
const PARK = 2;
/** Milliseconds after which a holder that is not known to be dead is reported. */
const PATIENCE = 5000;
/**
 * The same where the thread must not park: it may be the one that is to hear of the holder's death, which it can only
 * on its event loop. Long enough for a holder that was put aside by the system.
 */
const SHORT_PATIENCE = 200;

export class PoolLock {
  readonly #header: Int32Array<SharedArrayBuffer>;
  readonly #me: number;
  #mayPark: boolean;

  /**
   * @param me Number of this worker.
   * @param mayPark False where a thread must not park: in a browser's window, and where others' deaths are reported.
   */
  constructor(header: Int32Array<SharedArrayBuffer>, me: number, mayPark: boolean) {
    this.#header = header;
    this.#me = me;
    this.#mayPark = mayPark;
  }

  /** This thread is to hear of deaths from now on, which it can't while parked. */
  stayAwake(): void {
    this.#mayPark = false;
  }

  /**
   * Takes the lock. True if it was taken over from a worker that died with it: then what it protects must be mended.
   *
   * @param patience Milliseconds to try. Default: 5 s, and 0.2 s where the thread must not park.
   * @throws {@link DmaTimeoutError} when somebody alive holds it for longer; nothing is taken then.
   */
  acquire(patience?: number): boolean {
    for (let tries = 0; tries < SPINS; tries++) {
      if (Atomics.compareExchange(this.#header, H_LOCK, 0, this.#me) === 0) return false;
    }
    return this.#acquireSlowly(patience ?? (this.#mayPark ? PATIENCE : SHORT_PATIENCE));
  }

  #acquireSlowly(patience: number): boolean {
    const deadline = performance.now() + patience;
    for (;;) {
      const holder = Atomics.compareExchange(this.#header, H_LOCK, 0, this.#me);
      if (holder === 0) return false;
      // Whoever holds it and is not attached will never release it.
      if (Atomics.load(this.#header, slotAt(holder) + W_STATE) !== ATTACHED) {
        if (Atomics.compareExchange(this.#header, H_LOCK, holder, this.#me) === holder) return true;
      } else if (this.#mayPark) {
        Atomics.add(this.#header, H_SLEEPERS, 1);
        Atomics.wait(this.#header, H_LOCK, holder, PARK);
        Atomics.sub(this.#header, H_SLEEPERS, 1);
      }
      if (performance.now() > deadline) {
        throw new DmaTimeoutError(
          `the pool's lock is held by worker ${String(holder)} for more than ${String(patience)} ms`,
        );
      }
    }
  }

  release(): void {
    // Only what is ours: should it have been taken over, it is not.
    Atomics.compareExchange(this.#header, H_LOCK, this.#me, 0);
    // A worker that was killed while parked stays counted: then a notify is wasted now and then, no more.
    if (Atomics.load(this.#header, H_SLEEPERS) !== 0) Atomics.notify(this.#header, H_LOCK, 1);
  }
}
