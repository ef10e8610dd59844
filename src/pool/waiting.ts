import { checkBoolean, checkSignal, INT_MAX, type OptionNames, readOptions } from '../arguments.ts';
import { DmaArgumentError, DmaTimeoutError } from '../errors.ts';
import type { CoherentAllocator } from '../memory/coherent.ts';
import { observer } from '../memory/observer.ts';

/** Options of `allocWait`. */
export interface WaitOptions {
  /** Cancels the wait: the promise is rejected with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Milliseconds until the wait fails with `ERR_DMAPOOL_TIMEOUT`, 0 to 2^31-1. Default: no timeout. */
  readonly timeout?: number;
  /** Zero every byte of the block. Default false. */
  readonly zero?: boolean;
}

/** Checked wait options. Read once, because no user code may run during a delivery. */
export interface CheckedWaitOptions {
  readonly signal: AbortSignal | undefined;
  readonly timeout: number | undefined;
  readonly zero: boolean;
}

export interface Waiter {
  /** Resolves the wait with a block. False if `give` threw: then the wait has failed. */
  readonly deliver: (index: number) => boolean;
  /** Rejects the wait. */
  readonly fail: (error: unknown) => void;
}

/** The waiters of one signal. They share a listener, because platforms warn of many listeners. */
interface SignalGroup {
  readonly giveUps: Set<(reason: unknown) => void>;
  readonly listener: () => void;
}

const WAIT_OPTIONS: OptionNames<WaitOptions> = { signal: true, timeout: true, zero: true };

/** Checks wait options. @throws {@link DmaArgumentError} */
export function checkWaitOptions(options: WaitOptions): CheckedWaitOptions {
  const { signal, timeout, zero = false } = readOptions('options', options, WAIT_OPTIONS);
  checkSignal('signal', signal);
  if (timeout !== undefined && !(typeof timeout === 'number' && timeout >= 0 && timeout <= INT_MAX)) {
    throw new DmaArgumentError('timeout', timeout, `a number from 0 to ${INT_MAX}`);
  }
  checkBoolean('zero', zero);
  return { signal, timeout, zero };
}

/**
 * The queue of waiters, FIFO.
 *
 * A signal's methods are user code. They may throw, and may call the pool, which may serve or end the same wait. So a
 * waiter joins the queue before the first access to its signal, and its state is read again afterwards.
 *
 * Each waiter has a unique key, chosen by the owner of the queue.
 *
 * Invariant: a timer keeps the process alive if and only if the queue is not empty. Some events that end a wait do not
 * keep the process alive, such as a worker's message or a timer after `unref`.
 */
export class WaitQueue<K extends object = object> {
  readonly #label: string;
  readonly #backend: object;
  /** Waiters in order of arrival, which a Map preserves. Removal is O(1). */
  readonly waiters: Map<K, Waiter> = new Map<K, Waiter>();
  readonly #groups = new Map<AbortSignal, SignalGroup>();
  #keepAlive: ReturnType<typeof setInterval> | undefined;

  /**
   * @param label Device and pool, for messages.
   * @param backend Backend of the pool, for the observer.
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
   * @param key Unique key of this waiter.
   * @param give Converts the index to the caller's result, at delivery.
   * @param left Called when this wait is cancelled or times out.
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
          // The reason of an AbortSignal may be any value. It is passed on unchanged, as in all web APIs.
          reject(error);
        },
      };
      const ended = observer?.waiting(this.#backend);
      this.waiters.set(key, waiter);
      this.#keepAlive ??= setInterval(() => undefined, INT_MAX);
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
        // The wait ended while there was no listener to remove.
        if (giveUps.size === 0) removeListener(signal, listener);
      }
      // The signal may have aborted after the check of the options, for example in the memory source.
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

  /** Delivers a block to the first waiter. False if no waiter took it. */
  deliver(index: number): boolean {
    for (const waiter of this.waiters.values()) if (waiter.deliver(index)) return true;
    return false;
  }

  /** Rejects all waits. */
  failAll(error: unknown): void {
    for (const key of [...this.waiters.keys()]) this.waiters.get(key)?.fail(error);
  }
}

/** The signal's reason, or the error that its getter throws. */
function reasonOf(signal: AbortSignal): unknown {
  try {
    return signal.reason;
  } catch (error) {
    return error;
  }
}

/** Removes the listener. Drops errors, because the wait is over. */
function removeListener(signal: AbortSignal, listener: () => void): void {
  try {
    signal.removeEventListener('abort', listener);
  } catch {
    // Dropped.
  }
}

/** Subscription to the next "memory available" event of a memory source. At most one is active. */
export class MemorySubscription {
  readonly #memory: CoherentAllocator;
  readonly #onMemory: () => void;
  #cancel: (() => void) | null = null;
  /** A call of the memory source is in progress. It may call the pool, which may subscribe too. */
  #subscribing = false;

  /** @param onMemory Called at the event, which ends the subscription. */
  constructor(memory: CoherentAllocator, onMemory: () => void) {
    this.#memory = memory;
    this.#onMemory = onMemory;
  }

  /**
   * Subscribes, unless a subscription is active or the memory source has no such events. Passes on the memory source's
   * errors.
   *
   * @returns True if the event occurred during the call, which ends the subscription.
   */
  subscribe(): boolean {
    if (this.#cancel !== null || this.#subscribing) return false;
    let over = false;
    let cancel: (() => void) | null;
    this.#subscribing = true;
    try {
      cancel =
        this.#memory.onceAvailable?.(() => {
          // Ignore a second call by the memory source.
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

  /** Ends the subscription. Drops the memory source's errors, because a free or destroy can't report them. */
  cancel(): void {
    const cancel = this.#cancel;
    this.#cancel = null;
    try {
      cancel?.();
    } catch {
      // Dropped.
    }
  }
}
