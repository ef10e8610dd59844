/** Misuse that must not compile. Not run: the compiler is the test, an unused `@ts-expect-error` is an error. */
import { type CoherentAllocator, Device, type DmaBlock, DmaPool, type DmaError, type PoolStatistics } from 'dmapool';
import { dma_pool_alloc, dma_pool_create, dma_pool_free, GFP_KERNEL } from 'dmapool/kernel';

export function misuse(device: Device, memory: CoherentAllocator): unknown[] {
  const qtds = DmaPool.create('ehci_qtd', device, { size: 96, align: 32 });
  const qhs = DmaPool.create('ehci_qh', device, { size: 96, align: 32 });
  const qtd: DmaBlock<'ehci_qtd'> = qtds.alloc();

  // A pool in general takes any block in general.
  const any: DmaPool = qtds;
  any.free(any.alloc());

  // @ts-expect-error a block of one pool given to another
  qhs.free(qtd);
  // @ts-expect-error a block where an index is wanted
  qtds.freeIndex(qtd);
  // @ts-expect-error an index where a block is wanted
  qtds.free(3);
  // @ts-expect-error tryAlloc may give null
  qtds.free(qtds.tryAlloc());
  // @ts-expect-error a promise is no block
  qtds.free(qtds.allocWait());
  // @ts-expect-error addresses are numbers
  qtds.blockAt(4096n);
  // @ts-expect-error there is no such mode
  qtds.alloc('GFP_KERNEL');
  // @ts-expect-error indices in bulk travel in an Int32Array
  qtds.allocIndexBulk([1, 2, 3]);
  // @ts-expect-error a size is needed
  DmaPool.create('p', device, { align: 32 });
  // @ts-expect-error options are checked for spelling
  DmaPool.create('p', device, { size: 64, boundry: 4096 });
  // @ts-expect-error a device is needed
  DmaPool.create('p', { name: 'x' }, { size: 64 });
  // @ts-expect-error pools are made by create
  new DmaPool('p', device, { size: 64 });
  // @ts-expect-error what a pool is cannot be changed
  qtds.name = 'ehci_qtd';
  // @ts-expect-error nor what a block is
  qtd.index = 4;
  // @ts-expect-error nor a mask, but by setDmaMask
  device.dmaMask = 5;
  // @ts-expect-error a device needs a name
  new Device({ memory });
  // @ts-expect-error codes are known
  const wrong = (error: DmaError): boolean => error.code === 'ERR_DMAPOOL_TYPO';
  // @ts-expect-error figures are read-only
  const change = (statistics: PoolStatistics): number => (statistics.active = 0);
  return [wrong, change];
}

export function kernelMisuse(device: Device): void {
  const qtds = dma_pool_create('ehci_qtd', device, 96, 32, 4096);
  const qhs = dma_pool_create('ehci_qh', device, 96, 32, 4096);
  // @ts-expect-error dma_pool_create may return null
  dma_pool_alloc(qtds, GFP_KERNEL);
  if (qtds === null || qhs === null) return;
  const qtd = dma_pool_alloc(qtds, GFP_KERNEL);
  // @ts-expect-error dma_pool_alloc may return null
  qtd.dma.toFixed();
  // @ts-expect-error a block of one pool given to another
  dma_pool_free(qhs, qtd, 0);
  // @ts-expect-error the flags are needed, as in C
  dma_pool_alloc(qtds);
  // @ts-expect-error an address is no place to write one to
  dma_pool_alloc(qtds, GFP_KERNEL, 0);
}
