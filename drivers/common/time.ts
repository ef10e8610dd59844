/** Waits with time limits. */

/** Resolves after `milliseconds`. */
export function delay(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Yields one turn of the event loop: pending writes are sent, responses and timers are processed. */
export function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

/**
 * Calls `done` every `interval` milliseconds until it returns true or `timeout` milliseconds have passed. One
 * last call follows the timeout, so that a process that was suspended meanwhile does not report a false timeout.
 *
 * @returns True if `done` returned true. @throws The reason of `signal`; errors of `done`.
 */
export async function waitUntil(
  done: () => boolean | Promise<boolean>,
  timeout: number,
  interval = 1,
  signal?: AbortSignal,
): Promise<boolean> {
  const end = performance.now() + timeout;
  for (;;) {
    signal?.throwIfAborted();
    const left = end - performance.now();
    if (await done()) return true;
    if (left <= 0) return false;
    await delay(Math.min(interval, left));
  }
}

/** Settles with `promise`, or rejects with the reason of `signal` if that is aborted first. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      reject(signal.reason as Error);
    };
    if (signal.aborted) onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    promise.then(resolve, reject).finally(() => {
      signal.removeEventListener('abort', onAbort);
    });
  });
}

/** Resolves when `promise` settles, or after `timeout` milliseconds. */
export async function settled(promise: Promise<unknown>, timeout: number): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeout);
  });
  try {
    await Promise.race([promise.catch(() => undefined), late]);
  } finally {
    clearTimeout(timer);
  }
}
