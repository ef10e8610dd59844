import { PerformanceObserver } from 'node:perf_hooks';
import { setImmediate } from 'node:timers/promises';
import { getHeapStatistics } from 'node:v8';

import { type HeldBlocks, median, type Moment, now, type Round, round3, type Workload } from '../../src/cli/speed.ts';
import type { DmaPool } from '../../src/index.ts';

/** Bytes on the JavaScript heap, dead objects included: it only grows between two collections. */
export function usedHeapBytes(): number {
  return getHeapStatistics().used_heap_size;
}

/** Keeps a probe's objects reachable, so that no engine optimizes them away. */
const probe: unknown[] = new Array<unknown>(1000).fill(null);

/**
 * Tells whether {@link usedHeapBytes} reflects allocations at once and in full, as in V8. Where it is updated rarely,
 * "no growth" would mean nothing.
 */
export function heapReflectsAllocations(): boolean {
  // Three attempts: a collection during a probe hides its objects.
  return reflectsProbe() || reflectsProbe() || reflectsProbe();
}

function reflectsProbe(): boolean {
  const before = usedHeapBytes();
  for (let i = 0; i < probe.length; i++) probe[i] = { i };
  const growth = usedHeapBytes() - before;
  probe.fill(null);
  // Accepts sizes from an object of two words to one with the engine's spare fields.
  return growth >= probe.length * 12 && growth <= probe.length * 100;
}

interface Span {
  readonly start: number;
  readonly end: number;
}

/**
 * Records garbage collections. Heap growth across a collection says nothing about allocations, so such readings are
 * discarded.
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

  /** Turns the event loop, which delivers entries. Then `collectedWithin` covers all earlier collections. */
  async settle(): Promise<void> {
    await setImmediate();
    await setImmediate();
  }

  /** True if a collection ran at any time between two readings of `performance.now()`. */
  collectedWithin(start: number, end: number): boolean {
    return this.#spans.some((span) => span.start <= end && span.end >= start);
  }

  [Symbol.dispose](): void {
    this.#observer.disconnect();
  }
}

/** One repetition: time of its rounds, and growth of the heap. */
export interface Reading {
  readonly start: Moment;
  readonly end: Moment;
  readonly pairs: number;
  /** Includes the constant cost of reading clock and heap, which `garbagePerPair` subtracts. */
  readonly heapGrowth: number;
}

/** Runs rounds on a pool between two readings of clock and heap. Zero rounds measure the cost of reading. */
export function readRounds(round: Round, pool: DmaPool, held: HeldBlocks, count: number, rounds: number): Reading {
  const before = usedHeapBytes();
  const start = now();
  for (let i = 0; i < rounds; i++) round(pool, held, count);
  const end = now();
  return { start, end, pairs: count * rounds, heapGrowth: usedHeapBytes() - before };
}

/**
 * Bytes of garbage per pair, from the readings without a collection; null if there are none.
 *
 * Uses the median: garbage of each pair is in all readings, while the engine's occasional allocations (a recompilation)
 * are in few.
 */
export function garbagePerPair(
  readings: readonly Reading[],
  empty: readonly Reading[],
  watch: CollectionWatch,
): number | null {
  const undisturbed = (reading: Reading): boolean => !watch.collectedWithin(reading.start.wall, reading.end.wall);
  const costs = empty.filter(undisturbed).map((reading) => reading.heapGrowth);
  // Median, because the first readings allocate more while their code is interpreted.
  const cost = costs.length === 0 ? 0 : median(costs);
  const growths = readings.filter(undisturbed).map((reading) => (reading.heapGrowth - cost) / reading.pairs);
  return growths.length === 0 ? null : Math.max(0, median(growths));
}

/** The maximum; null if any value is unknown. */
export function most(values: readonly (number | null)[]): number | null {
  return values.includes(null) ? null : round3(Math.max(...values.map(Number)));
}

/** As {@link garbagePerPair}, for rounds on a warm pool. */
export async function garbageOfRound(
  round: Round,
  { pool, blocks }: Workload,
  held: HeldBlocks,
  watch: CollectionWatch,
): Promise<number | null> {
  // If collections disturb all long runs there is much garbage, and short runs measure it.
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
