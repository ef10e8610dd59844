/**
 * Transfers of blocks between workers, and their tickets.
 *
 * A transfer is one store by the giver. A compareExchange ends the transit, so exactly one of three operations succeeds:
 * another worker accepts the block, the giver recalls it, or a worker recovers the dead giver (recovery.ts).
 *
 *     giver:  transferOut     word: mark of the giver -> flight of (giver, nonce)       owner: NO_OWNER
 *     other:  transferIn      word: flight -> mark of the other                         owner: the other
 *     giver:  recall          word: flight -> mark of the giver                         owner: the giver
 *
 * A ticket identifies a block in transit as one number, for any channel between workers:
 *
 *     bits   52 ... 29   28 ... 23   22 ... 0
 *            nonce       giver       index
 *            --- transfer id ---
 *
 * The block's word contains the transfer id, so a ticket is valid for one transfer only. The code avoids `%`, which calls
 * the C library for numbers above 2^31.
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
  transferIdOf,
  idOfFlight,
} from './layout.ts';

/** Range of an index in a ticket. */
const INDEX_RANGE = 2 ** 23;
/** Range of the nonces: a transfer id is a small integer. */
const NONCES = 2 ** 24;

function encodeTicket(id: number, index: number): number {
  return id * INDEX_RANGE + index;
}

/** Transfer id of a ticket; defined for any integer from 0 to 2^53 - 1. */
function idOfTicket(ticket: number): number {
  // `| 0` here and below gives a small integer. After a float, the engine would compile the hot path for float indices.
  return Math.floor(ticket / INDEX_RANGE) | 0;
}

export function indexOfTicket(ticket: number): number {
  return (ticket - Math.floor(ticket / INDEX_RANGE) * INDEX_RANGE) | 0;
}

export function giverOfTicket(ticket: number): number {
  return giverOf(idOfTicket(ticket));
}

/** A block in transit from this worker. */
export interface TransitEntry {
  /** The result of `transfer`. */
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
  // Reused, so that a bulk accept allocates no memory.
  #indices = new Int32Array(0);
  #ids = new Int32Array(0);

  /** @param renewsHandles Give an accepted block a new object, as an allocated one. */
  constructor(control: Control, list: ListControl, worker: number, renewsHandles: boolean) {
    this.#header = control.header;
    this.#words = control.words;
    this.#owners = control.owners;
    this.#list = list;
    this.#me = worker;
    this.#mark = markOf(worker);
    this.#renewsHandles = renewsHandles;
  }

  /** Puts a block of this worker in transit. Returns its ticket, or -1 if this worker has not allocated the block. */
  transferOut(index: number): number {
    if (this.#words[index] !== this.#mark) return -1;
    const at = slotAt(this.#me) + W_NONCE;
    const nonce = (this.#header[at]! + 1) & (NONCES - 1);
    this.#header[at] = nonce;
    this.#list.move(-1);
    const id = transferIdOf(this.#me, nonce);
    this.#startTransit(index, id);
    return encodeTicket(id, index);
  }

  #startTransit(index: number, id: number): void {
    // Store the owner byte before the word. Otherwise a recovery of this worker could take a block that its next owner
    // has freed.
    this.#owners[index] = NO_OWNER;
    // Store-release: the accepting worker sees earlier writes to the block.
    Atomics.store(this.#words, index, flightOf(id));
  }

  /** Ends a transit in this worker. False if the block is not in this transit. */
  #endTransit(index: number, id: number): boolean {
    if (index >= this.#words.length) return false;
    const word = flightOf(id);
    if (Atomics.compareExchange(this.#words, index, word, this.#mark) !== word) return false;
    // Store the owner byte before this worker can free the block: the owner byte of a free block must be valid.
    this.#owners[index] = this.#me;
    this.#list.move(1);
    return true;
  }

  #renew(index: number): void {
    if (this.#renewsHandles) this.#list.dropObjects(index, 1);
  }

  /** Accepts a block by its ticket. Returns its index, or -1 if it is not in transit. */
  transferIn(ticket: number): number {
    const index = indexOfTicket(ticket);
    if (!this.#endTransit(index, idOfTicket(ticket))) return -1;
    this.#renew(index);
    return index;
  }

  /** Reads and checks tickets for {@link transferInAll}, once: other threads may write to the caller's array. */
  readTickets(tickets: Float64Array, count: number): void {
    if (this.#indices.length < count) {
      this.#indices = new Int32Array(count);
      this.#ids = new Int32Array(count);
    }
    for (let i = 0; i < count; i++) {
      const ticket = tickets[i]!;
      checkInteger('ticket', ticket, 0, Number.MAX_SAFE_INTEGER);
      this.#indices[i] = indexOfTicket(ticket);
      this.#ids[i] = idOfTicket(ticket);
    }
  }

  /**
   * Accepts the first `count` tickets of {@link readTickets} and returns -1. If the block of a ticket is not in
   * transit, accepts none and returns the first such ticket. Under the lock, so that neither a recovery of a giver nor
   * a recall runs before this call puts blocks back in transit.
   *
   * @param into Receives the indices.
   */
  transferInAll(into: Int32Array, count: number): number {
    const indices = this.#indices;
    const ids = this.#ids;
    for (let i = 0; i < count; i++) {
      if (this.#endTransit(indices[i]!, ids[i]!)) continue;
      for (let k = i - 1; k >= 0; k--) {
        this.#list.move(-1);
        this.#startTransit(indices[k]!, ids[k]!);
      }
      return encodeTicket(ids[i]!, indices[i]!);
    }
    for (let i = 0; i < count; i++) {
      this.#renew(indices[i]!);
      into[i] = indices[i]!;
    }
    return -1;
  }

  /** Blocks in transit from this worker, ascending by index. */
  inTransit(): TransitEntry[] {
    const entries: TransitEntry[] = [];
    for (let index = 0; index < this.#words.length; index++) {
      const word = Atomics.load(this.#words, index);
      if (isFlight(word) && holderOf(word) === this.#me) {
        entries.push({ ticket: encodeTicket(idOfFlight(word), index), index });
      }
    }
    return entries;
  }

  /**
   * Recalls the blocks of `tickets` that are in transit from this worker. Returns their indices. Under the lock, so that a
   * bulk accept is atomic for it.
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
