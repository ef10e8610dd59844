/** The worker slots of a shared pool, and the recorded parent/child thread pairs. */
import {
  ATTACHED,
  CLAIMED,
  H_THREAD_PAIRS,
  H_UNRECORDED,
  H_PAST,
  H_PAST_HIGH,
  threadPairAt,
  LOST,
  MAX_THREAD_PAIRS,
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

  /** Claims a free slot for a thread. Returns its number, or 0 if there is none. Needs no lock. */
  claim(thread: number): number {
    for (let w = 1; w <= MAX_WORKERS; w++) {
      const slot = slotAt(w);
      // The claim contains the thread, so that markDead can undo it.
      if (Atomics.compareExchange(this.#header, slot + W_STATE, NO_WORKER, CLAIMED + thread) === NO_WORKER) {
        this.#header[slot + W_THREAD] = thread;
        this.#header[slot + W_IDLE] = 0;
        this.#header[slot + W_ALLOCATIONS] = 0;
        this.#header[slot + W_ALLOCATIONS_HIGH] = 0;
        this.#header[slot + W_TERM] = (this.#header[slot + W_TERM]! + 1) & MAX_TERM;
        // No plain store: another worker may have marked this thread's claim dead.
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

  /** Number of claims of the slot. */
  termOf(w: number): number {
    return this.#header[slotAt(w) + W_TERM]!;
  }

  /** True if a worker of this thread is attached. */
  hasThread(thread: number): boolean {
    return this.in(ATTACHED).some((w) => this.threadOf(w) === thread);
  }

  // ---- parent/child threads

  /**
   * Records thread `parent` as the parent of thread `child`, until {@link removePairsBelow} of either. False if the table
   * is full. The claim of an entry contains the parent, so that `removePairsBelow` can undo it after a kill.
   */
  recordPair(child: number, parent: number): boolean {
    if (this.isRecorded(child)) return true;
    for (let n = 0; n < MAX_THREAD_PAIRS; n++) {
      const pair = threadPairAt(n);
      if (this.#header[pair] !== FREE || Atomics.compareExchange(this.#header, pair, FREE, claimBy(parent)) !== FREE) {
        continue;
      }
      this.#header[pair + 1] = parent;
      for (let used = this.#usedEntries(); used <= n; used = this.#usedEntries()) {
        Atomics.compareExchange(this.#header, H_THREAD_PAIRS, used, n + 1);
      }
      Atomics.store(this.#header, pair, child);
      return true;
    }
    return false;
  }

  /** True if a thread's parent is recorded. The parent then watches it, and has received no exit event. */
  isRecorded(child: number): boolean {
    return this.#parentOf(child) !== NO_THREAD;
  }

  /** True if `thread` is `ancestor` or recorded below it. */
  isBelow(thread: number, ancestor: number): boolean {
    return this.depthBelow(thread, ancestor) >= 0;
  }

  /** Counts a live thread that {@link recordPair} could not record, or uncounts it. */
  countUnrecorded(change: 1 | -1): void {
    Atomics.add(this.#header, H_UNRECORDED, change);
  }

  /** Number of live threads that {@link recordPair} could not record. */
  unrecorded(): number {
    return Atomics.load(this.#header, H_UNRECORDED);
  }

  #usedEntries(): number {
    return Math.min(Atomics.load(this.#header, H_THREAD_PAIRS), MAX_THREAD_PAIRS);
  }

  /** Generations from `ancestor` down to `thread`, 0 for itself; -1 if `thread` is not below it. */
  depthBelow(thread: number, ancestor: number): number {
    let above = thread;
    for (let depth = 0; depth <= MAX_THREAD_PAIRS && above !== NO_THREAD; depth++) {
      if (above === ancestor) return depth;
      above = this.#parentOf(above);
    }
    return -1;
  }

  #parentOf(thread: number): number {
    // The parent in a free entry is stale.
    if (thread === FREE) return NO_THREAD;
    const used = this.#usedEntries();
    for (let n = 0; n < used; n++)
      if (this.#header[threadPairAt(n)] === thread) return this.#header[threadPairAt(n) + 1]!;
    return NO_THREAD;
  }

  /**
   * Frees the entries of an exited thread and of all threads below it, the lowest first. After an interruption the
   * remaining entries still form a tree below `ancestor`, so that a repeated call frees them.
   */
  removePairsBelow(ancestor: number): void {
    const entries: { pair: number; child: number; depth: number }[] = [];
    const used = Math.min(this.#usedEntries() + 1, MAX_THREAD_PAIRS);
    for (let n = 0; n < used; n++) {
      const pair = threadPairAt(n);
      const child = this.#header[pair]!;
      if (child === FREE) continue;
      const depth = this.depthBelow(child < 0 ? claimantOf(child) : child, ancestor);
      if (depth >= 0) entries.push({ pair, child, depth });
    }
    entries.sort((a, b) => b.depth - a.depth);
    for (const { pair, child } of entries) Atomics.compareExchange(this.#header, pair, child, FREE);
  }

  /** Keeps the slot for the allocated blocks of a detached or recovered worker, until they are reclaimed. */
  markLost(w: number): void {
    Atomics.store(this.#header, slotAt(w) + W_STATE, LOST);
  }

  /** Adds a worker's allocations, at least `least`, to those of past workers. Under the lock, before {@link release} or {@link markLost}. */
  settleCounts(w: number, least: number): void {
    // A killed worker's stored count may be too low, and allocations >= allocated blocks.
    const past = this.past + Math.max(this.allocationsOf(w), least);
    this.#header[H_PAST] = past % RANGE;
    this.#header[H_PAST_HIGH] = Math.floor(past / RANGE);
    this.#header[slotAt(w) + W_ALLOCATIONS] = 0;
    this.#header[slotAt(w) + W_ALLOCATIONS_HIGH] = 0;
  }

  /** Frees the slot of a worker that has no blocks any more. */
  release(w: number): void {
    Atomics.store(this.#header, slotAt(w) + W_STATE, NO_WORKER);
  }

  /**
   * Number of shares into which the blocks are divided: that of the attached workers that ever allocated a block, and at
   * least two if several are attached, because another one may need blocks next.
   */
  shares(): number {
    let attached = 0;
    let allocating = 0;
    for (let w = 1; w <= MAX_WORKERS; w++) {
      if (this.stateOf(w) !== ATTACHED) continue;
      attached++;
      if (this.allocationsOf(w) > 0) allocating++;
    }
    return Math.max(1, allocating, Math.min(attached, 2));
  }

  /** Allocations by the attached workers other than `w`, as far as they have stored them. */
  allocationsByOthers(w: number): number {
    let sum = 0;
    for (let other = 1; other <= MAX_WORKERS; other++) {
      if (other !== w && this.stateOf(other) === ATTACHED) sum += this.allocationsOf(other);
    }
    return sum;
  }

  /** Numbers of the workers in `state`. */
  in(state: number): number[] {
    const found: number[] = [];
    for (let w = 1; w <= MAX_WORKERS; w++) if (this.stateOf(w) === state) found.push(w);
    return found;
  }

  /** Stores the counts of worker `w` for the other workers: free blocks in its magazine, and allocations. */
  storeCounts(w: number, idle: number, allocations: number): void {
    const slot = slotAt(w);
    this.#header[slot + W_IDLE] = idle;
    this.#header[slot + W_ALLOCATIONS] = allocations % RANGE;
    this.#header[slot + W_ALLOCATIONS_HIGH] = Math.floor(allocations / RANGE);
  }

  /** Allocations of past workers. */
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
const MAX_TERM: number = RANGE - 1;
/** No thread has this number. */
const NO_THREAD = -1;
/** In place of a child: the entry is free. No child has this number, which is that of the main thread. */
const FREE = 0;

/** In place of a child: thread `parent` is filling the entry. */
function claimBy(parent: number): number {
  return -2 - parent;
}

function claimantOf(claim: number): number {
  return -2 - claim;
}
