/**
 * The depot: the common stock of free blocks, and how blocks move between it and the magazines. Everything here runs
 * under the lock, and every order of stores is chosen so that a kill between any two of them can be mended: owners
 * tell where each block belongs, and the list is only a way to find the depot's blocks quickly.
 */
import { EMPTY, QUARANTINED } from '../pool/free-list.ts';
import type { BlockHooks } from '../pool/hooks.ts';
import {
  ATTACHED,
  type Control,
  H_CARVED,
  H_DEPOT,
  H_DEPOT_COUNT,
  H_MAX_BLOCKS,
  H_PAGES,
  H_PER_PAGE,
  H_QUARANTINED,
  holderOf,
  isFlight,
  markOf,
  NO_OWNER,
  slotAt,
  W_STATE,
} from './layout.ts';

/** Owner of the depot's blocks. */
const DEPOT = 0;

export class Depot {
  readonly #header: Int32Array<SharedArrayBuffer>;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #owners: Uint8Array<SharedArrayBuffer>;

  /** What is done to blocks that become free without a call of their holder; null: nothing. */
  readonly #hooks: BlockHooks | null;

  constructor(control: Control, hooks: BlockHooks | null) {
    this.#hooks = hooks;
    this.#header = control.header;
    this.#words = control.words;
    this.#owners = control.owners;
  }

  /** Blocks in the depot. */
  get count(): number {
    return this.#header[H_DEPOT_COUNT]!;
  }

  /** Blocks that are in hands or magazines. */
  get away(): number {
    return this.#header[H_CARVED]! - this.#header[H_DEPOT_COUNT]!;
  }

  /** Blocks of open pages that were never in anybody's hands. */
  get fresh(): number {
    const opened = this.#header[H_PAGES]! * this.#header[H_PER_PAGE]!;
    return Math.max(0, Math.min(opened, this.#header[H_MAX_BLOCKS]!) - this.#header[H_CARVED]!);
  }

  /** Gives the first `count` blocks to worker `w`, as a list that goes on with `rest`; returns its first one. */
  take(w: number, count: number, rest: number): number {
    const first = this.#header[H_DEPOT]!;
    let last = first;
    this.#owners[first] = w;
    for (let i = 1; i < count; i++) {
      last = this.#words[last]!;
      this.#owners[last] = w;
    }
    this.#header[H_DEPOT] = this.#words[last]!;
    this.#header[H_DEPOT_COUNT] = this.#header[H_DEPOT_COUNT]! - count;
    this.#words[last] = rest;
    return first;
  }

  /** Gives the next `count` fresh blocks to worker `w`, as an ascending list that goes on with `rest`; returns its first. */
  carve(w: number, count: number, rest: number): number {
    const first = this.#header[H_CARVED]!;
    const last = first + count - 1;
    for (let index = first; index <= last; index++) {
      this.#words[index] = index === last ? rest : index + 1;
      this.#owners[index] = w;
    }
    // Only now are they carved: what was written before counts for nothing if this is not reached.
    this.#header[H_CARVED] = first + count;
    return first;
  }

  /** Takes a list of `count` blocks, from `first` to `last`, back from whoever had it. */
  give(first: number, last: number, count: number): void {
    this.#words[last] = this.#header[H_DEPOT]!;
    this.#header[H_DEPOT] = first;
    this.#header[H_DEPOT_COUNT] = this.#header[H_DEPOT_COUNT]! + count;
    for (let index = first; ; index = this.#words[index]!) {
      this.#owners[index] = DEPOT;
      if (index === last) return;
    }
  }

  /** Takes one free or lost block of worker `w` back. */
  #giveOne(index: number): void {
    this.#words[index] = this.#header[H_DEPOT]!;
    this.#owners[index] = DEPOT;
    this.#header[H_DEPOT] = index;
    this.#header[H_DEPOT_COUNT] = this.#header[H_DEPOT_COUNT]! + 1;
  }

  /** A block of worker `w` is never to be handed out again. */
  quarantine(index: number): void {
    this.#words[index] = QUARANTINED;
    this.#owners[index] = DEPOT;
    this.#header[H_QUARANTINED] = this.#header[H_QUARANTINED]! + 1;
  }

  /** Takes a block out of quarantine, for worker `w`, with its mark. */
  release(index: number, w: number, mark: number): void {
    this.#header[H_QUARANTINED] = this.#header[H_QUARANTINED]! - 1;
    this.#owners[index] = w;
    this.#words[index] = mark;
  }

  /**
   * What lies in the magazine of worker `w` comes back. Returns the blocks that it had handed out.
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
      } else if (holderOf(word) === w && this.#stop(index, word, w)) {
        out.push(index);
      }
    }
    return out;
  }

  #giveFree(index: number, scrub: boolean): void {
    if (scrub) this.#hooks?.scrub(index);
    this.#giveOne(index);
  }

  /** Nobody shall accept a block any more that worker `w` had handed out; false if somebody just did. */
  #stop(index: number, word: number, w: number): boolean {
    return !isFlight(word) || Atomics.compareExchange(this.#words, index, word, markOf(w)) === word;
  }

  /** How many free blocks a worker has at hand. */
  idleOf(w: number): number {
    let count = 0;
    for (let index = 0; index < this.#header[H_CARVED]!; index++) {
      if (this.#owners[index] === w && this.#words[index]! >= EMPTY) count++;
    }
    return count;
  }

  /** What a worker that is gone had handed out comes back too: nobody, no device either, writes there any more. */
  reclaim(w: number): number {
    let count = 0;
    const carved = this.#header[H_CARVED]!;
    for (let index = 0; index < carved; index++) {
      const word = this.#words[index]!;
      if (word >= EMPTY) {
        if (this.#owners[index] !== w) continue;
        this.#hooks?.scrub(index);
      } else {
        if (holderOf(word) !== w || !this.#stop(index, word, w)) continue;
        // Before the word says free: killed in the middle, the block stays out, and the next reclaim does it again.
        this.#hooks?.freed(index);
      }
      this.#giveOne(index);
      count++;
    }
    return count;
  }

  #isDead(owner: number): boolean {
    return owner !== DEPOT && owner !== NO_OWNER && this.#header[slotAt(owner) + W_STATE] !== ATTACHED;
  }

  /** Mends everything after a worker died with the lock: the list is made anew from what the owners say. */
  mend(): void {
    const carved = this.#header[H_CARVED]!;
    // Died in carve(): not carved, so nobody's.
    for (let index = carved; index < this.#owners.length; index++) {
      if (this.#owners[index] !== DEPOT) this.#owners[index] = DEPOT;
    }
    let head = EMPTY;
    let count = 0;
    for (let index = carved - 1; index >= 0; index--) {
      const word = this.#words[index]!;
      if (word < EMPTY) continue;
      // Died in recover() or reclaim(), or with a half-filled magazine.
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
}
