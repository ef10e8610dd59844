/**
 * The depot: the common stock of free blocks, and how blocks move between it and the magazines. Everything here runs
 * under the lock, and every order of stores is chosen so that the state can be rebuilt after a kill between any two of
 * them: owners tell where each block belongs, and the list is only a way to find the depot's blocks quickly.
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
  giveOne(index: number): void {
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

  /** How many free blocks a worker has at hand. */
  idleOf(w: number): number {
    let count = 0;
    for (let index = 0; index < this.#header[H_CARVED]!; index++) {
      if (this.#owners[index] === w && this.#words[index]! >= EMPTY) count++;
    }
    return count;
  }
}
