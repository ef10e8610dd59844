import { DmaArgumentError, DmaTimeoutError } from '../errors.ts';

/** How long and until when to wait for a block. */
export interface WaitOptions {
  /** Ends the wait: the promise is rejected with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Milliseconds after which the wait fails with `ERR_DMAPOOL_TIMEOUT`; default: never. */
  readonly timeout?: number;
  /** Every byte of the block is zero, as from `zalloc`. */
  readonly zero?: boolean;
}

interface Waiter {
  readonly deliver: (index: number) => void;
  readonly fail: (error: unknown) => void;
}

/** Longest delay that timers take. */
const MAX_TIMEOUT = 0x7fff_ffff;

/** Throws unless `options` are what they should be. */
export function checkWaitOptions(options: WaitOptions): void {
  const { signal, timeout } = options;
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw new DmaArgumentError('signal', signal, 'an AbortSignal');
  }
  if (timeout !== undefined && !(typeof timeout === 'number' && timeout >= 0 && timeout <= MAX_TIMEOUT)) {
    throw new DmaArgumentError('timeout', timeout, 'milliseconds from 0 to 2^31-1');
  }
}

/** Those who wait for a block, first come first served. */
export class WaitQueue {
  // A Set keeps the order of arrival, and those who give up leave it in O(1).
  readonly #waiters = new Set<Waiter>();

  get length(): number {
    return this.#waiters.size;
  }

  /** Joins the queue. `wrap` turns the index into what the caller gets, at the moment of delivery. */
  join<T>(wrap: (index: number) => T, options: WaitOptions, pool: string, left: () => void): Promise<T> {
    const { signal, timeout } = options;
    return new Promise<T>((resolve, reject) => {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const leave = (): void => {
        this.#waiters.delete(waiter);
        signal?.removeEventListener('abort', onAbort);
        clearTimeout(timer);
      };
      const waiter: Waiter = {
        deliver: (index) => {
          leave();
          resolve(wrap(index));
        },
        fail: (error) => {
          leave();
          // An AbortSignal's reason may be anything; it is passed on as every web API does.
          reject(error);
        },
      };
      const giveUp = (error: unknown): void => {
        waiter.fail(error);
        left();
      };
      const onAbort = (): void => {
        giveUp(signal?.reason);
      };
      signal?.addEventListener('abort', onAbort);
      if (timeout !== undefined) {
        timer = setTimeout(() => {
          giveUp(new DmaTimeoutError(`${pool}: no block came free within ${String(timeout)} ms`));
        }, timeout);
      }
      this.#waiters.add(waiter);
    });
  }

  /** Gives a block to the one who waits longest; false if nobody waits. */
  deliver(index: number): boolean {
    for (const waiter of this.#waiters) {
      waiter.deliver(index);
      return true;
    }
    return false;
  }

  /** Ends every wait. */
  failAll(error: unknown): void {
    for (const waiter of [...this.#waiters]) waiter.fail(error);
  }
}
