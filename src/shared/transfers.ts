/**
 * Blocks in transit between workers, as their users see them: tickets, errors, and all or none of many.
 *
 * A word says whose a block is while it is allocated, so a transfer is one store in the giver and one compareExchange in
 * the worker that accepts. A compareExchange ends a transit in one of three ways, and the first of them counts: another
 * worker accepts the block, its giver recalls it, or its giver is found dead (recovery.ts).
 *
 *     giver:  transferOut     word: mark of the giver -> flight of (giver, nonce)       owner: NO_OWNER
 *     other:  transferIn      word: flight -> mark of the other                         owner: the other
 *     giver:  recall          word: flight -> mark of the giver                         owner: the giver
 *
 * A ticket is a block in transit as one number, which goes through any channel:
 *
 *     bits   52 ... 29   28 ... 23   22 ... 0
 *            nonce       giver       index
 *            ------- way -------
 *
 * The way also stands in the block's word, so a ticket is good for one transfer only. No `%` here: on numbers this large
 * it is a call into the C library, and the divisors are powers of two anyway.
 */
import { checkInteger } from '../arguments.ts';
import type { ListControl } from '../pool/free-list.ts';
import {
  type Control,
  flightOf,
  giverOf,
  holderOf,
  isFlight,
  markOf,
  NO_OWNER,
  slotAt,
  W_NONCE,
  wayOf,
  wayOfFlight,
} from './layout.ts';

/** Bits of an index in a ticket. */
const INDEX_RANGE = 2 ** 23;
/** Nonces of transfers; a way is a small integer. */
const NONCES = 2 ** 24;

function encodeTicket(way: number, index: number): number {
  return way * INDEX_RANGE + index;
}

/** The way that a ticket names; any whole number below 2^53 gives some way. */
function wayOfTicket(ticket: number): number {
  // As a small integer, like the index: the engine would learn from a float that the hot path's indices may be floats.
  return Math.floor(ticket / INDEX_RANGE) | 0;
}

export function indexOfTicket(ticket: number): number {
  return (ticket - Math.floor(ticket / INDEX_RANGE) * INDEX_RANGE) | 0;
}

export function giverOfTicket(ticket: number): number {
  return giverOf(wayOfTicket(ticket));
}

/** A block in transit: given by this worker and accepted by none. */
export interface TransitEntry {
  /** What `transfer` returned. */
  readonly ticket: number;
  /** The block's index. */
  readonly index: number;
}

export class Transfers {
  readonly #header: Int32Array<SharedArrayBuffer>;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #owners: Uint8Array<SharedArrayBuffer>;
  readonly #list: ListControl;
  readonly #me: number;
  readonly #mark: number;
  readonly #renewsHandles: boolean;
  // Kept, so that accepting many makes no garbage.
  #indices = new Int32Array(0);
  #ways = new Int32Array(0);

  /** @param renewsHandles Whether a block that arrives gets a new object, as one that is allocated does. */
  constructor(control: Control, list: ListControl, worker: number, renewsHandles: boolean) {
    this.#header = control.header;
    this.#words = control.words;
    this.#owners = control.owners;
    this.#list = list;
    this.#me = worker;
    this.#mark = markOf(worker);
    this.#renewsHandles = renewsHandles;
  }

  /** Puts a block that this worker owns in transit, and returns its ticket; -1: this worker does not own it. */
  transferOut(index: number): number {
    if (this.#words[index] !== this.#mark) return -1;
    const at = slotAt(this.#me) + W_NONCE;
    const nonce = (this.#header[at]! + 1) & (NONCES - 1);
    this.#header[at] = nonce;
    this.#list.move(-1);
    const way = wayOf(this.#me, nonce);
    this.#launch(index, way);
    return encodeTicket(way, index);
  }

  #launch(index: number, way: number): void {
    // Before the word: the recovery of this worker sees it, and does not take the block from its next owner.
    this.#owners[index] = NO_OWNER;
    // Store-release: what was written to the block before is seen by the worker that accepts it.
    Atomics.store(this.#words, index, flightOf(way));
  }

  /** Ends a transit in this worker; false if it has ended already, or never was one. */
  #land(index: number, way: number): boolean {
    if (index >= this.#words.length) return false;
    const word = flightOf(way);
    if (Atomics.compareExchange(this.#words, index, word, this.#mark) !== word) return false;
    // Before the block can be free again, which is when the owner matters.
    this.#owners[index] = this.#me;
    this.#list.move(1);
    return true;
  }

  #renew(index: number): void {
    if (this.#renewsHandles) this.#list.dropObject(index);
  }

  /** Accepts a block by its ticket, and returns its index; -1 if it is not in transit. */
  transferIn(ticket: number): number {
    const index = indexOfTicket(ticket);
    if (!this.#land(index, wayOfTicket(ticket))) return -1;
    this.#renew(index);
    return index;
  }

  /** Reads tickets for {@link transferInAll}, once: other threads may write to the caller's array. */
  readTickets(tickets: Float64Array, count: number): void {
    if (this.#indices.length < count) {
      this.#indices = new Int32Array(count);
      this.#ways = new Int32Array(count);
    }
    for (let i = 0; i < count; i++) {
      const ticket = tickets[i]!;
      checkInteger('ticket', ticket, 0, Number.MAX_SAFE_INTEGER);
      this.#indices[i] = indexOfTicket(ticket);
      this.#ways[i] = wayOfTicket(ticket);
    }
  }

  /**
   * {@link transferIn} for the first `count` tickets that were read: all of them and -1, or none and the first ticket that
   * is not in transit. Under the lock, so that neither the recovery of a giver nor a recall sees blocks that this call
   * puts back in transit.
   *
   * @param into Where the indices go.
   */
  transferInAll(into: Int32Array, count: number): number {
    const indices = this.#indices;
    const ways = this.#ways;
    for (let i = 0; i < count; i++) {
      if (this.#land(indices[i]!, ways[i]!)) continue;
      for (let k = i - 1; k >= 0; k--) {
        this.#list.move(-1);
        this.#launch(indices[k]!, ways[k]!);
      }
      return encodeTicket(ways[i]!, indices[i]!);
    }
    for (let i = 0; i < count; i++) {
      this.#renew(indices[i]!);
      into[i] = indices[i]!;
    }
    return -1;
  }

  /** Blocks in transit that this worker gave, ascending by index. */
  inTransit(): TransitEntry[] {
    const entries: TransitEntry[] = [];
    for (let index = 0; index < this.#words.length; index++) {
      const word = Atomics.load(this.#words, index);
      if (isFlight(word) && holderOf(word) === this.#me) {
        entries.push({ ticket: encodeTicket(wayOfFlight(word), index), index });
      }
    }
    return entries;
  }

  /**
   * Takes back the blocks of these tickets that this worker gave and none has accepted; returns their indices. Under the
   * lock, so that a bulk accept is seen as a whole.
   */
  recall(tickets: readonly number[]): number[] {
    const recalled: number[] = [];
    for (const ticket of tickets) {
      if (giverOfTicket(ticket) !== this.#me) continue;
      const index = this.transferIn(ticket);
      if (index >= 0) recalled.push(index);
    }
    return recalled;
  }
}
