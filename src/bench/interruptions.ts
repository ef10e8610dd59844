import { readFileSync } from 'node:fs';

/**
 * Nanoseconds that this thread was ready to run but the system let others run instead; null where it does not say (not
 * Linux).
 */
export function delayNs(): number | null {
  try {
    return Number(readFileSync('/proc/thread-self/schedstat', 'utf8').split(' ')[1] ?? NaN);
  } catch {
    return null;
  }
}
