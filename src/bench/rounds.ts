import type { DmaBlock, DmaPool } from '../index.ts';
import { MAX_BENCH_BLOCKS } from './geometries.ts';

/**
 * The workload: allocate all, then free all in the same order, in the three forms of the interface.
 *
 * Each function does one round and is called once for each: the engine enters its optimized code at the call, as
 * it does in a driver, and not by replacing a running loop (on-stack replacement), whose code is not what a
 * driver gets. One function serves all pools: a driver's code, too, sees one class of pool. What is allocated is
 * stored where the caller sees it, so nothing here is dead code; nothing here allocates heap memory.
 */
export type Round = (pool: DmaPool, held: HeldBlocks, count: number) => void;

/** Blocks in one bulk call. Divides every count of blocks that the workload uses. */
export const BULK = 32;

/** What a driver keeps of its blocks: made before the clock starts, and of one shape for all pools. */
export interface HeldBlocks {
  readonly objects: (DmaBlock | null)[];
  readonly indices: Int32Array;
  readonly bursts: readonly Int32Array[];
}

export function createHeldBlocks(capacity: number = MAX_BENCH_BLOCKS): HeldBlocks {
  return {
    objects: new Array<DmaBlock | null>(capacity).fill(null),
    indices: new Int32Array(capacity),
    bursts: Array.from({ length: Math.floor(capacity / BULK) }, () => new Int32Array(BULK)),
  };
}

export function objectRound(pool: DmaPool, held: HeldBlocks, count: number): void {
  const objects = held.objects;
  for (let i = 0; i < count; i++) objects[i] = pool.alloc();
  for (let i = 0; i < count; i++) pool.free(objects[i]!);
}

export function indexRound(pool: DmaPool, held: HeldBlocks, count: number): void {
  const indices = held.indices;
  for (let i = 0; i < count; i++) indices[i] = pool.allocIndex();
  for (let i = 0; i < count; i++) pool.freeIndex(indices[i]!);
}

export function bulkRound(pool: DmaPool, held: HeldBlocks, count: number): void {
  const bursts = held.bursts;
  const calls = Math.floor(count / BULK);
  for (let i = 0; i < calls; i++) pool.allocIndexBulk(bursts[i]!, BULK);
  for (let i = 0; i < calls; i++) pool.freeIndexBulk(bursts[i]!, BULK);
}
