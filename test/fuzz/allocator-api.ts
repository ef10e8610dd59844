/** The calls that the allocator's target makes, by kind: the one place that knows how they are written. */
import { type Device, type DmaBlock, DmaPool, type DmaPoolOptions } from 'dmapool';
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
  const gfp = grow ? 'kernel' : 'atomic';
  switch (random.below(4)) {
    case 0:
      return (zero ? pool.zalloc(gfp) : pool.alloc(gfp)).index;
    case 1:
      return (zero ? pool.tryZalloc(gfp) : pool.tryAlloc(gfp))?.index ?? -1;
    case 2:
      return zero ? pool.zallocIndex(gfp) : pool.allocIndex(gfp);
    default:
      return zero ? pool.tryZallocIndex(gfp) : pool.tryAllocIndex(gfp);
  }
}

/** `count` blocks in one of the forms that there are: their indices, or null where the form returns that there are none. */
export function allocMany(pool: DmaPool, random: Random, count: number, grow: boolean): number[] | null {
  const gfp = grow ? 'kernel' : 'atomic';
  const into: DmaBlock[] = [];
  // Longer than needed now and then: what is past `count` is not touched.
  const indices = new Int32Array(count + random.below(2));
  switch (random.below(4)) {
    case 0:
      pool.allocBulk(into, count, gfp);
      return into.map(({ index }) => index);
    case 1:
      return pool.tryAllocBulk(into, count, gfp) ? into.map(({ index }) => index) : null;
    case 2:
      pool.allocIndexBulk(indices, count, gfp);
      return [...indices.subarray(0, count)];
    default:
      return pool.tryAllocIndexBulk(indices, count, gfp) ? [...indices.subarray(0, count)] : null;
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
  pool.share();
}
