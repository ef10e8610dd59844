/** The calls of target `allocator` to the public API. */
import { type Device, type DmaBlock, DmaPool, type DmaPoolOptions } from 'dmapool';
import { sharePool as share } from 'dmapool/shared';
import { tryAllocBulk, tryAllocIndexBulk } from '../support/pools.ts';
import type { Random } from '../support/random.ts';

export interface AllocWish {
  readonly zero: boolean;
  /** The call may allocate a page. */
  readonly grow: boolean;
}

export function createPool(name: string, device: Device, options: DmaPoolOptions, managed: boolean): DmaPool {
  return managed ? DmaPool.createManaged(name, device, options) : DmaPool.create(name, device, options);
}

/** Allocates a block with a random method; returns its index, or -1 if the method reports failure by its result. */
export function allocOne(pool: DmaPool, random: Random, { zero, grow }: AllocWish): number {
  const options = grow && !zero && random.chance(0.5) ? undefined : { zero, grow };
  switch (random.below(4)) {
    case 0:
      return pool.alloc(options).index;
    case 1:
      return pool.tryAlloc(options)?.index ?? -1;
    case 2:
      return pool.allocIndex(options);
    default:
      return pool.tryAllocIndex(options);
  }
}

/** Allocates `count` blocks with a random method; returns their indices, or null if the method reports failure by its result. */
export function allocMany(pool: DmaPool, random: Random, count: number, grow: boolean): number[] | null {
  const options = grow ? undefined : { grow };
  const into: DmaBlock[] = [];
  // Sometimes one element longer than `count`, which must stay untouched.
  const indices = new Int32Array(count + random.below(2));
  switch (random.below(4)) {
    case 0:
      pool.allocBulk(into, count, options);
      return into.map(({ index }) => index);
    case 1:
      return tryAllocBulk(pool, into, count, options) ? into.map(({ index }) => index) : null;
    case 2:
      pool.allocIndexBulk(indices, count, options);
      return [...indices.subarray(0, count)];
    default:
      return tryAllocIndexBulk(pool, indices, count, options) ? [...indices.subarray(0, count)] : null;
  }
}

/** Frees a block with a random method. */
export function freeOne(pool: DmaPool, random: Random, index: number): void {
  switch (random.below(5)) {
    case 0:
      pool.free(blockOf(pool, index));
      break;
    case 1:
      pool.freeIndex(index);
      break;
    case 2:
      pool.freeAt(pool.dmaOf(index));
      break;
    case 3:
      blockOf(pool, index)[Symbol.dispose]();
      break;
    default:
      blockOf(pool, index).free();
  }
}

/** Frees blocks with a random bulk method. */
export function freeMany(pool: DmaPool, random: Random, indices: readonly number[]): void {
  if (random.chance(0.5)) pool.freeIndexBulk(Int32Array.from(indices));
  else pool.freeBulk(indices.map((index) => blockOf(pool, index)));
}

/** Returns the object of an allocated block. */
export function blockOf(pool: DmaPool, index: number): DmaBlock {
  const block = pool.blockAt(pool.dmaOf(index));
  if (block === null) throw new Error(`block ${String(index)} is allocated, but blockAt() returns null`);
  return block;
}

export function sharePool(pool: DmaPool): void {
  share(pool);
}
