import { PerformanceObserver } from 'node:perf_hooks';
import { setImmediate } from 'node:timers/promises';
import { getHeapStatistics } from 'node:v8';

import { type HeldBlocks, median, type Moment, now, type Round, round3, type Workload } from '../../src/cli/speed.ts';
import type { DmaPool } from '../../src/index.ts';

/** Bytes in objects on the JavaScript heap, dead ones included: between two collections it only grows. */
export function usedHeapBytes(): number {
  return getHeapStatistics().used_heap_size;
}

/** Where a probe's objects stay reachable, so that no engine may leave them out. */
const probe: unknown[] = new Array<unknown>(1000).fill(null);

/**
 * Whether {@link usedHeapBytes} sees objects at once, to their size. V8's does; where a runtime's only moves now and
 * then, "no growth" would mean nothing.
 */
export function seesAllocations(): boolean {
  // A collection in a probe hides what it made.
  return seesProbe() || seesProbe() || seesProbe();
}

function seesProbe(): boolean {
  const before = usedHeapBytes();
  for (let i = 0; i < probe.length; i++) probe[i] = { i };
  const growth = usedHeapBytes() - before;
  probe.fill(null);
  // From an object of two words to one with the engine's spare fields.
  return growth >= probe.length * 12 && growth <= probe.length * 100;
}

interface Span {
  readonly start: number;
  readonly end: number;
}

/**
 * Remembers when garbage was collected. A reading of the heap across a collection says nothing about what was
 * allocated meanwhile, so such readings have to be left out.
 */
export class CollectionWatch implements Disposable {
  readonly #spans: Span[] = [];
  readonly #observer: PerformanceObserver;

  constructor() {
    this.#observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) {
        this.#spans.push({ start: entry.startTime, end: entry.startTime + entry.duration });
      }
    });
    this.#observer.observe({ entryTypes: ['gc'] });
  }

  /** Entries come on the event loop, so let it turn: after this `collectedWithin` knows all that happened before. */
  async settle(): Promise<void> {
    await setImmediate();
    await setImmediate();
  }

  /** Whether a collection ran at any time between two readings of `performance.now()`. */
  collectedWithin(start: number, end: number): boolean {
    return this.#spans.some((span) => span.start <= end && span.end >= start);
  }

  [Symbol.dispose](): void {
    this.#observer.disconnect();
  }
}

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

/** The most of several figures; null if any is not known. */
export function most(values: readonly (number | null)[]): number | null {
  return values.includes(null) ? null : round3(Math.max(...values.map(Number)));
}

/** As {@link garbagePerPair}, of rounds on a pool that is warm. */
export async function garbageOfRound(
  round: Round,
  { pool, blocks }: Workload,
  held: HeldBlocks,
  watch: CollectionWatch,
): Promise<number | null> {
  // If collections disturb all of the long runs there is much garbage, and short ones see it.
  for (const [count, rounds] of [[blocks, 10] as const, [64, 1] as const]) {
    const empty: Reading[] = [];
    const readings: Reading[] = [];
    for (let i = 0; i < 25; i++) {
      empty.push(readRounds(round, pool, held, count, 0));
      readings.push(readRounds(round, pool, held, count, rounds));
    }
    await watch.settle();
    const garbage = garbagePerPair(readings, empty, watch);
    if (garbage !== null) return garbage;
  }
  return null;
}
