import { setImmediate } from 'node:timers/promises';

import { findCollector, type Geometry } from '../../src/cli/speed.ts';
import { type DmaBlock, Device, DmaPool, HeapMemory } from '../../src/index.ts';

type Collect = NonNullable<ReturnType<typeof findCollector>>;

/**
 * Live heap bytes, array buffers included, after a full collection.
 *
 * Repeats asynchronously until the figure is stable: a dereferenced weak reference stays alive to the end of its job,
 * and the engine frees array buffers in the background.
 */
async function liveBytes(collect: Collect): Promise<number> {
  let least = Infinity;
  for (let unchanged = 0, tries = 0; unchanged < 2 && tries < 20; tries++) {
    await setImmediate();
    collect();
    const { heapUsed, external } = process.memoryUsage();
    unchanged = heapUsed + external < least ? 0 : unchanged + 1;
    least = Math.min(least, heapUsed + external);
  }
  return least;
}

/**
 * Tells whether `process.memoryUsage().external` counts shared buffers. V8 does not count them; no standard decides.
 */
function countsSharedBuffers(): boolean {
  const bytes = 16 * 2 ** 20;
  const before = process.memoryUsage().external;
  const probe = new SharedArrayBuffer(bytes);
  return process.memoryUsage().external - before + probe.byteLength > bytes * 1.5;
}

/** The committed DMA memory of a pool's source, as far as {@link liveBytes} counts it. */
function countedDmaBytes(pool: DmaPool, objects: readonly (DmaBlock | null)[]): number {
  const buffers = new Set<ArrayBufferLike>();
  for (const block of objects) if (block !== null) buffers.add(pool.bytesOf(block.index).buffer);
  const sharedCounts = countsSharedBuffers();
  let bytes = 0;
  for (const buffer of buffers) {
    if (sharedCounts || !(buffer instanceof SharedArrayBuffer)) bytes += buffer.byteLength;
  }
  return bytes;
}

/** Approximate number of blocks in all pools of a measurement. */
const BLOCKS_MEASURED = 65_536;

/**
 * Heap growth of a new source, device and pool with all blocks allocated as objects, without the DMA memory.
 *
 * Averages over several pools, because the engine's own allocations (compiled code) move the heap by tens of kilobytes:
 * much for one pool, little for eight or more.
 */
async function measureOnce(geometry: Geometry, blocks: number, collect: Collect): Promise<number> {
  const count = Math.ceil(BLOCKS_MEASURED / blocks);
  // These arrays are not part of the pools: create them before the first reading.
  const pools = new Array<DmaPool | null>(count).fill(null);
  const objects = Array.from(pools, () => new Array<DmaBlock | null>(blocks).fill(null));
  const before = await liveBytes(collect);
  for (let i = 0; i < count; i++) {
    const pool = DmaPool.create<string>('heap', new Device({ name: 'bench', memory: new HeapMemory() }), geometry);
    pools[i] = pool;
    for (let k = 0; k < blocks; k++) objects[i]![k] = pool.alloc();
  }
  const growth = (await liveBytes(collect)) - before;
  let dma = 0;
  for (const [i, pool] of pools.entries()) {
    dma += countedDmaBytes(pool!, objects[i]!);
    for (const block of objects[i]!) pool!.free(block!);
    pool!.destroy();
  }
  return (growth - dma) / count;
}

/**
 * Heap bytes per block beside its DMA memory: the pool, its pages, the block objects and the source's bookkeeping,
 * divided by the number of blocks. Null where the runtime can't collect garbage on demand.
 */
export async function heapBytesPerBlock(geometry: Geometry, blocks: number): Promise<number | null> {
  const collect = findCollector();
  if (collect === null) return null;
  // Discard the first result: it includes one-time allocations such as code and shapes.
  await measureOnce(geometry, blocks, collect);
  return (await measureOnce(geometry, blocks, collect)) / blocks;
}
