import { checkBoolean, checkSignal, type OptionNames, readOptions } from '../arguments.ts';
import { DmaArgumentError, DmaTimeoutError } from '../errors.ts';
import type { CoherentAllocator } from '../memory/coherent.ts';
import { observer } from '../memory/observer.ts';

/** How long and until when to wait for a block. */
export interface WaitOptions {
  /** Ends the wait: the promise is rejected with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Milliseconds after which the wait fails with `ERR_DMAPOOL_TIMEOUT`; default: never. */
  readonly timeout?: number;
  /** Zero every byte of the block. Default false. */
  readonly zero?: boolean;
}

/** Wait options that are what they should be. Read once: later, at a delivery, nothing of the user's may run. */
export interface CheckedWaitOptions {
  readonly signal: AbortSignal | undefined;
  readonly timeout: number | undefined;
  readonly zero: boolean;
}

export interface Waiter {
  /** Ends the wait with a block. False, and the wait has failed, if the index can't be turned into what the caller gets. */
  readonly deliver: (index: number) => boolean;
  /** Ends the wait with an error. */
  readonly fail: (error: unknown) => void;
}

/** Those who wait with one signal; one listener for all, since platforms warn of many. */
interface SignalGroup {
  readonly giveUps: Set<(reason: unknown) => void>;
  readonly listener: () => void;
}

const WAIT_OPTIONS: OptionNames<WaitOptions> = { signal: true, timeout: true, zero: true };
/** Longest delay that timers take. */
const MAX_TIMEOUT = 0x7fff_ffff;

/** Reads and checks options. @throws {@link DmaArgumentError} */
export function checkWaitOptions(options: WaitOptions): CheckedWaitOptions {
  const { signal, timeout, zero = false } = readOptions('options', options, WAIT_OPTIONS);
  checkSignal('signal', signal);
  if (timeout !== undefined && !(typeof timeout === 'number' && timeout >= 0 && timeout <= MAX_TIMEOUT)) {
    throw new DmaArgumentError('timeout', timeout, `a number from 0 to ${MAX_TIMEOUT}`);
  }
  checkBoolean('zero', zero);
  return { signal, timeout, zero };
}

/**
 * Those who wait for a block, first come first served.
 *
 * A signal's methods are the user's code: they may throw, and may call the pool, which may serve or end this very wait.
 * So a waiter is in the queue before its signal is touched, and what it has is looked at afresh afterwards.
 *
 * Each waiter has a key of the owner's, by which it is found later, whoever left the queue meanwhile.
 *
 * Invariant: the process is kept alive (by a timer) while, and only while, the queue is not empty. Memory or a block may
 * come by an event that does not keep it alive: a message of a worker, a timer with `unref`.
 */
export class WaitQueue<K extends object = object> {
  readonly #label: string;
  readonly #backend: object;
  /** The waiters, in the order of arrival, which a Map keeps; one that gives up leaves it in O(1). */
  readonly waiters: Map<K, Waiter> = new Map<K, Waiter>();
  readonly #groups = new Map<AbortSignal, SignalGroup>();
  #keepAlive: ReturnType<typeof setInterval> | undefined;

  /**
   * @param label Device and pool, for messages.
   * @param backend Of the pool.
   */
  constructor(label: string, backend: object) {
    this.#label = label;
    this.#backend = backend;
  }

  get length(): number {
    return this.waiters.size;
  }

