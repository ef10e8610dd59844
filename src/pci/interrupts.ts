/** Interrupts as promises, and polling in their absence. */
import { checkFunction, checkInteger, checkSignal, type OptionNames, reading, readOptions } from '../arguments.ts';
import { DmaArgumentError, isArray } from '../errors.ts';
import { AdaptivePolling } from './adaptive-polling.ts';
import type { InterruptBackend, InterruptKind } from './backend.ts';
import { PciError } from './error.ts';
import { later } from './wait.ts';

/** Options of `PciFunction.interrupts`. */
export interface InterruptOptions {
  /**
   * Kinds that the driver supports, best first; the first available one is used. Default: `msix`, `msi`, `intx`,
   * `poll`. Without `poll` there may be none (`ERR_DMAPOOL_PCI_UNSUPPORTED`).
   */
  readonly kinds?: readonly InterruptKind[];
  /**
   * Number of vectors, 1 (the default) to 2048; INTx and polling have one. The backend may provide
   * fewer: see {@link Interrupts.vectors}.
   */
  readonly vectors?: number;
  /** Polling interval in milliseconds, 0 to 60000; 0 polls once each turn of the event loop. Default 1. */
  readonly pollInterval?: number;
  /**
   * Busy polling: milliseconds for which a wait calls its {@link InterruptWaitOptions.ready} once each turn of the
   * event loop, before it waits for the interrupt; 0 to 1000. It avoids the latency of an interrupt, which on fast
   * devices exceeds that of the operation, and costs CPU time of this thread.
   *
   * The default, `adaptive`, polls for up to 0.5 ms if the latest wait of the vector was shorter than that, and for at
   * most half of the time. A device that is slow or idle is not polled.
   */
  readonly busyPoll?: number | 'adaptive';
}

/** Options of {@link Interrupts.wait}. */
export interface InterruptWaitOptions {
  /** Vector, from 0 (the default). */
  readonly vector?: number;
  /** Maximum milliseconds, 0 to 2^31-1. Default: no limit. */
  readonly timeout?: number;
  /** Aborts the wait, which then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  /**
   * Checks memory for a completion; true ends the wait. Called when the wait begins, once each turn of the event loop
   * during {@link InterruptOptions.busyPoll}, and with a `pollInterval` of 0, where it avoids spurious wake-ups.
   */
  readonly ready?: () => boolean;
}

const INTERRUPT_OPTIONS: OptionNames<InterruptOptions> = {
  kinds: true,
  vectors: true,
  pollInterval: true,
  busyPoll: true,
};
const WAIT_OPTIONS: OptionNames<InterruptWaitOptions> = { vector: true, timeout: true, signal: true, ready: true };
const KINDS: readonly InterruptKind[] = ['msix', 'msi', 'intx', 'poll'];
const MAX_VECTORS = 2048;
const MAX_POLL_INTERVAL = 60_000;
const MAX_BUSY_POLL = 1000;
/** Milliseconds between flushes when polling each turn: the limit after which a failed posted write is reported. */
const FLUSH_INTERVAL = 10;
/** Limit of waits in a row that end without a turn of the event loop: completions may come without end. */
const MAX_STARTS = 8;
const MAX_TIMEOUT = 2 ** 31 - 1;
/** Milliseconds of a wait with bus mastering off, after which it is reported. */
const BLOCKED_TIME = 1000;

interface Waiter {
  readonly vector: number;
  readonly ready: (() => boolean) | undefined;
  /** Start of the wait in the time of `performance.now()`, for adaptive polling; -1 if it ended when it began. */
  begin: number;
  /** It polls at present. */
  polls: boolean;
  readonly resolve: (pending: boolean) => void;
  readonly reject: (reason: unknown) => void;
}

/** {@link InterruptOptions} with defaults applied. @internal */
export interface CheckedInterruptOptions {
  readonly kinds: readonly InterruptKind[];
  readonly vectors: number;
  readonly pollInterval: number;
  readonly busyPoll: number | 'adaptive';
}

