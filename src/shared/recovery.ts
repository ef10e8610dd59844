/**
 * Recovery after the exit of a worker:
 *
 * 1. {@link Recovery.markDead} marks its slot, without the lock.
 * 2. {@link Recovery.rebuildFreeList} rebuilds the depot's free list, in a worker that takes the lock over from it.
 * 3. {@link Recovery.recoverDead} returns its magazine to the depot and reports the blocks that it had allocated.
 * 4. {@link Recovery.reclaimLost} returns these blocks too, when no device writes to them any more.
 *
 * All steps except the first run under the lock. Each step may be killed between any two stores, and repeated.
 */
import { EMPTY } from '../pool/free-list.ts';
import type { BlockHooks } from '../pool/hooks.ts';
import { type Depot, DEPOT } from './depot.ts';
import {
  ATTACHED,
  CLAIMED,
  type Control,
  DEAD,
  H_CARVED,
  H_DEPOT,
  H_DEPOT_COUNT,
  holderOf,
  isFlight,
  LOST,
  markOf,
  MAX_WORKERS,
  NO_OWNER,
  NO_WORKER,
  slotAt,
  W_STATE,
  W_WITNESS,
} from './layout.ts';
import type { WaitTickets } from './wait-tickets.ts';
import type { Workers } from './workers.ts';

/** Report of a worker's exit. */
export interface WorkerExit {
  /** Its number in the pool. */
  readonly worker: number;
  /** Number of its thread, as in `SharedPool.thread`. */
  readonly thread: number;
  /**
   * Indices of the blocks that it had allocated or in transit. They stay allocated until `reclaim`, because a device may
   * still write to them.
   */
  readonly out: readonly number[];
}

export class Recovery {
  readonly #header: Int32Array<SharedArrayBuffer>;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #owners: Uint8Array<SharedArrayBuffer>;
  readonly #workers: Workers;
  readonly #depot: Depot;
  readonly #queue: WaitTickets;
  /** Hooks for blocks that are freed here; null: none. */
  readonly #hooks: BlockHooks | null;

  constructor(control: Control, workers: Workers, depot: Depot, queue: WaitTickets, hooks: BlockHooks | null) {
    this.#header = control.header;
    this.#words = control.words;
    this.#owners = control.owners;
    this.#workers = workers;
    this.#depot = depot;
    this.#queue = queue;
    this.#hooks = hooks;
  }

