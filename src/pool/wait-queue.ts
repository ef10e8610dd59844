import { DmaArgumentError, DmaTimeoutError } from '../errors.ts';

/** How long and until when to wait for a block. */
export interface WaitOptions {
  /** Ends the wait: the promise is rejected with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Milliseconds after which the wait fails with `ERR_DMAPOOL_TIMEOUT`; default: never. */
  readonly timeout?: number;
  /** Every byte of the block is zero, as from `zalloc`. Default false. */
  readonly zero?: boolean;
}

/** Wait options that are what they should be. Read once: later, at a delivery, nothing of the user's may run. */
export interface CheckedWaitOptions {
  readonly signal: AbortSignal | undefined;
  readonly timeout: number | undefined;
  readonly zero: boolean;
}

interface Waiter {
  readonly deliver: (index: number) => void;
  readonly fail: (error: unknown) => void;
}

/** Those who wait with one signal; one listener for all, since platforms warn of many. */
interface SignalGroup {
  readonly giveUps: Set<(reason: unknown) => void>;
  readonly listener: () => void;
}

/** Longest delay that timers take. */
const MAX_TIMEOUT = 0x7fff_ffff;

/** Reads and checks options. @throws {@link DmaArgumentError} */
export function checkWaitOptions(options: WaitOptions): CheckedWaitOptions {
  if (typeof options !== 'object' || options === null) {
    throw new DmaArgumentError('options', options, 'an object with signal, timeout and zero, all optional');
  }
  const { signal, timeout, zero = false } = options;
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw new DmaArgumentError('signal', signal, 'an AbortSignal');
  }
  if (timeout !== undefined && !(typeof timeout === 'number' && timeout >= 0 && timeout <= MAX_TIMEOUT)) {
    throw new DmaArgumentError('timeout', timeout, 'milliseconds from 0 to 2^31-1');
  }
  if (typeof zero !== 'boolean') throw new DmaArgumentError('zero', zero, 'true or false');
  return { signal, timeout, zero };
}

/** Those who wait for a block, first come first served. */
export class WaitQueue {
  readonly #label: string;
  // A Set keeps the order of arrival, and those who give up leave it in O(1).
  readonly #waiters = new Set<Waiter>();
  readonly #groups = new Map<AbortSignal, SignalGroup>();

  /** @param label Device and pool, for messages. */
  constructor(label: string) {
    this.#label = label;
  }

  get length(): number {
    return this.#waiters.size;
  }

  /**
   * Joins the queue.
   *
   * @param give Turns the index into what the caller gets, at the moment of delivery. Does not throw.
   * @param left Called when this one gave up, with the place in the queue that it had.
   */
  join<T>(give: (index: number) => T, options: CheckedWaitOptions, left: (position: number) => void): Promise<T> {
    const { signal, timeout } = options;
    return new Promise<T>((resolve, reject) => {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const giveUp = (error: unknown): void => {
        const position = [...this.#waiters].indexOf(waiter);
        waiter.fail(error);
        left(position);
      };
      const leave = (): void => {
        this.#waiters.delete(waiter);
        if (signal !== undefined) this.#ignore(signal, giveUp);
        clearTimeout(timer);
      };
      const waiter: Waiter = {
        deliver: (index) => {
          leave();
          resolve(give(index));
        },
        fail: (error) => {
          leave();
          // An AbortSignal's reason may be anything; it is passed on as every web API does.
          reject(error);
        },
      };
      if (signal !== undefined) this.#listen(signal, giveUp);
      if (timeout !== undefined) {
        timer = setTimeout(() => {
          giveUp(new DmaTimeoutError(`${this.#label}: no block came free within ${String(timeout)} ms`));
        }, timeout);
      }
      this.#waiters.add(waiter);
    });
  }

  #listen(signal: AbortSignal, giveUp: (reason: unknown) => void): void {
    let group = this.#groups.get(signal);
    if (group === undefined) {
      const giveUps = new Set<(reason: unknown) => void>();
      const listener = (): void => {
        for (const each of [...giveUps]) each(signal.reason);
      };
      group = { giveUps, listener };
      this.#groups.set(signal, group);
      signal.addEventListener('abort', listener);
    }
    group.giveUps.add(giveUp);
  }

  #ignore(signal: AbortSignal, giveUp: (reason: unknown) => void): void {
    const group = this.#groups.get(signal);
    if (group?.giveUps.delete(giveUp) !== true || group.giveUps.size > 0) return;
    this.#groups.delete(signal);
    signal.removeEventListener('abort', group.listener);
  }

  /** Gives a block to the one who waits longest; false if nobody waits. */
  deliver(index: number): boolean {
    for (const waiter of this.#waiters) {
      waiter.deliver(index);
      return true;
    }
    return false;
  }

  /** Ends the wait of the one who waits longest. */
  failFirst(error: unknown): void {
    for (const waiter of this.#waiters) {
      waiter.fail(error);
      return;
    }
  }

  /** Ends every wait. */
  failAll(error: unknown): void {
    for (const waiter of [...this.#waiters]) waiter.fail(error);
  }
}
