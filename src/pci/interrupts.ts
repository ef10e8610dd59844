/** Interrupts as something to await, and polling where there are none. */
import { checkFunction, checkInteger, checkSignal, type OptionNames, reading, readOptions } from '../arguments.ts';
import { DmaArgumentError, isArray } from '../errors.ts';
import type { InterruptBackend, InterruptKind } from './backend.ts';
import { PciError } from './error.ts';

/** Which interrupts a driver wants. */
export interface InterruptOptions {
  /**
   * Kinds the driver can deal with, best first; the first that the home offers is taken. Default: `msix`, `msi`, `intx`,
   * `poll`. Without `poll` it may be that there are none (`ERR_DMAPOOL_PCI_UNSUPPORTED`).
   */
  readonly kinds?: readonly InterruptKind[];
  /** How many vectors, 1 (the default) to 2048; INTx and polling have one. Fewer may be given: see {@link Interrupts.vectors}. */
  readonly vectors?: number;
  /** When polling: milliseconds from one look to the next, 0 to 60000; 0 looks once each turn of the event loop. Default 1. */
  readonly pollInterval?: number;
  /**
   * Busy polling: milliseconds that a wait with {@link InterruptWaitOptions.ready} asks that, each turn of the event loop,
   * before it waits for the interrupt; 0 (the default) to 1000. It saves the way of an interrupt through the system, which
   * on fast devices takes longer than what is waited for, and costs this thread's time.
   */
  readonly busyPoll?: number;
}

/** How to wait for an interrupt. */
export interface InterruptWaitOptions {
  /** Which one, from 0 (the default). */
  readonly vector?: number;
  /** Milliseconds to wait at most, 0 to 2^31-1. Default: without end. */
  readonly timeout?: number;
  /** Ends the wait; it is then rejected with the signal's reason. */
  readonly signal?: AbortSignal;
  /**
   * Says whether there is something to see, by a look at memory only; then the wait is over. Asked in the time of
   * {@link InterruptOptions.busyPoll}, and when polling each turn of the event loop, so that the driver is not woken in vain.
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
/** Who polls each turn of the event loop is told after so many milliseconds if a posted write failed. */
const FLUSH_INTERVAL = 10;
const MAX_TIMEOUT = 2 ** 31 - 1;
/** Milliseconds of a wait in vain until it is reported that the function may do no DMA. */
const VAIN_TIME = 1000;

interface Waiter {
  readonly vector: number;
  readonly ready: (() => boolean) | undefined;
  readonly resolve: (pending: boolean) => void;
  readonly reject: (reason: unknown) => void;
}

/** A checked {@link InterruptOptions}. @internal */
export interface CheckedInterruptOptions {
  readonly kinds: readonly InterruptKind[];
  readonly vectors: number;
  readonly pollInterval: number;
  readonly busyPoll: number;
}

/** Throws unless the options are as they should be. @internal */
export function checkInterruptOptions(options: InterruptOptions): CheckedInterruptOptions {
  const given = readOptions('options', options, INTERRUPT_OPTIONS);
  const { kinds: wanted = KINDS, vectors = 1, pollInterval = 1, busyPoll = 0 } = given;
  const accepted = `an array of ${KINDS.join(', ')}`;
  // A copy: it is looked at again when the interrupts are opened.
  const kinds = isArray(wanted) ? reading('kinds', wanted, accepted, () => [...(wanted as InterruptKind[])]) : [];
  if (kinds.length === 0 || !kinds.every((kind) => KINDS.includes(kind))) {
    throw new DmaArgumentError('kinds', wanted, accepted);
  }
  checkInteger('vectors', vectors, 1, MAX_VECTORS);
  checkInteger('pollInterval', pollInterval, 0, MAX_POLL_INTERVAL);
  if (typeof busyPoll !== 'number' || !(busyPoll >= 0 && busyPoll <= MAX_BUSY_POLL)) {
    throw new DmaArgumentError('busyPoll', busyPoll, `milliseconds from 0 to ${String(MAX_BUSY_POLL)}`);
  }
  return { kinds, vectors, pollInterval, busyPoll };
}

/**
 * The interrupts of a function, got from `PciFunction.interrupts()`.
 *
 * A wait that resolves to true says: look at the device. There may be nothing to see: lines are shared, and polling looks
 * now and then. The next wait says that all there was to see was dealt with, so ask the device (or its rings) before
 * each wait, and nothing is missed:
 *
 * @example
 * ```ts
 * await using machine = await QemuMachine.start({ devices: [{ driver: 'edu', id: 'edu0' }] });
 * await using edu = await machine.open('edu0');
 * const registers = edu.bar(0);
 * const interrupts = await edu.interrupts();
 * registers.write32(0x20, 0x80); // from now on an interrupt when a result is there
 * registers.write32(0x08, 6); // work out 6!
 * let raised: number;
 * while ((raised = await registers.read32(0x24)) === 0) {
 *   if (!(await interrupts.wait({ timeout: 5000 }))) throw new Error('no interrupt within 5 s');
 * }
 * registers.write32(0x64, raised); // acknowledge: the device lowers its line
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
  /** Set while the function may not do DMA and that was not reported: reports it. */
  readonly #onVain: () => (() => void) | null;
  readonly #busyPoll: number;
  #closed = false;

