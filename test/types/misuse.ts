/**
 * Misuse of the allocator that must not compile. Not run: the compiler is the test, an unused `@ts-expect-error` is an
 * error; and `types.test.ts` checks that each line fails for the reason that stands there, by the compiler's number.
 */
import {
  type CoherentAllocator,
  type CoherentMemory,
  Device,
  DmaBlockError,
  DmaError,
  DmaPool,
  dmaBitMask,
  type DmaBlock,
  HeapMemory,
  loadAcquire16,
  PoolGeometry,
  type PoolStatistics,
  storeRelease16,
  storeRelease32,
  writeAddress64,
} from 'dmapool';
import { attachPool, DmaSharingError, type SharedPoolHandle, sharePool } from 'dmapool/shared';
import { dma_pool_alloc, dma_pool_create, dma_pool_free, GFP_KERNEL } from 'dmapool/kernel';

export function pools(device: Device): void {
  const qtds = DmaPool.create('ehci_qtd', device, { size: 96, align: 32 });
  const qhs = DmaPool.create('ehci_qh', device, { size: 96, align: 32 });
  const qtd: DmaBlock<'ehci_qtd'> = qtds.alloc();

  // A pool in general takes any block in general.
  const any: DmaPool = qtds;
  any.free(any.alloc());

  // @ts-expect-error TS2345: a block of one pool given to another
  qhs.free(qtd);
  // @ts-expect-error TS2345: or sent from there
  sharePool(qhs).transfer(qtd);
  // @ts-expect-error TS2322: or among others
  qhs.freeBulk([qtd]);
  // @ts-expect-error TS2322: blocks of one pool put with those of another
  qhs.allocBulk([qtd], 1);
  // @ts-expect-error TS2345: a block where an index is wanted
  qtds.freeIndex(qtd);
  // @ts-expect-error TS2345: an index where a block is wanted
  qtds.free(3);
  // @ts-expect-error TS2345: an address where a block is wanted
  qtds.free(qtd.dma);
  // @ts-expect-error TS2345: tryAlloc may give null
  qtds.free(qtds.tryAlloc());
  // @ts-expect-error TS2531: so what it gives can't be used unseen
  qtds.tryAlloc().bytes.fill(0);
  // @ts-expect-error TS2345: nor can what lies at an address
  qtds.free(qtds.blockAt(4096));
  // @ts-expect-error TS2345: a promise is no block
  qtds.free(qtds.allocWait());
  // @ts-expect-error TS2345: addresses are numbers
  qtds.blockAt(4096n);
  // @ts-expect-error TS2559: flags are dmapool/kernel's
  qtds.alloc('GFP_KERNEL');
  // @ts-expect-error TS2561: options are checked for spelling
  qtds.alloc({ zeroed: true });
  // @ts-expect-error TS2353: in every form
  qtds.tryAlloc({ grwo: false });
  // @ts-expect-error TS2561: by index
  qtds.allocIndex({ zeroed: true });
  // @ts-expect-error TS2353: or -1
  qtds.tryAllocIndex({ grwo: false });
  // @ts-expect-error TS2561: in bulk
  qtds.allocBulk([], 1, { zeroed: true });
  // @ts-expect-error TS2561: and both
  qtds.allocIndexBulk(new Int32Array(1), 1, { zeroed: true });
  // @ts-expect-error TS2322: an option is true or false
  qtds.alloc({ grow: 'no' });
  // @ts-expect-error TS2554: blocks in bulk come with their count
  qtds.allocBulk([]);
  // @ts-expect-error TS2551: nor is there a method for each option
  String(qtds.zalloc);
  // @ts-expect-error TS2339: figures are in statistics()
  String(qtds.counts);
  // @ts-expect-error TS2551: blocks are asked by address
  String(qtds.isAllocated);
  // @ts-expect-error TS2339: blocks are asked by address
  String(qtds.owns);
  // @ts-expect-error TS2339: a block has an address, and its place is the source's
  String(qtds.offsetOf);
  // @ts-expect-error TS2339: allocated() has the indices
  String(qtds.indices);
  // @ts-expect-error TS2551: a bulk allocation succeeds or throws
  String(qtds.tryAllocBulk);
  // @ts-expect-error TS2339: sharePool is a function of dmapool/shared
  String(qtds.share);
  // @ts-expect-error TS2488: a pool is no list: allocated() gives its allocated blocks
  String([...qtds]);
  // @ts-expect-error TS2339: a pool that is not shared has nothing to transfer by
  String(qtds.transfer);
  // @ts-expect-error TS2322: a ticket may be recalled, not the block
  sharePool(qtds).recall([qtd]);
  // @ts-expect-error TS2561: a wait takes milliseconds by the name of timeout
  void qtds.allocWait({ timeoutMs: 10 });
  // @ts-expect-error TS2345: indices in bulk travel in an Int32Array
  qtds.allocIndexBulk([1, 2, 3]);
  // @ts-expect-error TS2345: and tickets, which exceed 32 bits, in a Float64Array
  sharePool(qtds).acceptIndexBulk(new Int32Array(1), new Int32Array(1));
  // @ts-expect-error TS2345: a ticket is a number, the block itself does not travel
  sharePool(qtds).accept(qtd);
  // @ts-expect-error TS2345: a pool is attached by its handle, not by its name
  attachPool('ehci_qtd');
  // @ts-expect-error TS2345: nor by itself
  attachPool(qtds);
  // @ts-expect-error TS2322: nor do blocks in bulk
  sharePool(qtds).transferIndexBulk([qtd], new Float64Array(1));
  // @ts-expect-error TS2345: nor do their tickets fit in 32 bits
  sharePool(qtds).transferIndexBulk(new Int32Array(1), new Int32Array(1));
  // @ts-expect-error TS2561: options are checked for spelling
  sharePool(qtds, { magazin: 8 });
  // @ts-expect-error TS2561: on both sides
  attachPool(sharePool(qtds).handle, { devise: device });
  // @ts-expect-error TS2345: an exit is reported by the thread's number
  sharePool(qtds).reportWorkerExit('3');
  // @ts-expect-error TS2353: who is watched has an exit and a number
  sharePool(qtds).watchWorker({ postMessage: () => undefined });
}

