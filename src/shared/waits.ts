/** The waiters of one worker of a shared pool. wait-tickets.ts has their order among all workers. */
import { type DmaError, DmaOutOfMemoryError, DmaTimeoutError } from '../errors.ts';
import { checkWaitOptions, type WaitOptions, WaitQueue } from '../pool/waiting.ts';
import { H_SUPPLY } from './layout.ts';
import { POOL_DESTROYED, type SharedCore } from './core.ts';
import { onceChanged } from './threads.ts';
import { QUEUE_FULL, WaitTickets } from './wait-tickets.ts';

/** Interval in milliseconds at which workers poll for supply and events without a notification. */
export const POLL_INTERVAL = 100;

/** The functions of a backend that its waits need. */
export interface WaitHost {
  /** Allocates a block without waiting. Returns its index or a refusal. Throws when the pool is gone. */
  take(): number;
  /** Runs the hooks on a block that was just allocated. False if it was quarantined. */
  runHooks(index: number): boolean;
  zero(index: number): void;
  /** Frees a block that could not be delivered. */
  free(index: number): void;
  /** Runs a callback of the event loop, and catches its errors. */
  guarded(action: () => void): void;
  checkNotGone(): void;
  destroyedError(): DmaError;
}

/** Runs `action`. False if it could not acquire the lock in time. */
export function tryLocked(action: () => void): boolean {
  try {
    action();
    return true;
  } catch (error) {
    if (error instanceof DmaTimeoutError) return false;
    throw error;
  }
}

/** A waiter of this worker. */
interface Waiter {
  /** Its place in the queue of all workers. SPENT while the hooks run on its block, and after the end of the wait. */
  ticket: number;
}

/** In place of a ticket: not in the queue. */
const SPENT = -1;

export class SharedWaits {
  readonly #header: Int32Array<SharedArrayBuffer>;
  readonly #label: string;
  readonly #core: SharedCore;
  readonly #queue: WaitTickets;
  readonly #host: WaitHost;
  readonly #local: WaitQueue<Waiter>;
  /** Tickets of ended waits that are still in the queue. */
  readonly #dropped: number[] = [];
  #listening = false;

  constructor(header: Int32Array<SharedArrayBuffer>, core: SharedCore, label: string, backend: object, host: WaitHost) {
    this.#header = header;
    this.#label = label;
    this.#core = core;
    this.#queue = new WaitTickets(header);
    this.#host = host;
    this.#local = new WaitQueue(label, backend);
  }

  /** True if this worker has waiters. */
  get any(): boolean {
    return this.#local.waiters.size > 0;
  }

  wait<T>(wrap: (index: number) => T, options: WaitOptions): Promise<T> {
    try {
      const checked = checkWaitOptions(options);
      checked.signal?.throwIfAborted();
      this.#host.checkNotGone();
      const give = (index: number): T => {
        if (checked.zero) this.#host.zero(index);
        return wrap(index);
      };
      if (!this.any && !this.#queue.any) {
        const index = this.#host.take();
        if (index >= 0) return Promise.resolve(this.#giveNow(index, give));
      }
      const waiter: Waiter = { ticket: this.#draw() };
      const waiting = this.#local.join(waiter, give, checked, () => {
        this.#giveUp(waiter);
      });
      this.#listen();
      return waiting;
    } catch (error) {
      // Reject with the thrown value: a signal's reason need not be an Error.
      return Promise.reject(error);
    }
  }

  #giveNow<T>(index: number, give: (index: number) => T): T {
    try {
      return give(index);
    } catch (error) {
      this.#host.free(index);
      throw error;
    }
  }

  /** Ends a wait. Timers and signals call it, so it must not throw. */
  #giveUp(waiter: Waiter): void {
    if (waiter.ticket === SPENT) return;
    this.#dropped.push(waiter.ticket);
    waiter.ticket = SPENT;
    this.#host.guarded(() => {
      this.dropTickets();
    });
  }

  #draw(): number {
    const ticket = this.#core.joinQueue();
    if (ticket === POOL_DESTROYED) throw this.#host.destroyedError();
    if (ticket === QUEUE_FULL) throw new DmaOutOfMemoryError('ERR_DMAPOOL_LIMIT', `${this.#label}: too many waiters`);
    return ticket;
  }

  /** Removes the tickets of ended waits from the queue; at a later event if the lock is not available. */
  dropTickets(): void {
    for (let ticket = this.#dropped.at(-1); ticket !== undefined; ticket = this.#dropped.at(-1)) {
      const given = ticket;
      const left = tryLocked(() => {
        this.#core.leaveQueue(given);
      });
      if (!left) return;
      this.#dropped.pop();
    }
  }

  /** Serves this worker's waiters while one of them is at the head of the queue and there are blocks. */
  pump(): void {
    for (let waiter = this.#next(); waiter !== undefined; waiter = this.#next()) {
      const index = this.#core.serve(waiter.ticket);
      if (index === POOL_DESTROYED) this.failAll();
      if (index < 0) return;
      waiter.ticket = SPENT;
      this.#serve(waiter, index);
    }
  }

  /** The first waiter that is not being served. The hooks of a waiter's block may call `pump` again. */
  #next(): Waiter | undefined {
    for (const waiter of this.#local.waiters.keys()) if (waiter.ticket !== SPENT) return waiter;
    return undefined;
  }

  /** Runs the hooks on a block and delivers it to the waiter. */
  #serve(waiter: Waiter, index: number): void {
    let ready = false;
    try {
      ready = this.#host.runHooks(index);
    } finally {
      if (!ready) this.#requeue(waiter);
    }
    // User code in the log or a signal may have ended this wait: free the block for the next waiter of any worker.
    if (ready && this.#local.waiters.get(waiter)?.deliver(index) !== true) this.#host.free(index);
  }

  /**
   * Requeues a waiter whose block was quarantined. Each waiter here takes the ticket of the next one and the last takes a
   * new one, so that tickets ascend in the order of the waiters. Otherwise {@link #next} would return a waiter that is
   * not at the head while another one is.
   */
  #requeue(waiter: Waiter): void {
    if (!this.#local.waiters.has(waiter)) return;
    let ticket: number;
    try {
      ticket = this.#draw();
    } catch (error) {
      this.#local.waiters.get(waiter)?.fail(error);
      return;
    }
    let last = waiter;
    for (const other of this.#local.waiters.keys()) {
      if (other.ticket === SPENT) continue;
      last.ticket = other.ticket;
      last = other;
    }
    last.ticket = ticket;
  }

  /** Rejects all waits, after the pool was destroyed or this worker left it. */
  failAll(): void {
    for (const waiter of this.#local.waiters.keys()) waiter.ticket = SPENT;
    this.#dropped.length = 0;
    this.#local.failAll(this.#host.destroyedError());
  }

  #listen(): void {
    if (this.#listening) return;
    this.#listening = true;
    const look = (): void => {
      const seen = Atomics.load(this.#header, H_SUPPLY);
      this.#host.guarded(() => {
        this.pump();
      });
      this.#listening = this.any;
      if (this.#listening) onceChanged(this.#header, H_SUPPLY, seen, POLL_INTERVAL, look);
    };
    look();
  }
}
