/** Those who wait in one worker for blocks of a shared pool; whose turn it is among all workers, wait-tickets.ts says. */
import { type DmaError, DmaOutOfMemoryError, DmaTimeoutError } from '../errors.ts';
import { checkWaitOptions, type WaitOptions, WaitQueue } from '../pool/waiting.ts';
import { H_SUPPLY } from './layout.ts';
import { POOL_DESTROYED, type SharedCore } from './core.ts';
import { onceChanged } from './threads.ts';
import { QUEUE_FULL, WaitTickets } from './wait-tickets.ts';

/** Milliseconds after which those who wait, and those who may be asked to share, look again without being told. */
export const LOOK_AGAIN = 100;

/** What waiting needs of the rest of a store. */
export interface WaitHost {
  /** A block at once, if nobody waits; negative if there is none. Throws when the pool is gone. */
  take(): number;
  /** Makes a block that was just taken ready for its user; false if it went into quarantine instead. */
  dress(index: number): boolean;
  zero(index: number): void;
  /** Frees a block that was taken for a caller who can't have it. */
  free(index: number): void;
  /** Runs what the event loop calls: nothing it throws gets to the runtime. */
  guarded(action: () => void): void;
  checkNotGone(): void;
  destroyedError(): DmaError;
}

/** False if the lock could not be had for long: what is not urgent is done later. */
export function tryLocked(action: () => void): boolean {
  try {
    action();
    return true;
  } catch (error) {
    if (error instanceof DmaTimeoutError) return false;
    throw error;
  }
}

/** One who waits here. */
interface Waiting {
  /** Its place in the queue of all workers; SPENT while a block taken with it is made ready, and after the end of the wait. */
  ticket: number;
}

/** In place of a ticket: it is out of the queue already. */
const SPENT = -1;

export class SharedWaits {
  readonly #header: Int32Array<SharedArrayBuffer>;
  readonly #label: string;
  readonly #core: SharedCore;
  readonly #queue: WaitTickets;
  readonly #host: WaitHost;
  readonly #local: WaitQueue<Waiting>;
  /** Tickets of those who gave up, still in the queue. */
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

  /** True if somebody waits here. */
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
      const waiter: Waiting = { ticket: this.#draw() };
      const waiting = this.#local.join(waiter, give, checked, () => {
        this.#giveUp(waiter);
      });
      this.#listen();
      return waiting;
    } catch (error) {
      // Rejected as thrown: a signal's reason need not be an Error.
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

  /** A waiter left. Called by timers and signals: the runtime would end the process for what is thrown. */
  #giveUp(waiter: Waiting): void {
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
    if (ticket === QUEUE_FULL)
      throw new DmaOutOfMemoryError('ERR_DMAPOOL_LIMIT', `${this.#label}: too many wait already`);
    return ticket;
  }

  /** Leaves the queue for those who gave up. If the lock can't be had now, the next look at events does it. */
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

  /** Serves those who wait here as long as it is their turn and there are blocks. */
  pump(): void {
    for (let waiter = this.#next(); waiter !== undefined; waiter = this.#next()) {
      const index = this.#core.serve(waiter.ticket);
      if (index === POOL_DESTROYED) this.failAll();
      if (index < 0) return;
      waiter.ticket = SPENT;
      this.#serve(waiter, index);
    }
  }

  /** Who has waited longest, of those for whom no call takes a block already: making it ready may call `pump` again. */
  #next(): Waiting | undefined {
    for (const waiter of this.#local.waiters.keys()) if (waiter.ticket !== SPENT) return waiter;
    return undefined;
  }

  /** Gives a block that was just taken to the waiter whose ticket it cost. */
  #serve(waiter: Waiting, index: number): void {
    let ready = false;
    try {
      ready = this.#host.dress(index);
    } finally {
      if (!ready) this.#queueAgain(waiter);
    }
    // The log or a signal may have ended this wait meanwhile: the block goes to whoever is next, in any worker.
    if (ready && this.#local.waiters.get(waiter)?.deliver(index) !== true) this.#host.free(index);
  }

  /**
   * The turn of this one was spent on a block that went into quarantine. Each one here moves up by a ticket, and the last
   * gets the new one: tickets ascend in the order of the waiters, or the one that {@link #next} finds would never have its turn.
   */
  #queueAgain(waiter: Waiting): void {
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

  /** Nobody will get a block any more. The tickets go with the pool, or with this worker's part in it. */
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
      if (this.#listening) onceChanged(this.#header, H_SUPPLY, seen, LOOK_AGAIN, look);
    };
    look();
  }
}