  /** @internal */
  constructor(
    address: string,
    backend: InterruptBackend,
    removed: AbortSignal,
    options: CheckedInterruptOptions,
    onClose: () => void,
    onVain: () => (() => void) | null = () => null,
  ) {
    this.#address = address;
    this.#backend = backend;
    this.#removed = removed;
    this.#onClose = onClose;
    this.#onVain = onVain;
    const { busyPoll, pollInterval } = options;
    // Which looks each turn anyway.
    this.#busyPoll = backend.kind === 'poll' && pollInterval === 0 ? Math.max(busyPoll, FLUSH_INTERVAL) : busyPoll;
    this.#pending = new Array<boolean>(backend.vectors).fill(false);
    backend.listen((vector) => {
      this.#notice(vector);
    });
    this.#onRemoved = () => {
      this.#fail(removed.reason as Error);
    };
    removed.addEventListener('abort', this.#onRemoved);
  }

  /** Which kind they are. */
  get kind(): InterruptKind {
    return this.#backend.kind;
  }

  /** How many there are, numbered from 0. */
  get vectors(): number {
    return this.#backend.vectors;
  }

  /**
   * Waits for the next interrupt of a vector. Posted writes arrive before that begins. An interrupt since the last
   * wait ends it at once. All who wait on a vector are woken together. A wait in vain while bus mastering is off is reported
   * on the device's log, once: the function can then do no DMA, and send no MSI and MSI-X.
   *
   * @param options Which vector, and how long. Default: the first one, without end.
   * @returns true: look at the device; false: the time is over.
   * @throws what `ready` throws.
   * @throws `DmaArgumentError` for wrong options. @throws the reason of the signal when that is aborted.
   * @throws {@link PciGoneError} when the device goes away; the home's own error when that ends.
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
    // What was noticed of a level is old news: whether it still stands is for the home to say.
    if (this.#backend.level) this.#pending[vector] = false;
    return new Promise((resolve, reject) => {
      let timer: ReturnType<typeof setTimeout> | undefined;
      let vain: ReturnType<typeof setTimeout> | undefined;
      const leave = (): boolean => {
        clearTimeout(timer);
        clearTimeout(vain);
        signal?.removeEventListener('abort', onAbort);
        return this.#waiters.delete(waiter);
      };
      const waiter: Waiter = {
        vector,
        ready,
        resolve: (pending) => {
          if (leave()) resolve(pending);
        },
        reject: (reason) => {
          if (leave()) reject(reason);
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
          this.#onVain()?.();
          waiter.resolve(false);
          this.#disarm(vector);
        }, timeout);
      }
      if (this.#onVain() !== null) vain = setTimeout(() => this.#onVain()?.(), VAIN_TIME);
      if (this.#pending[vector]) this.#notice(vector);
      else if (ready !== undefined && this.#busyPoll > 0) this.#look(waiter, performance.now() + this.#busyPoll);
      else this.#arm(waiter);
    });
  }

  /** Busy polling: now, in the next turn of the event loop, and so on. */
  #look(waiter: Waiter, end: number): void {
    // It may be over otherwise.
    if (!this.#waiters.has(waiter) || this.#isReady(waiter)) return;
    if (performance.now() < end) {
      later(0, () => {
        this.#look(waiter, end);
      });
    } else this.#arm(waiter);
  }

  /** Ends a wait if there is something to see. True when it is over. */
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
        else if (this.#waiters.has(waiter)) this.#notice(vector);
        // This wait ended otherwise meanwhile. A level will be asked for again; an event must not be lost.
        else if (!this.#backend.level) this.#pending[vector] = true;
      },
      (error: unknown) => {
        waiter.reject(error);
      },
    );
  }

  /** Nothing is to be listened for if nobody waits any more. */
  #disarm(vector: number): void {
    for (const waiter of this.#waiters) if (waiter.vector === vector) return;
    this.#backend.disarm?.(vector);
  }

  /** No more interrupts: every wait is rejected. Closing twice is fine. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#removed.removeEventListener('abort', this.#onRemoved);
    this.#fail(this.#closedError());
    this.#onClose();
    await this.#backend.close();
  }

  /** {@link Interrupts.close}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #notice(vector: number): void {
    const woken = [...this.#waiters].filter((waiter) => waiter.vector === vector);
    this.#pending[vector] = woken.length === 0;
    for (const waiter of woken) waiter.resolve(true);
  }

  #fail(error: Error): void {
    for (const waiter of [...this.#waiters]) waiter.reject(error);
  }

  #closedError(): PciError {
    return new PciError('ERR_DMAPOOL_PCI_CLOSED', this.#address, 'its interrupts were closed');
  }
}

/** Where there are no interrupts: after each interval the driver is told to look. @internal */
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

/** Calls once, after `interval` milliseconds or in the next turn of the event loop; returns what calls it off. */
function later(interval: number, action: () => void): () => void {
  if (interval === 0 && typeof setImmediate === 'function') {
    const handle = setImmediate(action);
    return () => {
      clearImmediate(handle);
    };
  }
  const handle = setTimeout(action, interval);
  return () => {
    clearTimeout(handle);
  };
}
