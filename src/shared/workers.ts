/** The workers of a shared pool: who is attached, and who died. Slots change under the lock, but for one store. */
import {
  ATTACHED,
  CLAIMED,
  H_KIN,
  H_KIN_MISSED,
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
  W_TERM,
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
        this.#header[slot + W_TERM] = (this.#header[slot + W_TERM]! + 1) & MOST_COUNTED;
        // Not a plain store: somebody may have declared this thread ended meanwhile.
        if (Atomics.compareExchange(this.#header, slot + W_STATE, CLAIMED + thread, ATTACHED) === CLAIMED + thread) {
          return w;
        }
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

  /** How often the slot was claimed so far. */
  termOf(w: number): number {
    return this.#header[slotAt(w) + W_TERM]!;
  }

  /** True if a worker of this thread is attached. */
  hasThread(thread: number): boolean {
    return this.in(ATTACHED).some((w) => this.threadOf(w) === thread);
  }

  // ---- which thread made which

  /**
   * Records that thread `parent` made thread `child`, until {@link forgetBelow} of either. False if the table is full.
   * The claim of an entry says whose it is, so that a death in the middle can be undone.
   */
  remember(child: number, parent: number): boolean {
    if (this.isRecorded(child)) return true;
    for (let n = 0; n < MAX_KIN; n++) {
      const pair = kinAt(n);
      if (this.#header[pair] !== FREE || Atomics.compareExchange(this.#header, pair, FREE, claimBy(parent)) !== FREE) {
        continue;
      }
      this.#header[pair + 1] = parent;
      for (let used = this.#usedEntries(); used <= n; used = this.#usedEntries()) {
        Atomics.compareExchange(this.#header, H_KIN, used, n + 1);
      }
      Atomics.store(this.#header, pair, child);
      return true;
    }
    return false;
  }

  /** True if a thread's parent is recorded: then that parent watches it, and it has not ended as far as is known. */
  isRecorded(child: number): boolean {
    return this.#parentOf(child) !== NO_THREAD;
  }

  /** True if `thread` is `ancestor`, or below it as far as is recorded. */
  isBelow(thread: number, ancestor: number): boolean {
    return this.depthBelow(thread, ancestor) >= 0;
  }

  /** Counts living threads for which {@link remember} had no room. */
  countMissed(change: 1 | -1): void {
    Atomics.add(this.#header, H_KIN_MISSED, change);
  }

  /** Living threads that {@link remember} had no room for. */
  missed(): number {
    return Atomics.load(this.#header, H_KIN_MISSED);
  }

  #usedEntries(): number {
    return Math.min(Atomics.load(this.#header, H_KIN), MAX_KIN);
  }

  /** Generations from `ancestor` down to `thread`, 0 for itself; -1 if it is not below it. */
  depthBelow(thread: number, ancestor: number): number {
    let above = thread;
    for (let depth = 0; depth <= MAX_KIN && above !== NO_THREAD; depth++) {
      if (above === ancestor) return depth;
      above = this.#parentOf(above);
    }
    return -1;
  }

  #parentOf(thread: number): number {
    // What a free entry says of a parent is out of date.
    if (thread === FREE) return NO_THREAD;
    const used = this.#usedEntries();
    for (let n = 0; n < used; n++) if (this.#header[kinAt(n)] === thread) return this.#header[kinAt(n) + 1]!;
    return NO_THREAD;
  }

  /**
   * Frees the entries of a thread that ended and of those below it. The lowest first: if this is interrupted, what is
   * left still hangs together, and the end of the thread above frees it.
   */
  forgetBelow(ancestor: number): void {
    const entries: { pair: number; child: number; depth: number }[] = [];
    const used = Math.min(this.#usedEntries() + 1, MAX_KIN);
    for (let n = 0; n < used; n++) {
      const pair = kinAt(n);
      const child = this.#header[pair]!;
      if (child === FREE) continue;
      const depth = this.depthBelow(child < 0 ? claimantOf(child) : child, ancestor);
      if (depth >= 0) entries.push({ pair, child, depth });
    }
    entries.sort((a, b) => b.depth - a.depth);
    for (const { pair, child } of entries) Atomics.compareExchange(this.#header, pair, child, FREE);
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

  /** Stores the counts of worker `w`, which the others read: free blocks in its magazine, and its allocations. */
  storeCounts(w: number, idle: number, allocations: number): void {
    const slot = slotAt(w);
    this.#header[slot + W_IDLE] = idle;
    this.#header[slot + W_ALLOCATIONS] = allocations % RANGE;
    this.#header[slot + W_ALLOCATIONS_HIGH] = Math.floor(allocations / RANGE);
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
/** In place of a child: the entry is free. The main thread, number 0, is nobody's child. */
const FREE = 0;

/** In place of a child: thread `parent` is about to fill the entry. */
function claimBy(parent: number): number {
  return -2 - parent;
}

function claimantOf(claim: number): number {
  return -2 - claim;
}