/** Checks the options and applies defaults. @throws `DmaArgumentError` @internal */
export function checkInterruptOptions(options: InterruptOptions): CheckedInterruptOptions {
  const given = readOptions('options', options, INTERRUPT_OPTIONS);
  const { kinds: wanted = KINDS, vectors = 1, pollInterval = 1, busyPoll = 'adaptive' } = given;
  const accepted = `an array of ${KINDS.join(', ')}`;
  // Copy it: the caller may change the array before the interrupts are opened.
  const kinds = isArray(wanted) ? reading('kinds', wanted, accepted, () => [...(wanted as InterruptKind[])]) : [];
  if (kinds.length === 0 || !kinds.every((kind) => KINDS.includes(kind))) {
    throw new DmaArgumentError('kinds', wanted, accepted);
  }
  checkInteger('vectors', vectors, 1, MAX_VECTORS);
  checkInteger('pollInterval', pollInterval, 0, MAX_POLL_INTERVAL);
  const isTime = typeof busyPoll === 'number' && busyPoll >= 0 && busyPoll <= MAX_BUSY_POLL;
  if (!isTime && busyPoll !== 'adaptive') {
    throw new DmaArgumentError('busyPoll', busyPoll, `milliseconds from 0 to ${String(MAX_BUSY_POLL)}, or adaptive`);
  }
  return { kinds, vectors, pollInterval, busyPoll };
}

/**
 * The interrupts of a function, from `PciFunction.interrupts()`.
 *
 * `wait` resolves to true when the driver should check the device. The check may find nothing, since lines are shared
 * and polling is periodic. Each `wait` implies that all earlier events were handled. Check the device (or its rings)
 * before each wait, as here, and no event is missed:
 *
 *
 * @example
 * ```ts
 * await using machine = await QemuMachine.start({ devices: [{ driver: 'edu', id: 'edu0' }] });
 * await using edu = await machine.open('edu0');
 * const registers = edu.bar(0);
 * const interrupts = await edu.interrupts();
 * await edu.enableBusMaster(); // MSI and MSI-X are writes to memory
 * registers.write32(0x20, 0x80); // raise an interrupt when a result is ready
 * registers.write32(0x08, 6); // compute 6!
 * let raised: number;
 * while ((raised = await registers.read32(0x24)) === 0) {
 *   if (!(await interrupts.wait({ timeout: 5000 }))) throw new Error('no interrupt within 5 s');
 * }
 * registers.write32(0x64, raised); // acknowledge: the device deasserts its line
 * console.log(await registers.read32(0x08)); // 720
 * ```
 */
export class Interrupts {
  readonly #address: string;
  readonly #backend: InterruptBackend;
  readonly #removed: AbortSignal;
  readonly #pending: boolean[];
  readonly #waiters = new Set<Waiter>();
  readonly #onRemoved: () => void;
  readonly #onClose: () => void;
  /** Returns a function that reports disabled bus mastering; null when it is enabled or was reported. */
  readonly #onBlocked: () => (() => void) | null;
  /** Milliseconds of busy polling, if they are fixed. */
  readonly #busyPoll: number;
  readonly #adaptive: AdaptivePolling | null;
  /** Waits that may still start without a turn of the event loop. */
  #starts = MAX_STARTS;
  #closed = false;
  #closing: Promise<void> | null = null;

  /** @internal */
  constructor(
    address: string,
    backend: InterruptBackend,
    removed: AbortSignal,
    options: CheckedInterruptOptions,
    onClose: () => void,
    onBlocked: () => (() => void) | null = () => null,
  ) {
    this.#address = address;
    this.#backend = backend;
    this.#removed = removed;
    this.#onClose = onClose;
    this.#onBlocked = onBlocked;
    const { busyPoll, pollInterval } = options;
    const polls = backend.kind === 'poll';
    const time = busyPoll === 'adaptive' ? 0 : busyPoll;
    // Polling at interval 0 calls `ready` each turn anyway.
    this.#busyPoll = polls && pollInterval === 0 ? Math.max(time, FLUSH_INTERVAL) : time;
    this.#adaptive = busyPoll === 'adaptive' && !polls ? new AdaptivePolling(backend.vectors) : null;
    this.#pending = new Array<boolean>(backend.vectors).fill(false);
    backend.listen((vector) => {
      this.#starts = MAX_STARTS;
      this.#notify(vector);
    });
    this.#onRemoved = () => {
      this.#fail(removed.reason as Error);
    };
    removed.addEventListener('abort', this.#onRemoved);
  }