  /**
   * Marks dead all workers of an exited thread and of the threads below it, which exit with it. Needs no lock, because one
   * of them may hold it. Idempotent, so that it can be repeated after a kill.
   *
   * @param witness The worker that will recover them; 0: any.
   */
  markDead(thread: number, witness: number): void {
    for (let w = 1; w <= MAX_WORKERS; w++) {
      const slot = slotAt(w);
      const state = this.#workers.stateOf(w);
      if (state >= CLAIMED) {
        if (this.#workers.depthBelow(state - CLAIMED, thread) >= 0) {
          Atomics.compareExchange(this.#header, slot + W_STATE, state, NO_WORKER);
        }
      } else if (state === ATTACHED && this.#workers.depthBelow(this.#workers.threadOf(w), thread) >= 0) {
        this.#header[slot + W_WITNESS] = witness;
        Atomics.compareExchange(this.#header, slot + W_STATE, ATTACHED, DEAD);
      }
    }
    this.#workers.removePairsBelow(thread);
  }

  /** True if a worker is marked dead and its witness is not attached any more. */
  hasOrphans(): boolean {
    for (let w = 1; w <= MAX_WORKERS; w++) {
      if (this.#workers.stateOf(w) !== DEAD) continue;
      const witness = this.#header[slotAt(w) + W_WITNESS]!;
      if (witness < 1 || witness > MAX_WORKERS || this.#workers.stateOf(witness) !== ATTACHED) return true;
    }
    return false;
  }

  /** True if worker `w` is the witness of a dead worker. */
  hasWitnessed(w: number): boolean {
    return this.#workers.in(DEAD).some((dead) => this.#header[slotAt(dead) + W_WITNESS] === w);
  }

  /** Rebuilds the depot's list from the owner bytes, after the lock's holder died. */
  rebuildFreeList(): void {
    const carved = this.#header[H_CARVED]!;
    // Undo an interrupted carve.
    for (let index = carved; index < this.#owners.length; index++) {
      if (this.#owners[index] !== DEPOT) this.#owners[index] = DEPOT;
    }
    let head = EMPTY;
    let count = 0;
    for (let index = carved - 1; index >= 0; index--) {
      const word = this.#words[index]!;
      if (word < EMPTY) continue;
      // Complete an interrupted recovery, reclaim or refill.
      if (this.#isDead(this.#owners[index]!)) {
        this.#hooks?.scrub(index);
        this.#owners[index] = DEPOT;
      }
      if (this.#owners[index] === DEPOT) {
        this.#words[index] = head;
        head = index;
        count++;
      }
    }
    this.#header[H_DEPOT] = head;
    this.#header[H_DEPOT_COUNT] = count;
  }

  #isDead(owner: number): boolean {
    return owner !== DEPOT && owner !== NO_OWNER && this.#header[slotAt(owner) + W_STATE] !== ATTACHED;
  }

  /** Returns the magazines and drops the tickets of workers that are marked dead. Appends a report for each to `exits`. */
  recoverDead(exits: WorkerExit[]): void {
    for (const worker of this.#workers.in(DEAD)) {
      this.#queue.dropAllOf(worker);
      const out = this.recover(worker, true);
      exits.push({ worker, thread: this.#workers.threadOf(worker), out });
      this.#workers.settleCounts(worker, out.length);
      if (out.length === 0) this.#workers.release(worker);
      else this.#workers.markLost(worker);
    }
  }

  /**
   * Returns the magazine of worker `w` to the depot, and ends its transits. Returns the blocks that it had allocated.
   *
   * @param died Poison or zero the blocks before their owner bytes change: the worker may have been killed during a
   *   free, after the word changed and before the hooks ran.
   */
  recover(w: number, died: boolean): number[] {
    const out: number[] = [];
    const carved = this.#header[H_CARVED]!;
    for (let index = 0; index < carved; index++) {
      const word = this.#words[index]!;
      if (word >= EMPTY) {
        if (this.#owners[index] === w) this.#giveFree(index, died);
      } else if (holderOf(word) === w && this.#endTransit(index, word, w)) {
        out.push(index);
      }
    }
    return out;
  }

  #giveFree(index: number, scrub: boolean): void {
    if (scrub) this.#hooks?.scrub(index);
    this.#depot.giveOne(index);
  }

  /** Ends a transit from worker `w`, whose block stays allocated by it. False if another worker has just accepted the block. */
  #endTransit(index: number, word: number, w: number): boolean {
    return !isFlight(word) || Atomics.compareExchange(this.#words, index, word, markOf(w)) === word;
  }

  /** Returns the blocks that exited or detached workers had allocated to the depot, and frees their slots. Returns the number of blocks. */
  reclaimLost(): number {
    let count = 0;
    for (const worker of this.#workers.in(LOST)) {
      count += this.reclaim(worker);
      this.#workers.release(worker);
    }
    return count;
  }

  /** Returns all blocks of worker `w` to the depot, the allocated ones included. Returns their number. */
  reclaim(w: number): number {
    let count = 0;
    const carved = this.#header[H_CARVED]!;
    for (let index = 0; index < carved; index++) {
      const word = this.#words[index]!;
      if (word >= EMPTY) {
        if (this.#owners[index] !== w) continue;
        this.#hooks?.scrub(index);
      } else {
        if (holderOf(word) !== w || !this.#endTransit(index, word, w)) continue;
        // Before the word changes: after a kill the block is still allocated, and the next reclaim repeats the hook.
        this.#hooks?.freed(index);
      }
      this.#depot.giveOne(index);
      count++;
    }
    return count;
  }
}
