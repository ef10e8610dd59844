/** The calls that the allocator's target makes, by kind: the one place that knows how they are written. */
import { type Device, type DmaBlock, DmaPool, type DmaPoolOptions } from 'dmapool';
import { sharePool as share } from 'dmapool/shared';
import { tryAllocBulk, tryAllocIndexBulk } from '../support/pools.ts';
import type { Random } from '../support/random.ts';

export interface AllocWish {
  readonly zero: boolean;
  /** Whether a new page may be taken. */
  readonly grow: boolean;
}

export function createPool(name: string, device: Device, options: DmaPoolOptions, managed: boolean): DmaPool {
  return managed ? DmaPool.createManaged(name, device, options) : DmaPool.create(name, device, options);
}

/** One block in one of the forms that there are: its index, or -1 where the form returns that there is none. */
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

/** `count` blocks in one of the forms that there are: their indices, or null where the form returns that there are none. */
export function allocMany(pool: DmaPool, random: Random, count: number, grow: boolean): number[] | null {
  const options = grow ? undefined : { grow };
  const into: DmaBlock[] = [];
  // Longer than needed now and then: what is past `count` is not touched.
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

/** Frees one block in one of the forms that there are. */
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

/** Frees many in one of the forms that there are. */
export function freeMany(pool: DmaPool, random: Random, indices: readonly number[]): void {
  if (random.chance(0.5)) pool.freeIndexBulk(Int32Array.from(indices));
  else pool.freeBulk(indices.map((index) => blockOf(pool, index)));
}

/** The object of a block that is out. */
export function blockOf(pool: DmaPool, index: number): DmaBlock {
  const block = pool.blockAt(pool.dmaOf(index));
  if (block === null) throw new Error(`block ${String(index)} is held, but blockAt() does not know it`);
  return block;
}

export function sharePool(pool: DmaPool): void {
  share(pool);
}
