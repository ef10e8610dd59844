/** The workers of a shared pool: who is attached, and who died. Slots change under the lock, but for one store. */
import {
  ATTACHED,
  CLAIMED,
  DEAD,
  H_KIN,
  H_PAST,
  H_PAST_HIGH,
  kinAt,
  LOST,
  MAX_KIN,
  MAX_WORKERS,
  NO_WORKER,
  slotAt,
  W_ALLOCATIONS,
  W_ALLOCATIONS_HIGH,
  W_IDLE,
  W_STATE,
  W_THREAD,
} from './layout.ts';

export class Workers {
  readonly #header: Int32Array<SharedArrayBuffer>;

  constructor(header: Int32Array<SharedArrayBuffer>) {
    this.#header = header;
  }

  /** Takes a free slot for a thread; its number, 0 if there is none. Needs no lock. */
  claim(thread: number): number {
    for (let w = 1; w <= MAX_WORKERS; w++) {
      const slot = slotAt(w);
      // The claim says whose it is, so that a death in the middle can be undone.
      if (Atomics.compareExchange(this.#header, slot + W_STATE, NO_WORKER, CLAIMED + thread) === NO_WORKER) {
        this.#header[slot + W_THREAD] = thread;
        this.#header[slot + W_IDLE] = 0;
        this.#header[slot + W_ALLOCATIONS] = 0;
        this.#header[slot + W_ALLOCATIONS_HIGH] = 0;
        Atomics.store(this.#header, slot + W_STATE, ATTACHED);
        return w;
      }
    }
    return 0;
  }

  stateOf(w: number): number {
    return Atomics.load(this.#header, slotAt(w) + W_STATE);
  }

  threadOf(w: number): number {
    return this.#header[slotAt(w) + W_THREAD]!;
  }

  /**
   * A thread ended: it and every worker below it are dead from now on, for a thread takes those it made along.
   * Without the lock, which one of them may hold.
   */
  bury(thread: number): void {
    for (let w = 1; w <= MAX_WORKERS; w++) {
      const state = this.stateOf(w);
      if (state === CLAIMED + thread) Atomics.store(this.#header, slotAt(w) + W_STATE, NO_WORKER);
      else if (state === ATTACHED && this.#descends(w, thread)) Atomics.store(this.#header, slotAt(w) + W_STATE, DEAD);
    }
  }

  /** Thread `parent` made thread `child`, and takes it along when it ends. */
  remember(child: number, parent: number): void {
    const pair = kinAt(Atomics.add(this.#header, H_KIN, 1) & MOST_COUNTED);
    this.#header[pair + 1] = parent;
    Atomics.store(this.#header, pair, child);
  }

  #descends(w: number, ancestor: number): boolean {
    let thread = this.threadOf(w);
    // A chain can't be longer; the bound is for a control block that somebody scribbled over.
    for (let depth = 0; depth < MAX_KIN && thread !== NO_THREAD; depth++) {
      if (thread === ancestor) return true;
      thread = this.#makerOf(thread);
    }
    return false;
  }

  #makerOf(thread: number): number {
    const known = Math.min(this.#header[H_KIN]! & MOST_COUNTED, MAX_KIN);
    for (let n = 0; n < known; n++) if (this.#header[kinAt(n)] === thread) return this.#header[kinAt(n) + 1]!;
    return NO_THREAD;
  }

  /** What the worker had out is known to be lost: it left, or its death was reported. */
  lose(w: number): void {
    Atomics.store(this.#header, slotAt(w) + W_STATE, LOST);
  }

  /** What a worker counted stays counted when its slot is used again. Under the lock, before `release`. */
  settle(w: number, least: number): void {
    // Who dies may not have told of its last ones; as many as are out there were for sure.
    const past = this.past + Math.max(this.allocationsOf(w), least);
    this.#header[H_PAST] = past % RANGE;
    this.#header[H_PAST_HIGH] = Math.floor(past / RANGE);
    this.#header[slotAt(w) + W_ALLOCATIONS] = 0;
    this.#header[slotAt(w) + W_ALLOCATIONS_HIGH] = 0;
  }

  /** The slot can be used again, when nothing is in its name any more. */
  release(w: number): void {
    Atomics.store(this.#header, slotAt(w) + W_STATE, NO_WORKER);
  }

  /** How many are attached and have ever allocated a block: those who need a share of them. */
  takers(): number {
    let count = 0;
    for (let w = 1; w <= MAX_WORKERS; w++) if (this.stateOf(w) === ATTACHED && this.allocationsOf(w) > 0) count++;
    return count;
  }

  /** Numbers of the workers in a state. */
  in(state: number): number[] {
    const found: number[] = [];
    for (let w = 1; w <= MAX_WORKERS; w++) if (this.stateOf(w) === state) found.push(w);
    return found;
  }

  /** Tells the others what idles here, and what was counted: `high` times 2^30 and `low`. */
  publish(w: number, idle: number, low: number, high: number): void {
    const slot = slotAt(w);
    this.#header[slot + W_IDLE] = idle;
    this.#header[slot + W_ALLOCATIONS] = low;
    this.#header[slot + W_ALLOCATIONS_HIGH] = high;
  }

  /** Allocations of workers that left. */
  get past(): number {
    return this.#header[H_PAST_HIGH]! * RANGE + this.#header[H_PAST]!;
  }

  idleOf(w: number): number {
    return this.#header[slotAt(w) + W_IDLE]!;
  }

  allocationsOf(w: number): number {
    const slot = slotAt(w);
    return this.#header[slot + W_ALLOCATIONS_HIGH]! * RANGE + this.#header[slot + W_ALLOCATIONS]!;
  }
}

const RANGE = 2 ** 30;
const MOST_COUNTED: number = RANGE - 1;
/** No thread has this number. */
const NO_THREAD = -1;
