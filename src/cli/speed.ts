/**
 * The workload of Linux's `dmapool_test` in three forms, and its speed. `dmapool bench` prints it. The comparison with
 * peers (`bench/` in a checkout) uses the same functions.
 */
import { performance } from 'node:perf_hooks';
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import { Device, type DmaBlock, DmaPool, HeapMemory } from '../index.ts';

/** Geometry of a pool, in bytes; boundary 0: none. */
export interface Geometry {
  readonly size: number;
  readonly align: number;
  readonly boundary: number;
}

/** The six geometries of `dmapool_test`. Must match bench/peers/workload.h. */
export const KERNEL_GEOMETRIES: readonly Geometry[] = [
  { size: 16, align: 16, boundary: 0 },
  { size: 64, align: 64, boundary: 0 },
  { size: 256, align: 256, boundary: 0 },
  { size: 1024, align: 1024, boundary: 0 },
  { size: 4096, align: 4096, boundary: 0 },
  { size: 68, align: 32, boundary: 4096 },
];

/**
 * The six geometries, and two more whose results are not reported. An engine that has seen only one pool may produce
 * faster code than in a driver with several pools.
 */
export const USED_GEOMETRIES: readonly Geometry[] = [
  ...KERNEL_GEOMETRIES,
  { size: 32, align: 32, boundary: 0 },
  { size: 192, align: 64, boundary: 0 },
];

export function formatGeometry({ size, align, boundary }: Geometry): string {
  return `${String(size)}/${String(align)}/${String(boundary)}`;
}

/** Maximum blocks that a workload holds at once. */
export const MAX_BLOCKS = 8192;

/** Blocks that the workload holds at once, as in `dmapool_test`: the capacity of 512 pages, 1024 to 8192. */
export function blocksOf(size: number): number {
  return Math.min(Math.max(Math.floor(4096 / size) * 512, 1024), MAX_BLOCKS);
}

/** A pool and its workload. */
export interface Workload {
  readonly pool: DmaPool;
  /** Blocks to hold at once. */
  readonly blocks: number;
}

/** Creates a pool for each of {@link USED_GEOMETRIES}, in that order. */
export function createWorkloads(device: Device): Workload[] {
  return USED_GEOMETRIES.map((geometry) => ({
    pool: DmaPool.create<string>(formatGeometry(geometry), device, geometry),
    blocks: blocksOf(geometry.size),
  }));
}

/** Blocks of one bulk call. Divides the block count of every workload. */
export const BULK = 32;

/** Storage for a round's blocks. Created before the clock starts. */
export interface HeldBlocks {
  readonly objects: (DmaBlock | null)[];
  readonly indices: Int32Array;
  readonly bursts: readonly Int32Array[];
}

export function createHeldBlocks(capacity: number = MAX_BLOCKS): HeldBlocks {
  return {
    objects: new Array<DmaBlock | null>(capacity).fill(null),
    indices: new Int32Array(capacity),
    bursts: Array.from({ length: Math.floor(capacity / BULK) }, () => new Int32Array(BULK)),
  };
}

/**
 * Allocates `count` blocks and frees them in the same order. Allocates no heap memory of its own.
 *
 * Call it once a round: the engine then enters optimized code at the call, as in a driver. A loop around the rounds
 * would run code from on-stack replacement, which differs.
 */
export type Round = (pool: DmaPool, held: HeldBlocks, count: number) => void;

export const FORMS = ['object', 'index', 'bulk32'] as const;
export type Form = (typeof FORMS)[number];

export const ROUNDS: Readonly<Record<Form, Round>> = {
  object(pool, { objects }, count) {
    for (let i = 0; i < count; i++) objects[i] = pool.alloc();
    for (let i = 0; i < count; i++) pool.free(objects[i]!);
  },
  index(pool, { indices }, count) {
    for (let i = 0; i < count; i++) indices[i] = pool.allocIndex();
    for (let i = 0; i < count; i++) pool.freeIndex(indices[i]!);
  },
  bulk32(pool, { bursts }, count) {
    const calls = Math.floor(count / BULK);
    for (let i = 0; i < calls; i++) pool.allocIndexBulk(bursts[i]!, BULK);
    for (let i = 0; i < calls; i++) pool.freeIndexBulk(bursts[i]!, BULK);
  },
};

/** The engine's full garbage collection, enabled without a command-line flag; null if not available. */
export function findCollector(): (() => void) | null {
  try {
    setFlagsFromString('--expose-gc');
    const collect: unknown = runInNewContext('gc');
    return typeof collect === 'function' ? (collect as () => void) : null;
  } catch {
    return null;
  }
}

/** Short calls of each form on each pool, which trigger its compilation. */
export const WARM_CALLS = 2000;

/**
 * Brings engine and pools to the steady state of a driver.
 *
 * Short calls come first. If the first calls were long, the engine would replace their running loops with code
 * specialized for the first loop, and every later call would pass through it.
 */
