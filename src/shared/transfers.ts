/**
 * Blocks that go from worker to worker. A word says whose a block is while it is handed out, so passing it on is one
 * store in the giver and one compareExchange in whoever accepts; no lock is needed, and whichever of an acceptance and
 * the giver's funeral changes the word first is the one that counts.
 */
import type { ListControl } from '../pool/free-list.ts';
import { type Control, flightOf, markOf, NO_OWNER, slotAt, W_NONCE } from './layout.ts';

export class Transfers {
  readonly #header: Int32Array<SharedArrayBuffer>;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #owners: Uint8Array<SharedArrayBuffer>;
  readonly #list: ListControl;
  readonly #me: number;
  readonly #mark: number;

  constructor(control: Control, list: ListControl, worker: number) {
    this.#header = control.header;
    this.#words = control.words;
    this.#owners = control.owners;
    this.#list = list;
    this.#me = worker;
    this.#mark = markOf(worker);
  }

  /** Puts a block that this worker handed out on its way, and returns the way; -1: not ours. */
  send(index: number): number {
    if (this.#words[index] !== this.#mark) return -1;
    const at = slotAt(this.#me) + W_NONCE;
    const nonce = nextNonce(this.#header[at]!);
    this.#header[at] = nonce;
    this.#list.depart();
    const way = wayOf(this.#me, nonce);
    this.#launch(index, way);
    return way;
  }

  #launch(index: number, way: number): void {
    // Before the word: who buries this worker later sees it, and does not take the block from its next owner.
    this.#owners[index] = NO_OWNER;
    // Releases: what was written to the block before is seen by whoever accepts it.
    Atomics.store(this.#words, index, flightOf(way));
  }

  /** Takes a block on its way; false if it is on its way no more: accepted already, or its giver was buried. */
  receive(index: number, way: number): boolean {
    const word = flightOf(way);
    if (Atomics.compareExchange(this.#words, index, word, this.#mark) !== word) return false;
    // Before it can be free again, which is when the owner matters.
    this.#owners[index] = this.#me;
    this.#list.arrive();
    return true;
  }

  /**
   * {@link receive} for many: all of them, and -1; or none, and the place of the first that can't be had. Under the
   * lock, so that no giver is buried before blocks that came for nothing are on their way again.
   */
  receiveAll(indices: Int32Array, ways: Int32Array, count: number): number {
    for (let i = 0; i < count; i++) {
      if (this.receive(indices[i]!, ways[i]!)) continue;
      for (let k = i - 1; k >= 0; k--) {
        this.#list.depart();
        this.#launch(indices[k]!, ways[k]!);
      }
      return i;
    }
    return -1;
  }
}

/**
 * A block on its way between workers, as one number that goes through any channel:
 *
 *     bits   52 ... 29   28 ... 23   22 ... 0
 *            nonce       giver       index
 *            ------- way -------
 *
 * The way also stands in the block's word while it is under way, so a ticket is good for one transfer only. No `%`
 * here: on numbers this large it is a call into the C library, and the divisors are powers of two anyway.
 */

/** Bits of an index in a ticket, and of a worker's number in a way. */
const INDEX_RANGE = 2 ** 23;
const WORKER_RANGE = 64;
/** Nonces of transfers; a way is a small integer. */
const NONCES = 2 ** 24;

/** The way of worker `giver`'s transfer number `nonce`. */
export function wayOf(giver: number, nonce: number): number {
  return nonce * WORKER_RANGE + giver;
}

export function nextNonce(nonce: number): number {
  return (nonce + 1) & (NONCES - 1);
}

export function encodeTicket(way: number, index: number): number {
  return way * INDEX_RANGE + index;
}

/** The way that a ticket names; any whole number below 2^53 gives some way. */
export function wayOfTicket(ticket: number): number {
  // As a small integer, like the index: the engine would learn from a float that the hot path's indices may be floats.
  return Math.floor(ticket / INDEX_RANGE) | 0;
}

export function indexOfTicket(ticket: number): number {
  return (ticket - Math.floor(ticket / INDEX_RANGE) * INDEX_RANGE) | 0;
}

export function giverOf(way: number): number {
  return way & (WORKER_RANGE - 1);
}
