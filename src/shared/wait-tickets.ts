/** The queue of waiters across workers: first come, first served. Everything here runs under the lock. */
import { H_TICKET_HEAD, H_TICKET_NEXT, MAX_TICKETS, ticketAt } from './layout.ts';

/** Tickets are counted modulo this, so that they stay small integers. */
const RANGE = 2 ** 30;
/** Too many wait: in place of a ticket. */
export const QUEUE_FULL = -1;

export class WaitTickets {
  readonly #header: Int32Array<SharedArrayBuffer>;

  constructor(header: Int32Array<SharedArrayBuffer>) {
    this.#header = header;
  }

  /** True if somebody waits. May be asked without the lock; then it is a hint. */
  get any(): boolean {
    return this.#header[H_TICKET_HEAD] !== this.#header[H_TICKET_NEXT];
  }

  /** How many wait. */
  get waiting(): number {
    const next = this.#header[H_TICKET_NEXT]!;
    let count = 0;
    for (let ticket = this.#header[H_TICKET_HEAD]!; ticket !== next; ticket = (ticket + 1) % RANGE) {
      if (this.#header[ticketAt(ticket)] !== 0) count++;
    }
    return count;
  }

  get #length(): number {
    return (this.#header[H_TICKET_NEXT]! - this.#header[H_TICKET_HEAD]! + RANGE) % RANGE;
  }

  /** A ticket for worker `w`, QUEUE_FULL if too many wait. */
  draw(w: number): number {
    if (this.#length >= MAX_TICKETS) return QUEUE_FULL;
    const ticket = this.#header[H_TICKET_NEXT]!;
    this.#header[ticketAt(ticket)] = w;
    this.#header[H_TICKET_NEXT] = (ticket + 1) % RANGE;
    return ticket;
  }

  /** Whose turn it is: the first ticket that still counts, -1 if nobody waits. */
  first(): number {
    let head = this.#header[H_TICKET_HEAD]!;
    while (head !== this.#header[H_TICKET_NEXT] && this.#header[ticketAt(head)] === 0) {
      head = (head + 1) % RANGE;
      this.#header[H_TICKET_HEAD] = head;
    }
    return head === this.#header[H_TICKET_NEXT] ? -1 : head;
  }

  /** A ticket counts no more: served, or given up. */
  drop(ticket: number): void {
    this.#header[ticketAt(ticket)] = 0;
    this.first();
  }

  /** The tickets of a worker that is gone count no more. */
  dropAllOf(w: number): void {
    const next = this.#header[H_TICKET_NEXT]!;
    for (let ticket = this.#header[H_TICKET_HEAD]!; ticket !== next; ticket = (ticket + 1) % RANGE) {
      if (this.#header[ticketAt(ticket)] === w) this.#header[ticketAt(ticket)] = 0;
    }
    this.first();
  }
}