export function warmUp(rounds: readonly Round[], workloads: readonly Workload[], held: HeldBlocks): void {
  for (const round of rounds) {
    for (let call = 0; call < WARM_CALLS; call++) {
      for (const { pool } of workloads) round(pool, held, BULK);
    }
  }
  // Create all block objects and age them: storing a young object in an old array costs 3 ns (the write barrier).
  for (const { pool, blocks } of workloads) ROUNDS.object(pool, held, blocks);
  held.objects.fill(null);
  findCollector()?.();
}

/** Wall time and CPU time of this process, in milliseconds. */
export interface Moment {
  readonly wall: number;
  readonly cpu: number;
}

export function now(): Moment {
  const { user, system } = process.cpuUsage();
  return { wall: performance.now(), cpu: (user + system) / 1000 };
}

/**
 * Nanoseconds that this thread ran between two moments: the smaller of two upper bounds. Wall time includes other
 * processes on this CPU; CPU time includes the engine's other threads.
 */
export function elapsedNs(start: Moment, end: Moment): number {
  const wall = end.wall - start.wall;
  // CPU time has a resolution of 1 us, and on Windows of 15.6 ms.
  const coarse = wall < 0.2 || process.platform === 'win32';
  return 1e6 * (coarse ? wall : Math.min(wall, end.cpu - start.cpu));
}

/** Runs rounds. Returns nanoseconds for one allocation and its free. */
export function timeRounds(round: Round, pool: DmaPool, held: HeldBlocks, count: number, rounds: number): number {
  const start = now();
  for (let i = 0; i < rounds; i++) round(pool, held, count);
  return elapsedNs(start, now()) / (rounds * count);
}

/** The median: the middle value, or the mean of the two middle ones. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle]!;
  return sorted.length % 2 === 1 ? upper : (sorted[middle - 1]! + upper) / 2;
}

export function round3(value: number): number {
  return Math.round(value * 1000) / 1000;
}

/** Nanoseconds for one allocation and its free, over the repetitions in one process. */
export interface Sample {
  readonly nsPerPairMedian: number;
  readonly nsPerPairBest: number;
}

export function sampleOf(times: readonly number[]): Sample {
  return { nsPerPairMedian: round3(median(times)), nsPerPairBest: round3(Math.min(...times)) };
}

/** Figures of one geometry; those of the object form (`alloc`, `free`) are inherited. */
export interface SpeedResult extends Geometry, Sample {
  readonly blocks: number;
  readonly blocksPerPage: number;
  /** `allocIndex` and `freeIndex`. */
  readonly index: Sample;
  /** `allocIndexBulk` and `freeIndexBulk` of {@link BULK}, per block. */
  readonly bulk32: Sample;
}

export interface SpeedReport {
  readonly node: string;
  readonly results: readonly SpeedResult[];
}

export interface SpeedOptions {
  /** Rounds in one repetition. Default 100, as in `dmapool_test`. */
  readonly rounds?: number;
  /** Timed repetitions. Default 21. */
  readonly repetitions?: number;
  /** Untimed repetitions before. Default 3. */
  readonly warmup?: number;
  /** Milliseconds after which no further repetition starts. Default 40,000. */
  readonly budgetMs?: number;
  /** Receives the completed fraction, 0 to 1; never called while the clock runs. */
  readonly onProgress?: (done: number) => void;
}

/**
 * Measures all forms on eight pools. Interleaves forms and geometries, so that a temporary slowdown of the machine
 * affects all alike.
 */
export async function measureSpeed(options: SpeedOptions = {}): Promise<SpeedReport> {
  const { rounds = 100, repetitions = 21, warmup = 3, budgetMs = 40_000 } = options;
  const deadline = performance.now() + budgetMs;
  using device = new Device({ name: 'bench', memory: new HeapMemory() });
  const held = createHeldBlocks();
  const workloads = createWorkloads(device);
  const times = workloads.map((): Record<Form, number[]> => ({ object: [], index: [], bulk32: [] }));

  warmUp(Object.values(ROUNDS), workloads, held);
  for (let repetition = -warmup; repetition < repetitions; repetition++) {
    if (repetition > 0 && performance.now() > deadline) break;
    options.onProgress?.((repetition + warmup) / (repetitions + warmup));
    for (const form of FORMS) {
      for (const [i, { pool, blocks }] of workloads.entries()) {
        const ns = timeRounds(ROUNDS[form], pool, held, blocks, rounds);
        if (repetition >= 0) times[i]![form].push(ns);
      }
    }
    // Lets the engine install compiled code, and Node handle signals.
    await setImmediate();
  }

  const results = KERNEL_GEOMETRIES.map((geometry, i): SpeedResult => {
    const { pool, blocks } = workloads[i]!;
    const { object, index, bulk32 } = times[i]!;
    const { blocksPerPage } = pool.geometry;
    return {
      ...geometry,
      blocks,
      blocksPerPage,
      ...sampleOf(object),
      index: sampleOf(index),
      bulk32: sampleOf(bulk32),
    };
  });
  for (const { pool } of workloads) pool.destroy();
  return { node: process.version, results };
}
