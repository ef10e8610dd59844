/** Transfer and accept as users see them: tickets, errors, and all or none of many. */
import { checkInteger } from '../arguments.ts';
import { DmaBlockError } from '../errors.ts';
import type { ListControl } from '../pool/free-list.ts';
import type { BlockHooks } from '../pool/hooks.ts';
import type { PoolPages } from '../pool/pages.ts';
import type { SharedCore } from './core.ts';
import { encodeTicket, giverOf, indexOfTicket, wayOfTicket } from './transfers.ts';

export class Arrivals {
  readonly #label: string;
  readonly #core: SharedCore;
  readonly #pages: PoolPages;
  readonly #list: ListControl;
  readonly #hooks: BlockHooks | null;
  // Kept, so that accepting many makes no garbage.
  #indices = new Int32Array(0);
  #ways = new Int32Array(0);

  constructor(label: string, core: SharedCore, pages: PoolPages, list: ListControl, hooks: BlockHooks | null) {
    this.#label = label;
    this.#core = core;
    this.#pages = pages;
    this.#list = list;
    this.#hooks = hooks;
  }

  /** The ticket of a block that is on its way from now on; -1 if it is not ours. */
  send(index: number): number {
    const way = this.#core.transfer(index);
    return way < 0 ? -1 : encodeTicket(way, index);
  }

  accept(ticket: number): number {
    checkInteger('ticket', ticket, 0, Number.MAX_SAFE_INTEGER);
    const index = indexOfTicket(ticket);
    if (!this.#pages.has(index) || !this.#core.accept(index, wayOfTicket(ticket))) throw this.#notOnItsWay(ticket);
    this.#renew(index);
    return index;
  }

  /** Accepts all of them and puts their indices into `into`, or none. */
  acceptAll(tickets: Float64Array, into: Int32Array, count: number): void {
    if (this.#indices.length < count) {
      this.#indices = new Int32Array(count);
      this.#ways = new Int32Array(count);
    }
    // Looked at once: other threads may write to the caller's arrays.
    const indices = this.#indices;
    const ways = this.#ways;
    for (let i = 0; i < count; i++) {
      const ticket = tickets[i]!;
      checkInteger('ticket', ticket, 0, Number.MAX_SAFE_INTEGER);
      indices[i] = indexOfTicket(ticket);
      ways[i] = wayOfTicket(ticket);
      if (!this.#pages.has(indices[i]!)) throw this.#notOnItsWay(ticket);
    }
    const missing = this.#core.acceptAll(indices, ways, count);
    if (missing >= 0) throw this.#notOnItsWay(encodeTicket(ways[missing]!, indices[missing]!));
    for (let i = 0; i < count; i++) {
      this.#renew(indices[i]!);
      into[i] = indices[i]!;
    }
  }

  /** In debug mode a block that arrives gets a new handle here, as one that is allocated does. */
  #renew(index: number): void {
    if (this.#hooks?.renewsHandles === true) this.#list.dropObject(index);
  }

  #notOnItsWay(ticket: number): DmaBlockError {
    const giver = giverOf(wayOfTicket(ticket));
    return new DmaBlockError(
      'ERR_DMAPOOL_BAD_TICKET',
      `${this.#label}: block ${String(indexOfTicket(ticket))} is not on its way from worker ${String(giver)} by this ` +
        'ticket: it was accepted already, or its giver died',
    );
  }
}
