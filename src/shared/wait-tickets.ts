/** The FIFO queue of waiters across workers. All functions run under the lock, except where noted. */
import { H_TICKET_HEAD, H_TICKET_NEXT, MAX_TICKETS, ticketAt } from './layout.ts';

/** Tickets are numbers modulo this, so that they are small integers. */
const RANGE = 2 ** 30;
/** Result in place of a ticket: the queue is full. */
export const QUEUE_FULL = -1;

export class WaitTickets {
  readonly #header: Int32Array<SharedArrayBuffer>;

  constructor(header: Int32Array<SharedArrayBuffer>) {
    this.#header = header;
  }

  /** True if there are waiters. A hint without the lock. */
  get any(): boolean {
    return this.#header[H_TICKET_HEAD] !== this.#header[H_TICKET_NEXT];
  }

  /** Number of waiters. A hint without the lock. */
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

  /** Appends worker `w`. Returns a ticket or QUEUE_FULL. */
  draw(w: number): number {
    if (this.#length >= MAX_TICKETS) return QUEUE_FULL;
    const ticket = this.#header[H_TICKET_NEXT]!;
    this.#header[ticketAt(ticket)] = w;
    this.#header[H_TICKET_NEXT] = (ticket + 1) % RANGE;
    return ticket;
  }

  /** Advances the head to the first ticket that was not dropped. Returns it, or -1 if there is none. */
  first(): number {
    let head = this.#header[H_TICKET_HEAD]!;
    while (head !== this.#header[H_TICKET_NEXT] && this.#header[ticketAt(head)] === 0) {
      head = (head + 1) % RANGE;
      this.#header[H_TICKET_HEAD] = head;
    }
    return head === this.#header[H_TICKET_NEXT] ? -1 : head;
  }

  /** Drops a ticket that was served or given up. */
  drop(ticket: number): void {
    this.#header[ticketAt(ticket)] = 0;
    this.first();
  }

  /** Drops the tickets of a worker. */
  dropAllOf(w: number): void {
    const next = this.#header[H_TICKET_NEXT]!;
    for (let ticket = this.#header[H_TICKET_HEAD]!; ticket !== next; ticket = (ticket + 1) % RANGE) {
      if (this.#header[ticketAt(ticket)] === w) this.#header[ticketAt(ticket)] = 0;
    }
    this.first();
  }
}
