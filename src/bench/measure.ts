import type { DmaPool } from '../index.ts';
import { elapsedNs, type Moment, now } from './clock.ts';
import { usedHeapBytes, type CollectionWatch } from './garbage.ts';
import type { HeldBlocks, Round } from './rounds.ts';

/** One repetition: how long its rounds took, and by how much they and the measuring itself made the heap grow. */
export interface Reading {
  readonly start: Moment;
  readonly end: Moment;
  readonly pairs: number;
  /** Includes what reading clock and heap allocates: the same at each reading, see `garbagePerPair`. */
  readonly heapGrowth: number;
}

/** Runs rounds on a pool between two readings of clock and heap. With no rounds it reads what reading costs. */
export function readRounds(round: Round, pool: DmaPool, held: HeldBlocks, count: number, rounds: number): Reading {
  const before = usedHeapBytes();
  const start = now();
  for (let i = 0; i < rounds; i++) round(pool, held, count);
  const end = now();
  return { start, end, pairs: count * rounds, heapGrowth: usedHeapBytes() - before };
}

export function nsPerPair(reading: Reading): number {
  return elapsedNs(reading.start, reading.end) / reading.pairs;
}

/**
 * Bytes of garbage that each pair left, from the readings that no collection disturbed; null if all were.
 *
 * The median over the readings, because garbage that comes from each pair is in all of them, and what the engine
 * allocates now and then for itself (a recompilation) is in few.
 */
export function garbagePerPair(
  readings: readonly Reading[],
  empty: readonly Reading[],
  watch: CollectionWatch,
): number | null {
  const undisturbed = (reading: Reading): boolean => !watch.collectedWithin(reading.start.wall, reading.end.wall);
  const costs = empty.filter(undisturbed).map((reading) => reading.heapGrowth);
  // The engine may allocate more at the first readings of all, while it still interprets the code that reads.
  const cost = costs.length === 0 ? 0 : median(costs);
  const growths = readings.filter(undisturbed).map((reading) => (reading.heapGrowth - cost) / reading.pairs);
  return growths.length === 0 ? null : Math.max(0, median(growths));
}

/** The middle one, or the mean of the middle two. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle]!;
  return sorted.length % 2 === 1 ? upper : (sorted[middle - 1]! + upper) / 2;
}
