/**
 * What happens after the end of a worker:
 *
 * 1. Its thread ended: {@link Recovery.markDead}, without the lock.
 * 2. It may have died with the lock: the worker that takes the lock over rebuilds the depot's free list,
 *    {@link Recovery.rebuildFreeList}.
 * 3. Its magazine returns to the depot, and what it had allocated is reported: {@link Recovery.recoverDead}.
 * 4. Once no device writes there any more, what it had allocated returns too: {@link Recovery.reclaimLost}.
 *
 * Everything but the first step runs under the lock. Each step can be killed between any two stores and done again.
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

/** What became of a worker that died. */
export interface WorkerExit {
  /** Its number in the pool. */
  readonly worker: number;
  /** The thread's number, as the platform gave it. */
  readonly thread: number;
  /**
   * Indices of the blocks that it had allocated, those in transit from it included. They stay so until `reclaim`, since a
   * device may still write there.
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
  /** What is done to blocks that become free without a call of their holder; null: nothing. */
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
   * Marks dead every worker of a thread that ended and of the threads below it, since a thread takes along those it
   * made. Without the lock, which one of them may hold. Idempotent, so a caller killed half-way does no harm.
   *
   * @param witness The worker that is going to recover them; 0: any.
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
    this.#workers.forgetBelow(thread);
  }

  /** True if a worker is marked dead, and the worker that marked it is gone too. */
  hasOrphans(): boolean {
    for (let w = 1; w <= MAX_WORKERS; w++) {
      if (this.#workers.stateOf(w) !== DEAD) continue;
      const witness = this.#header[slotAt(w) + W_WITNESS]!;
      if (witness < 1 || witness > MAX_WORKERS || this.#workers.stateOf(witness) !== ATTACHED) return true;
    }
    return false;
  }

  /** True if a worker is marked dead that worker `w` is to recover. */
  hasWitnessed(w: number): boolean {
    return this.#workers.in(DEAD).some((dead) => this.#header[slotAt(dead) + W_WITNESS] === w);
  }

  /** After a worker died with the lock: makes the depot's list anew from what the owners say. */
  rebuildFreeList(): void {
    const carved = this.#header[H_CARVED]!;
    // A carve was interrupted: these blocks are not carved, so they belong to no worker.
    for (let index = carved; index < this.#owners.length; index++) {
      if (this.#owners[index] !== DEPOT) this.#owners[index] = DEPOT;
    }
    let head = EMPTY;
    let count = 0;
    for (let index = carved - 1; index >= 0; index--) {
      const word = this.#words[index]!;
      if (word < EMPTY) continue;
      // A recovery or a reclaim was interrupted, or a magazine was half filled.
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

  /** What lay in the magazines of workers that are marked dead returns to the depot. Adds a report for each to `exits`. */
  recoverDead(exits: WorkerExit[]): void {
    for (const worker of this.#workers.in(DEAD)) {
      this.#queue.dropAllOf(worker);
      const out = this.recover(worker, true);
      exits.push({ worker, thread: this.#workers.threadOf(worker), out });
      this.#workers.settle(worker, out.length);
      if (out.length === 0) this.#workers.release(worker);
      else this.#workers.lose(worker);
    }
  }

  /**
   * What lies in the magazine of worker `w` returns to the depot. Returns the blocks that it had allocated.
   *
   * @param died It may have been killed in the middle of a free, with a word that says free and the bytes of a block in
   *   use. So the bytes of its magazine are made those of free blocks, before the owner says that they are the depot's.
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

  /** A block that worker `w` gave can't be accepted any more; false if a worker has just accepted it. */
  #endTransit(index: number, word: number, w: number): boolean {
    return !isFlight(word) || Atomics.compareExchange(this.#words, index, word, markOf(w)) === word;
  }

  /** What workers that ended or left had allocated returns to the depot; how many blocks. */
  reclaimLost(): number {
    let count = 0;
    for (const worker of this.#workers.in(LOST)) {
      count += this.reclaim(worker);
      this.#workers.release(worker);
    }
    return count;
  }

  /** All blocks of worker `w` return to the depot, those that it had allocated included; how many. */
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
        // Before the word says free: killed in the middle, the block stays allocated, and the next reclaim does it again.
        this.#hooks?.freed(index);
      }
      this.#depot.giveOne(index);
      count++;
    }
    return count;
  }
}