  /** The chosen kind. */
  get kind(): InterruptKind {
    return this.#backend.kind;
  }

  /** Number of vectors. */
  get vectors(): number {
    return this.#backend.vectors;
  }

  /**
   * Waits for the next interrupt of a vector. Posted writes reach the device before the wait sleeps. An interrupt since
   * the last wait ends it at once, and so does `ready`. An interrupt wakes all waiters of its vector. A wait with bus mastering off is reported on the
   * device's log, once: the function can neither do DMA nor send MSI or MSI-X.
   *
   * @param options Vector, time limit and abort signal. Default: vector 0, no limit.
   * @returns true: check the device; false: the time limit has passed.
   * @throws the error that `ready` throws.
   * @throws `DmaArgumentError` for invalid options. @throws the reason of the signal when it is aborted.
   * @throws {@link PciGoneError} when the device is unplugged; the backend's own error when it ends.
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_CLOSED` when the interrupts or the function are closed.
   */
  async wait(options: InterruptWaitOptions = {}): Promise<boolean> {
    const { vector = 0, timeout, signal, ready } = readOptions('options', options, WAIT_OPTIONS);
    checkInteger('vector', vector, 0, this.vectors - 1);
    if (timeout !== undefined) checkInteger('timeout', timeout, 0, MAX_TIMEOUT);
    checkSignal('signal', signal);
    if (ready !== undefined) checkFunction('ready', ready);
    signal?.throwIfAborted();
    if (this.#closed) throw this.#closedError();
    this.#removed.throwIfAborted();
    // A past notification of a level is stale. rearm() returns the current state.
    if (this.#backend.level) this.#pending[vector] = false;
    return new Promise((resolve, reject) => {
      let timer: ReturnType<typeof setTimeout> | undefined;
      let blocked: ReturnType<typeof setTimeout> | undefined;
      const finish = (): boolean => {
        if (!this.#waiters.delete(waiter)) return false;
        clearTimeout(timer);
        clearTimeout(blocked);
        this.#endPolling(waiter);
        if (signal !== undefined) removeListener(signal, onAbort);
        return true;
      };
      const waiter: Waiter = {
        vector,
        ready,
        begin: -1,
        polls: false,
        resolve: (pending) => {
          if (!finish()) return;
          if (waiter.begin !== -1) this.#adaptive?.record(vector, performance.now() - waiter.begin);
          resolve(pending);
        },
        reject: (reason) => {
          if (finish()) reject(reason);
        },
      };
      const onAbort = (): void => {
        waiter.reject(signal!.reason);
        this.#disarm(vector);
      };
      this.#waiters.add(waiter);
      signal?.addEventListener('abort', onAbort);
      if (timeout !== undefined) {
        timer = setTimeout(() => {
          this.#onTimeout(waiter);
        }, timeout);
      }
      if (this.#onBlocked() !== null) blocked = setTimeout(() => this.#onBlocked()?.(), BLOCKED_TIME);
      this.#start(waiter);
    });
  }

  /** Starts a wait, but in the next turn of the event loop if too many waits in a row have ended without one. */
  #start(waiter: Waiter): void {
    if (this.#starts > 0) {
      this.#starts--;
      this.#look(waiter);
      return;
    }
    later(0, () => {
      this.#starts = MAX_STARTS;
      if (this.#waiters.has(waiter)) this.#look(waiter);
    });
  }

  /** Checks for an event that came before the wait, and then polls or arms. */
  #look(waiter: Waiter): void {
    const { vector, ready } = waiter;
    if (this.#pending[vector]) {
      this.#notify(vector);
      return;
    }
    if (ready === undefined) {
      this.#arm(waiter);
      return;
    }
    if (this.#isReady(waiter)) return;
    const now = performance.now();
    waiter.begin = now;
    const limit = this.#adaptive?.limit(vector, now) ?? this.#busyPoll;
    if (limit === 0) {
      this.#arm(waiter);
      return;
    }
    waiter.polls = true;
    this.#adaptive?.begin(now);
    this.#poll(waiter, now + limit);
  }

  /** Busy polling: checks once each turn of the event loop until `end`. */
  #poll(waiter: Waiter, end: number): void {
    later(0, () => {
      this.#starts = MAX_STARTS;
      // The wait may have ended otherwise.
      if (!this.#waiters.has(waiter) || this.#isReady(waiter)) return;
      if (performance.now() < end) {
        this.#poll(waiter, end);
        return;
      }
      this.#endPolling(waiter);
      this.#arm(waiter);
    });
  }

  #endPolling(waiter: Waiter): void {
    if (!waiter.polls) return;
    waiter.polls = false;
    this.#adaptive?.end(performance.now());
  }

  /** Looks once more: the timer may be due before the event loop has seen an interrupt that came earlier. */
  #onTimeout(waiter: Waiter): void {
    const { vector, ready } = waiter;
    this.#starts = MAX_STARTS;
    if (this.#backend.take?.(vector) === true) {
      this.#notify(vector);
    } else if (ready === undefined || !this.#isReady(waiter)) {
      this.#onBlocked()?.();
      waiter.resolve(false);
    }
    this.#disarm(vector);
  }

  /** Ends a wait whose `ready` returns true or throws. Returns true when the wait has ended. */
  #isReady(waiter: Waiter): boolean {
    try {
      if (waiter.ready!()) waiter.resolve(true);
    } catch (error) {
      waiter.reject(error);
    }
    return !this.#waiters.has(waiter);
  }

  #arm(waiter: Waiter): void {
    const { vector } = waiter;
    this.#backend.rearm(vector).then(
      (pending) => {
        if (!pending) this.#disarm(vector);
        else if (this.#waiters.has(waiter)) this.#notify(vector);
        // The wait has ended otherwise. The next rearm() reports a level again; an edge must be recorded.
        else if (!this.#backend.level) this.#pending[vector] = true;
      },
      (error: unknown) => {
        waiter.reject(error);
      },
    );
  }

  /** Disarms a vector without waiters. */
  #disarm(vector: number): void {
    for (const waiter of this.#waiters) if (waiter.vector === vector) return;
    this.#backend.disarm?.(vector);
  }

  /**
   * Closes the interrupts and rejects all waits. `PciFunction.interrupts` can open others after it. A second call returns
   * the same promise.
   */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    this.#closed = true;
    this.#removed.removeEventListener('abort', this.#onRemoved);
    this.#fail(this.#closedError());
    try {
      await this.#backend.close();
    } finally {
      // New interrupts may be opened only now: a close in progress would disable them.
      this.#onClose();
    }
  }