  /**
   * Joins the queue.
   *
   * @param key Of this waiter alone.
   * @param give Turns the index into what the caller gets, at the moment of delivery.
   * @param left Called when this one gave up.
   */
  join<T>(key: K, give: (index: number) => T, options: CheckedWaitOptions, left: () => void): Promise<T> {
    const { signal, timeout } = options;
    return new Promise<T>((resolve, reject) => {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const giveUp = (error: unknown): void => {
        if (!this.waiters.has(key)) return;
        waiter.fail(error);
        left();
      };
      const leave = (): void => {
        this.waiters.delete(key);
        if (this.waiters.size === 0) {
          clearInterval(this.#keepAlive);
          this.#keepAlive = undefined;
        }
        clearTimeout(timer);
        ended?.();
        if (signal !== undefined) this.#ignore(signal, giveUp);
      };
      const waiter: Waiter = {
        deliver: (index) => {
          leave();
          try {
            resolve(give(index));
            return true;
          } catch (error) {
            reject(error);
            return false;
          }
        },
        fail: (error) => {
          leave();
          // An AbortSignal's reason may be anything; it is passed on as every web API does.
          reject(error);
        },
      };
      const ended = observer?.waiting(this.#backend);
      this.waiters.set(key, waiter);
      this.#keepAlive ??= setInterval(() => undefined, MAX_TIMEOUT);
      if (timeout !== undefined) {
        timer = setTimeout(() => {
          giveUp(new DmaTimeoutError(`${this.#label}: no free block within ${timeout} ms`));
        }, timeout);
      }
      if (signal !== undefined) this.#listen(signal, giveUp);
    });
  }

  #listen(signal: AbortSignal, giveUp: (reason: unknown) => void): void {
    let group = this.#groups.get(signal);
    group?.giveUps.add(giveUp);
    try {
      if (group === undefined) {
        const giveUps = new Set([giveUp]);
        const listener = (): void => {
          const reason = reasonOf(signal);
          for (const each of [...giveUps]) each(reason);
        };
        group = { giveUps, listener };
        this.#groups.set(signal, group);
        signal.addEventListener('abort', listener);
        // The wait ended in between, before there was a listener to remove.
        if (giveUps.size === 0) removeListener(signal, listener);
      }
      // It may have been aborted after the options were checked, by the memory source for one.
      if (signal.aborted) giveUp(reasonOf(signal));
    } catch (error) {
      giveUp(error);
    }
  }

  #ignore(signal: AbortSignal, giveUp: (reason: unknown) => void): void {
    const group = this.#groups.get(signal);
    if (group?.giveUps.delete(giveUp) !== true || group.giveUps.size > 0) return;
    this.#groups.delete(signal);
    removeListener(signal, group.listener);
  }

  /** Gives a block to the one who waits longest; false if nobody took it. */
  deliver(index: number): boolean {
    for (const waiter of this.waiters.values()) if (waiter.deliver(index)) return true;
    return false;
  }

  /** Ends every wait. */
  failAll(error: unknown): void {
    for (const key of [...this.waiters.keys()]) this.waiters.get(key)?.fail(error);
  }
}

/** The signal's reason, or what it throws instead. */
function reasonOf(signal: AbortSignal): unknown {
  try {
    return signal.reason;
  } catch (error) {
    return error;
  }
}

/** Stops listening. The wait is over: what the signal throws then concerns nobody. */
function removeListener(signal: AbortSignal, listener: () => void): void {
  try {
    signal.removeEventListener('abort', listener);
  } catch {
    // See above.
  }
}

/** Subscription to the next "memory available" event of a memory source; at most one at a time. */
export class MemorySubscription {
  readonly #memory: CoherentAllocator;
  readonly #onMemory: () => void;
  #cancel: (() => void) | null = null;
  /** The source is being called: it may call the pool, which may subscribe too. */
  #subscribing = false;

  /** @param onMemory Called at the event; the subscription is over then. */
  constructor(memory: CoherentAllocator, onMemory: () => void) {
    this.#memory = memory;
    this.#onMemory = onMemory;
  }

  /**
   * Subscribes, if that is not done yet and the source has such events. Throws what the source throws.
   *
   * @returns True if the event came at once: the subscription is over then.
   */
  subscribe(): boolean {
    if (this.#cancel !== null || this.#subscribing) return false;
    let over = false;
    let cancel: (() => void) | null;
    this.#subscribing = true;
    try {
      cancel =
        this.#memory.onceAvailable?.(() => {
          // A source may call twice.
          if (over) return;
          over = true;
          this.#cancel = null;
          this.#onMemory();
        }) ?? null;
    } finally {
      this.#subscribing = false;
    }
    if (!over) this.#cancel = cancel;
    return over;
  }

  /** Ends the subscription. What the source throws then is dropped: a free or a destroy is no place to report it. */
  cancel(): void {
    const cancel = this.#cancel;
    this.#cancel = null;
    try {
      cancel?.();
    } catch {
      // See above.
    }
  }
}
