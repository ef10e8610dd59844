/**
 * The depot: the common free list of a shared pool. All functions run under the lock. The order of their stores allows
 * `rebuildFreeList` to restore the state after a kill between any two of them: the owner bytes determine where each block
 * belongs, and the list is only a fast way to find the depot's blocks.
 */
import { EMPTY, QUARANTINED } from '../pool/free-list.ts';
import {
  type Control,
  H_CARVED,
  H_DEPOT,
  H_DEPOT_COUNT,
  H_MAX_BLOCKS,
  H_PAGES,
  H_PER_PAGE,
  H_QUARANTINED,
} from './layout.ts';

/** Owner of the depot's blocks. */
export const DEPOT = 0;

export class Depot {
  readonly #header: Int32Array<SharedArrayBuffer>;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #owners: Uint8Array<SharedArrayBuffer>;

  constructor(control: Control) {
    this.#header = control.header;
    this.#words = control.words;
    this.#owners = control.owners;
  }

  /** Blocks in the depot. */
  get count(): number {
    return this.#header[H_DEPOT_COUNT]!;
  }

  /** Carved blocks outside the depot. */
  get outside(): number {
    return this.#header[H_CARVED]! - this.#header[H_DEPOT_COUNT]!;
  }

  /** Blocks of open pages that are not carved yet. */
  get fresh(): number {
    const opened = this.#header[H_PAGES]! * this.#header[H_PER_PAGE]!;
    return Math.max(0, Math.min(opened, this.#header[H_MAX_BLOCKS]!) - this.#header[H_CARVED]!);
  }

  /** Moves the first `count` blocks to worker `w`, as a list continued by `rest`. Returns its first block. */
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

  /** Carves `count` fresh blocks for worker `w`, as an ascending list continued by `rest`. Returns its first block. */
  carve(w: number, count: number, rest: number): number {
    const first = this.#header[H_CARVED]!;
    const last = first + count - 1;
    for (let index = first; index <= last; index++) {
      this.#words[index] = index === last ? rest : index + 1;
      this.#owners[index] = w;
    }
    // Last: after a kill before this store, the blocks are still fresh.
    this.#header[H_CARVED] = first + count;
    return first;
  }

  /** Prepends a list of `count` blocks, from `first` to `last`. */
  give(first: number, last: number, count: number): void {
    this.#words[last] = this.#header[H_DEPOT]!;
    this.#header[H_DEPOT] = first;
    this.#header[H_DEPOT_COUNT] = this.#header[H_DEPOT_COUNT]! + count;
    for (let index = first; ; index = this.#words[index]!) {
      this.#owners[index] = DEPOT;
      if (index === last) return;
    }
  }

  /** Prepends one block. */
  giveOne(index: number): void {
    this.#words[index] = this.#header[H_DEPOT]!;
    this.#owners[index] = DEPOT;
    this.#header[H_DEPOT] = index;
    this.#header[H_DEPOT_COUNT] = this.#header[H_DEPOT_COUNT]! + 1;
  }

  /** Quarantines a block. */
  quarantine(index: number): void {
    this.#words[index] = QUARANTINED;
    this.#owners[index] = DEPOT;
    this.#header[H_QUARANTINED] = this.#header[H_QUARANTINED]! + 1;
  }

  /** Releases a block from quarantine to worker `w`, whose mark is `mark`. */
  release(index: number, w: number, mark: number): void {
    this.#header[H_QUARANTINED] = this.#header[H_QUARANTINED]! - 1;
    this.#owners[index] = w;
    this.#words[index] = mark;
  }

  /** Number of free blocks in the magazine of worker `w`. */
  idleOf(w: number): number {
    let count = 0;
    for (let index = 0; index < this.#header[H_CARVED]!; index++) {
      if (this.#owners[index] === w && this.#words[index]! >= EMPTY) count++;
    }
    return count;
  }
}
