import {
  type AllocOptions,
  type DmaBlock,
  DmaOutOfMemoryError,
  type DmaPool,
  type PoolStatistics,
} from '../../src/index.ts';

/** Indices of the allocated blocks, ascending. */
export function indicesOf(pool: DmaPool): number[] {
  return Array.from(pool.allocated(), ({ index }) => index);
}

/** True while block `index` is allocated; false for any other index. */
export function isAllocated(pool: DmaPool, index: number): boolean {
  let dma: number;
  try {
    dma = pool.dmaOf(index);
  } catch {
    return false;
  }
  return pool.indexAt(dma) === index;
}

/** True while `block` is allocated and the handle is current. */
export function owns(pool: DmaPool, block: DmaBlock): boolean {
  try {
    return pool.blockAt(block.dma) === block;
  } catch {
    return false;
  }
}

/** `allocBulk`; false if there are not enough blocks. */
export function tryAllocBulk<N extends string>(
  pool: DmaPool<N>,
  into: DmaBlock<N>[],
  count: number,
  options?: AllocOptions,
): boolean {
  return succeeds(() => {
    pool.allocBulk(into, count, options);
  });
}

/** `allocIndexBulk`; false if there are not enough blocks. */
export function tryAllocIndexBulk(pool: DmaPool, into: Int32Array, count?: number, options?: AllocOptions): boolean {
  return succeeds(() => {
    pool.allocIndexBulk(into, count, options);
  });
}

function succeeds(alloc: () => void): boolean {
  try {
    alloc();
    return true;
  } catch (error) {
    if (error instanceof DmaOutOfMemoryError) return false;
    throw error;
  }
}

/** The statistics of blocks and pages alone. */
export function countsOf(pool: DmaPool): Pick<PoolStatistics, 'active' | 'blocks' | 'pages'> {
  const { active, blocks, pages } = pool.statistics();
  return { active, blocks, pages };
}