  /** {@link Interrupts.close}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #notify(vector: number): void {
    let woken = 0;
    // No waiter joins meanwhile: a resolved promise continues in a later microtask.
    for (const waiter of this.#waiters) {
      if (waiter.vector !== vector) continue;
      woken++;
      waiter.resolve(true);
    }
    this.#pending[vector] = woken === 0;
  }

  #fail(error: Error): void {
    const waiters = [...this.#waiters];
    for (const waiter of waiters) waiter.reject(error);
    for (const { vector } of waiters) this.#disarm(vector);
  }

  #closedError(): PciError {
    return new PciError('ERR_DMAPOOL_PCI_CLOSED', this.#address, 'its interrupts were closed');
  }
}

/** Polling as an interrupt backend: raises an interrupt after each interval. @internal */
export class PollingInterrupts implements InterruptBackend {
  readonly kind = 'poll';
  readonly vectors = 1;
  readonly level = true;
  readonly #interval: number;
  readonly #flush: () => Promise<void>;
  #listener: ((vector: number) => void) | undefined;
  #cancel: (() => void) | undefined;

  constructor(interval: number, flush: () => Promise<void>) {
    this.#interval = interval;
    this.#flush = flush;
  }

  listen(listener: (vector: number) => void): void {
    this.#listener = listener;
  }

  async rearm(): Promise<boolean> {
    await this.#flush();
    this.#cancel ??= later(this.#interval, () => {
      this.#cancel = undefined;
      this.#listener?.(0);
    });
    return false;
  }

  close(): Promise<void> {
    this.#cancel?.();
    this.#cancel = undefined;
    this.#listener = undefined;
    return Promise.resolve();
  }
}

/** Removes the listener. Drops errors of the caller's signal, because the wait is over. */
function removeListener(signal: AbortSignal, listener: () => void): void {
  try {
    signal.removeEventListener('abort', listener);
  } catch {
    // Dropped.
  }
}
