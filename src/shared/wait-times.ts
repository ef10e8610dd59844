/** Histogram of the wait times of a shared pool, over all workers. Only threads that import `dmapool/observe` record. */
import { H_WAIT_TIMES, WAIT_BUCKETS } from './layout.ts';

/** Upper bounds of the buckets, in milliseconds; the last bucket has none. */
export const WAIT_BOUNDS: readonly number[] = [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000];

const RANGE = 2 ** 30;
const SUM_LOW: number = H_WAIT_TIMES + WAIT_BUCKETS;
const SUM_HIGH: number = SUM_LOW + 1;

/** Waits by their time. */
export interface WaitTimes {
  /** How many ended in each bucket: one for each of {@link WAIT_BOUNDS}, and one above. */
  readonly counts: readonly number[];
  /** Milliseconds of all waits together. */
  readonly sum: number;
}

/** The bucket of a wait. */
export function bucketOf(milliseconds: number): number {
  const found = WAIT_BOUNDS.findIndex((bound) => milliseconds <= bound);
  return found < 0 ? WAIT_BOUNDS.length : found;
}

/** Counts a wait that ended. */
export function recordWait(header: Int32Array<SharedArrayBuffer>, milliseconds: number): void {
  Atomics.add(header, H_WAIT_TIMES + bucketOf(milliseconds), 1);
  // In microseconds, in two words of 30 bits: the low one may be above its range for a moment.
  const us = Math.min(Math.round(milliseconds * 1000), RANGE - 1);
  if (Atomics.add(header, SUM_LOW, us) + us < RANGE) return;
  Atomics.sub(header, SUM_LOW, RANGE);
  Atomics.add(header, SUM_HIGH, 1);
}

/** The waits so far. */
export function readWaits(header: Int32Array<SharedArrayBuffer>): WaitTimes {
  const counts = Array.from({ length: WAIT_BUCKETS }, (_, i) => Atomics.load(header, H_WAIT_TIMES + i));
  return { counts, sum: (Atomics.load(header, SUM_HIGH) * RANGE + Atomics.load(header, SUM_LOW)) / 1000 };
}

/** Adds waits that were counted before the pool was shared. */
export function addWaits(header: Int32Array<SharedArrayBuffer>, { counts, sum }: WaitTimes): void {
  for (const [bucket, count] of counts.entries()) Atomics.add(header, H_WAIT_TIMES + bucket, count);
  const us = Math.round(sum * 1000);
  Atomics.add(header, SUM_LOW, us % RANGE);
  Atomics.add(header, SUM_HIGH, Math.floor(us / RANGE));
}