export function making(device: Device, memory: CoherentAllocator): void {
  // @ts-expect-error TS2345: a size is needed
  DmaPool.create('p', device, { align: 32 });
  // @ts-expect-error TS2554: and so are the options
  DmaPool.create('p', device);
  // @ts-expect-error TS2561: options are checked for spelling
  DmaPool.create('p', device, { size: 64, boundry: 4096 });
  // @ts-expect-error TS2353: the page size is the memory source's
  DmaPool.create('p', device, { size: 64, pageSize: 4096 });
  // @ts-expect-error TS2345: a device is needed
  DmaPool.create('p', { name: 'x' }, { size: 64 });
  // @ts-expect-error TS2351: pools are made by create
  new DmaPool('p', device, { size: 64 });
  // @ts-expect-error TS2345: a device needs a name
  new Device({ memory });
  // @ts-expect-error TS2739: sources of memory are not buffers
  new Device({ name: 'x', memory: new ArrayBuffer(4096) });
  // @ts-expect-error TS2322: a mask is a number
  new Device({ name: 'x', dmaMask: 0xffff_ffffn });
  // @ts-expect-error TS2345: bits are counted in numbers
  dmaBitMask('32');
  // @ts-expect-error TS2741: a log has all three levels
  new Device({ name: 'x', log: { error: () => undefined, warn: () => undefined } });
  // @ts-expect-error TS2353: the source has a limit, not a size
  new HeapMemory({ size: 4096 });
  // @ts-expect-error TS2554: a geometry has a size
  new PoolGeometry();
}

export function constants(pool: DmaPool<'p'>, block: DmaBlock<'p'>, device: Device, handle: SharedPoolHandle): void {
  // @ts-expect-error TS2540: what a pool is cannot be changed
  pool.name = 'p';
  // @ts-expect-error TS2540: nor how it is cut
  pool.geometry = new PoolGeometry({ size: 64 });
  // @ts-expect-error TS2540: nor that either
  pool.geometry.blockSize = 32;
  // @ts-expect-error TS2540: nor what a block is
  block.index = 4;
  // @ts-expect-error TS2540: nor where it is
  block.dma = 4096;
  // @ts-expect-error TS2540: nor a mask, but by setDmaMask
  device.dmaMask = 5;
  // @ts-expect-error TS2540: nor a handle
  handle.maxBlocks = 5;
}

export function errors(error: unknown, statistics: PoolStatistics): void {
  if (error instanceof DmaError) {
    // @ts-expect-error TS2367: codes begin alike
    if (error.code === 'ENOMEM') return;
  }
  if (error instanceof DmaBlockError) {
    // @ts-expect-error TS2367: and each class knows its own
    if (error.code === 'ERR_DMAPOOL_TYPO') return;
  }
  if (error instanceof DmaSharingError) {
    // @ts-expect-error TS2367: a pool's codes are not those of sharing
    if (error.code === 'ERR_DMAPOOL_LIMIT') return;
  }
  // @ts-expect-error TS2345: each class has codes of its own
  new DmaBlockError('ERR_DMAPOOL_TIMEOUT', 'late');
  // @ts-expect-error TS2540: figures are read-only
  statistics.active = 0;
  // @ts-expect-error TS2540: each of them
  statistics.inTransit = 0;
}

export function words(block: DmaBlock): void {
  // @ts-expect-error TS2345: words are stored, not bytes
  storeRelease32(block.bytes, 0, 1);
  // @ts-expect-error TS2345: addresses are numbers
  writeAddress64(block.view, 0, 4096n);
  // @ts-expect-error TS2345: and are written to a view, whose byte order is said
  writeAddress64(block.u32, 0, 4096);
  // @ts-expect-error TS2345: half-words are words of 16 bits
  storeRelease16(block.u32, 0, 1);
  // @ts-expect-error TS2345: also when they are read
  loadAcquire16(block.u32, 0);
}

/** A memory source that gives half of what it should. */
// @ts-expect-error TS2420: a source takes memory back
export class Leaky implements CoherentAllocator {
  readonly name = 'leaky';
  readonly pageSize = 4096;

  allocCoherent(): CoherentMemory | null {
    return null;
  }
}

export function kernelMisuse(device: Device): void {
  const qtds = dma_pool_create('ehci_qtd', device, 96, 32, 4096);
  const qhs = dma_pool_create('ehci_qh', device, 96, 32, 4096);
  // @ts-expect-error TS2345: dma_pool_create may return null
  dma_pool_alloc(qtds, GFP_KERNEL);
  if (qtds === null || qhs === null) return;
  const qtd = dma_pool_alloc(qtds, GFP_KERNEL);
  // @ts-expect-error TS18047: dma_pool_alloc may return null
  qtd.dma.toFixed();
  // @ts-expect-error TS2345: a block of one pool given to another
  dma_pool_free(qhs, qtd, 0);
  // @ts-expect-error TS2554: the flags are needed, as in C
  dma_pool_alloc(qtds);
  // @ts-expect-error TS2345: an address is no place to write one to
  dma_pool_alloc(qtds, GFP_KERNEL, 0);
}
