/**
 * Wrong use of the allocator that must not compile. Not run: compiling is the test, and an unused `@ts-expect-error` is an
 * error. `types.test.ts` checks that each line fails with the error number of its comment.
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

  // The general pool type accepts the general block type.
  const any: DmaPool = qtds;
  any.free(any.alloc());

  // @ts-expect-error TS2345: a block of another pool
  qhs.free(qtd);
  // @ts-expect-error TS2345: transfer of a block of another pool
  sharePool(qhs).transfer(qtd);
  // @ts-expect-error TS2322: a block of another pool in a bulk call
  qhs.freeBulk([qtd]);
  // @ts-expect-error TS2322: an array of another pool's blocks
  qhs.allocBulk([qtd], 1);
  // @ts-expect-error TS2345: a block instead of an index
  qtds.freeIndex(qtd);
  // @ts-expect-error TS2345: an index instead of a block
  qtds.free(3);
  // @ts-expect-error TS2345: an address instead of a block
  qtds.free(qtd.dma);
  // @ts-expect-error TS2345: tryAlloc may return null
  qtds.free(qtds.tryAlloc());
  // @ts-expect-error TS2531: the result of tryAlloc needs a check
  qtds.tryAlloc().bytes.fill(0);
  // @ts-expect-error TS2345: the block at an address may be undefined
  qtds.free(qtds.blockAt(4096));
  // @ts-expect-error TS2345: a promise is no block
  qtds.free(qtds.allocWait());
  // @ts-expect-error TS2345: addresses are numbers
  qtds.blockAt(4096n);
  // @ts-expect-error TS2559: flags belong to dmapool/kernel
  qtds.alloc('GFP_KERNEL');
  // @ts-expect-error TS2561: option names are checked
  qtds.alloc({ zeroed: true });
  // @ts-expect-error TS2353: option names of tryAlloc
  qtds.tryAlloc({ grwo: false });
  // @ts-expect-error TS2561: option names of allocIndex
  qtds.allocIndex({ zeroed: true });
  // @ts-expect-error TS2353: option names of tryAllocIndex
  qtds.tryAllocIndex({ grwo: false });
  // @ts-expect-error TS2561: option names of allocBulk
  qtds.allocBulk([], 1, { zeroed: true });
  // @ts-expect-error TS2561: option names of allocIndexBulk
  qtds.allocIndexBulk(new Int32Array(1), 1, { zeroed: true });
  // @ts-expect-error TS2322: the option is a boolean
  qtds.alloc({ grow: 'no' });
  // @ts-expect-error TS2554: a bulk call of blocks needs a count
  qtds.allocBulk([]);
  // @ts-expect-error TS2551: there is no method for each option
  String(qtds.zalloc);
  // @ts-expect-error TS2339: the counts are in statistics()
  String(qtds.counts);
  // @ts-expect-error TS2551: blockAt() looks up blocks
  String(qtds.isAllocated);
  // @ts-expect-error TS2339: blockAt() looks up blocks
  String(qtds.owns);
  // @ts-expect-error TS2339: a block has an address; its offset belongs to the source
  String(qtds.offsetOf);
  // @ts-expect-error TS2339: allocated() has the indices
  String(qtds.indices);
  // @ts-expect-error TS2551: a bulk allocation succeeds or throws
  String(qtds.tryAllocBulk);
  // @ts-expect-error TS2339: sharePool is a function of dmapool/shared
  String(qtds.share);
  // @ts-expect-error TS2488: a pool is not iterable: allocated() gives its allocated blocks
  String([...qtds]);
  // @ts-expect-error TS2339: transfer is a method of the shared pool
  String(qtds.transfer);
  // @ts-expect-error TS2322: recall takes a ticket, not a block
  sharePool(qtds).recall([qtd]);
  // @ts-expect-error TS2561: the option is named timeout
  void qtds.allocWait({ timeoutMs: 10 });
  // @ts-expect-error TS2345: bulk indices are in an Int32Array
  qtds.allocIndexBulk([1, 2, 3]);
  // @ts-expect-error TS2345: bulk tickets exceed 32 bits and are in a Float64Array
  sharePool(qtds).acceptIndexBulk(new Int32Array(1), new Int32Array(1));
  // @ts-expect-error TS2345: accept takes a ticket, not a block
  sharePool(qtds).accept(qtd);
  // @ts-expect-error TS2345: attachPool takes a handle, not a name
  attachPool('ehci_qtd');
  // @ts-expect-error TS2345: attachPool takes a handle, not a pool
  attachPool(qtds);
  // @ts-expect-error TS2322: bulk indices are in an Int32Array
  sharePool(qtds).transferIndexBulk([qtd], new Float64Array(1));
  // @ts-expect-error TS2345: bulk tickets exceed 32 bits and are in a Float64Array
  sharePool(qtds).transferIndexBulk(new Int32Array(1), new Int32Array(1));
  // @ts-expect-error TS2561: option names of sharePool
  sharePool(qtds, { magazin: 8 });
  // @ts-expect-error TS2561: option names of attachPool
  attachPool(sharePool(qtds).handle, { devise: device });
  // @ts-expect-error TS2345: an exit is reported by the thread's number
  sharePool(qtds).reportWorkerExit('3');
  // @ts-expect-error TS2353: a watched worker has an exit event and a number
  sharePool(qtds).watchWorker({ postMessage: () => undefined });
}

export function making(device: Device, memory: CoherentAllocator): void {
  // @ts-expect-error TS2345: a size is required
  DmaPool.create('p', device, { align: 32 });
  // @ts-expect-error TS2554: the options are required
  DmaPool.create('p', device);
  // @ts-expect-error TS2561: option names are checked
  DmaPool.create('p', device, { size: 64, boundry: 4096 });
  // @ts-expect-error TS2353: the page size is the memory source's
  DmaPool.create('p', device, { size: 64, pageSize: 4096 });
  // @ts-expect-error TS2345: a device is required
  DmaPool.create('p', { name: 'x' }, { size: 64 });
  // @ts-expect-error TS2351: DmaPool.create creates pools
  new DmaPool('p', device, { size: 64 });
  // @ts-expect-error TS2345: a device needs a name
  new Device({ memory });
  // @ts-expect-error TS2739: a buffer is no memory source
  new Device({ name: 'x', memory: new ArrayBuffer(4096) });
  // @ts-expect-error TS2322: a mask is a number
  new Device({ name: 'x', dmaMask: 0xffff_ffffn });
  // @ts-expect-error TS2345: the number of bits is a number
  dmaBitMask('32');
  // @ts-expect-error TS2741: a log has all three levels
  new Device({ name: 'x', log: { error: () => undefined, warn: () => undefined } });
  // @ts-expect-error TS2353: the source has a limit, not a size
  new HeapMemory({ size: 4096 });
  // @ts-expect-error TS2554: a geometry has a size
  new PoolGeometry();
}

export function constants(pool: DmaPool<'p'>, block: DmaBlock<'p'>, device: Device, handle: SharedPoolHandle): void {
  // @ts-expect-error TS2540: a pool's properties are read-only
  pool.name = 'p';
  // @ts-expect-error TS2540: a geometry is read-only
  pool.geometry = new PoolGeometry({ size: 64 });
  // @ts-expect-error TS2540: a geometry is read-only
  pool.geometry.blockSize = 32;
  // @ts-expect-error TS2540: a block's index is read-only
  block.index = 4;
  // @ts-expect-error TS2540: a block's address is read-only
  block.dma = 4096;
  // @ts-expect-error TS2540: a mask is changed by setDmaMask
  device.dmaMask = 5;
  // @ts-expect-error TS2540: a handle is read-only
  handle.maxBlocks = 5;
}

export function errors(error: unknown, statistics: PoolStatistics): void {
  if (error instanceof DmaError) {
    // @ts-expect-error TS2367: codes begin with ERR_DMAPOOL_
    if (error.code === 'ENOMEM') return;
  }
  if (error instanceof DmaBlockError) {
    // @ts-expect-error TS2367: each class has its own codes
    if (error.code === 'ERR_DMAPOOL_TYPO') return;
  }
  if (error instanceof DmaSharingError) {
    // @ts-expect-error TS2367: the codes of pools and of sharing differ
    if (error.code === 'ERR_DMAPOOL_LIMIT') return;
  }
  // @ts-expect-error TS2345: each class has its own codes
  new DmaBlockError('ERR_DMAPOOL_TIMEOUT', 'late');
  // @ts-expect-error TS2540: statistics are read-only
  statistics.active = 0;
  // @ts-expect-error TS2540: each statistic is read-only
  statistics.inTransit = 0;
}

export function words(block: DmaBlock): void {
  // @ts-expect-error TS2345: a 32-bit store takes a 32-bit array
  storeRelease32(block.bytes, 0, 1);
  // @ts-expect-error TS2345: addresses are numbers
  writeAddress64(block.view, 0, 4096n);
  // @ts-expect-error TS2345: addresses are written to a DataView
  writeAddress64(block.u32, 0, 4096);
  // @ts-expect-error TS2345: a 16-bit store takes a 16-bit array
  storeRelease16(block.u32, 0, 1);
  // @ts-expect-error TS2345: a 16-bit load takes a 16-bit array
  loadAcquire16(block.u32, 0);
}

/** An incomplete memory source. */
// @ts-expect-error TS2420: a source has freeCoherent
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
  // @ts-expect-error TS2345: a block of another pool
  dma_pool_free(qhs, qtd, 0);
  // @ts-expect-error TS2554: the flags are required, as in C
  dma_pool_alloc(qtds);
  // @ts-expect-error TS2345: the handle is an object to write the address to
  dma_pool_alloc(qtds, GFP_KERNEL, 0);
}
