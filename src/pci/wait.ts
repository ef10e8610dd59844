/** Waits for conditions that raise no interrupt, by polling. */
import { checkFunction, checkInteger, checkSignal, type OptionNames, readOptions } from '../arguments.ts';
import { DmaTimeoutError } from '../errors.ts';

/** Options of {@link waitFor}. */
export interface WaitForOptions {
  /** Milliseconds until the wait fails, 0 to 2^31-1. Required: a device may never do what the driver waits for. */
  readonly timeout: number;
  /** Aborts the wait, which then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Milliseconds between checks, 0 to 60000; 0 checks once each turn of the event loop. Default 1. */
  readonly interval?: number;
}

/** The values of a type that are true in a condition. */
export type Truthy<T> = Exclude<T, false | 0 | 0n | '' | null | undefined>;

const OPTIONS: OptionNames<WaitForOptions> = { timeout: true, signal: true, interval: true };
const MAX_TIMEOUT = 2 ** 31 - 1;
const MAX_INTERVAL = 60_000;
/** Milliseconds after the time-out for a check that is in progress, or is the last one. */
const LAST_LOOK = 100;

/**
 * Waits until a condition is true. Checks it at once, and then at intervals. The event loop turns between two checks,
 * so that other work continues and replies of devices arrive. One last check follows the time-out, so that a process
 * that was suspended meanwhile does not report a false time-out. The wait fails if a check is still pending 100 ms
 * after the time-out.
 *
 * Use it for registers that raise no interrupt, such as the end of a reset; for all others use `Interrupts.wait`.
 *
 * @param condition Returns a true value to end the wait, or a promise of one.
 * @param options The time limit, which is required, an abort signal and the interval.
 * @returns The true value.
 * @throws `DmaTimeoutError` when the condition is not true in time. @throws the signal's reason when it is aborted.
 * @throws the error of the condition. @throws `DmaArgumentError` for invalid arguments.
 *
 * @example
 * ```ts
 * await using machine = await QemuMachine.start({ devices: [{ driver: 'edu', id: 'edu0' }] });
 * await using edu = await machine.open('edu0');
 * const registers = edu.bar(0);
 * registers.write32(0x08, 6); // compute 6!
 * await waitFor(async () => ((await registers.read32(0x20)) & 1) === 0, { timeout: 1000 });
 * console.log(await registers.read32(0x08)); // 720
 * ```
 */
export async function waitFor<T>(condition: () => T | Promise<T>, options: WaitForOptions): Promise<Truthy<T>> {
  checkFunction('condition', condition);
  const { timeout, signal, interval = 1 } = readOptions('options', options, OPTIONS);
  checkInteger('timeout', timeout, 0, MAX_TIMEOUT);
  checkInteger('interval', interval, 0, MAX_INTERVAL);
  checkSignal('signal', signal);
  signal?.throwIfAborted();
  const late = (): DmaTimeoutError => new DmaTimeoutError(`the condition was not true within ${timeout} ms`);
  const end = performance.now() + timeout;
  let isOver = false;
  let guard: ReturnType<typeof setTimeout> | undefined;
  let cancelPause = (): void => undefined;
  let onAbort = (): void => undefined;
  const looks = async (): Promise<Truthy<T>> => {
    for (;;) {
      const left = end - performance.now();
      const value = await condition();
      if (value) return value as Truthy<T>;
      if (left <= 0) throw late();
      await new Promise<void>((resolve) => {
        // The wait may have ended while the condition was pending: stop checking.
        if (!isOver) cancelPause = later(left < interval ? Math.ceil(left) : interval, resolve);
      });
    }
  };
  try {
    return await new Promise((resolve, reject) => {
      // The condition may hang.
      guard = setTimeout(
        () => {
          reject(late());
        },
        Math.min(timeout + LAST_LOOK, MAX_TIMEOUT),
      );
      onAbort = () => {
        reject(signal!.reason as Error);
      };
      signal?.addEventListener('abort', onAbort);
      looks().then(resolve, reject);
    });
  } finally {
    isOver = true;
    clearTimeout(guard);
    cancelPause();
    signal?.removeEventListener('abort', onAbort);
  }
}

/**
 * Calls `action` after `interval` milliseconds, or in the next turn for 0. Returns a function that cancels the call.
 * @internal
 */
export function later(interval: number, action: () => void): () => void {
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
