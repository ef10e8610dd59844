/** Waiting for a device. Every wait has a bound. */

/** Resolves after some milliseconds. */
export function delay(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Lets the event loop turn once: what was posted goes out, and answers and timers come in. */
export function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

/**
 * Looks until `done()`, every `interval` milliseconds. The last look begins after `timeout` milliseconds, so that a process
 * that was stopped meanwhile does not miss what is done.
 *
 * @returns Whether it was done in time. @throws The reason of `signal`; what `done` throws.
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

/** Settles as `promise`, or rejects when `signal` is aborted first. */
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

/** Resolves when `promise` is settled, or after some milliseconds. */
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
