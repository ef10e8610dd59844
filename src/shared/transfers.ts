/**
 * Blocks that go from worker to worker. A word says whose a block is while it is handed out, so passing it on is one
 * store in the giver and one compareExchange in whoever accepts; no lock is needed, and whichever of an acceptance and
 * the giver's funeral changes the word first is the one that counts.
 */
import type { ListControl } from '../pool/free-list.ts';
import { type Control, flightOf, markOf, NO_OWNER, slotAt, W_NONCE } from './layout.ts';
import { nextNonce, wayOf } from './transfer-ticket.ts';

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
