import { setImmediate } from 'node:timers/promises';

import { findCollector, type Geometry } from '../../src/cli/speed.ts';
import { type DmaBlock, Device, DmaPool, HeapMemory } from '../../src/index.ts';

type Collect = NonNullable<ReturnType<typeof findCollector>>;

/**
 * Heap and what hangs on it outside (the memory of array buffers), after everything dead was collected.
 *
 * Asynchronous, and repeated until the figure stands still: what a weak reference was read through lives to the end of
 * the job, and the engine frees array buffers in the background.
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

/** Whether `process.memoryUsage().external` counts shared buffers. V8's does not, and nothing promises either. */
function countsSharedBuffers(): boolean {
  const bytes = 16 * 2 ** 20;
  const before = process.memoryUsage().external;
  const probe = new SharedArrayBuffer(bytes);
  return process.memoryUsage().external - before + probe.byteLength > bytes * 1.5;
}

/** The DMA memory that the pool's source has committed, as far as it is part of {@link liveBytes}. */
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

/** Blocks in all pools of a measurement together, about. */
const BLOCKS_MEASURED = 65_536;

/**
 * What a new source, device and pool with all blocks handed out as objects add to the heap, without the DMA memory.
 *
 * Several are made and the sum is divided, because the engine's own doings (compiled code that comes and goes) move
 * the heap by tens of kilobytes meanwhile, which is much for one pool and little for eight or more.
 */
async function measureOnce(geometry: Geometry, blocks: number, collect: Collect): Promise<number> {
  const count = Math.ceil(BLOCKS_MEASURED / blocks);
  // The driver's own lists are not the pools', so they exist before.
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
 * Bytes of heap that each block of a pool costs beside its DMA memory: the pool, its pages, the block objects and
 * the source's books, divided by the blocks. Null where the runtime offers no way to collect garbage on demand.
 */
export async function heapBytesPerBlock(geometry: Geometry, blocks: number): Promise<number | null> {
  const collect = findCollector();
  if (collect === null) return null;
  // The first time includes what the engine makes once, such as code and shapes.
  await measureOnce(geometry, blocks, collect);
  return (await measureOnce(geometry, blocks, collect)) / blocks;
}
