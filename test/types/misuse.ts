/** Misuse that must not compile. Not run: the compiler is the test, an unused `@ts-expect-error` is an error. */
import { type CoherentAllocator, Device, type DmaBlock, DmaPool, type DmaError, type PoolStatistics } from 'dmapool';
import { type Bar, PciFunction } from 'dmapool/pci';
import { QemuMachine } from 'dmapool/qemu';

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

export async function misuseOfFunctions(fn: PciFunction, machine: QemuMachine): Promise<unknown[]> {
  // @ts-expect-error functions are opened by their home
  new PciFunction();
  const registers = fn.bar(0);
  // @ts-expect-error a write is posted: there is nothing to await
  const write: Bar['read32'] = registers.write32.bind(registers);
  // @ts-expect-error registers are read by await
  const version: number = fn.bar(0).read32(0);
  // @ts-expect-error 64 bits are a bigint
  const cap: number = await fn.bar(0).read64(0);
  // @ts-expect-error and are written as a number or a bigint
  fn.bar(0).write64(0, '1');
  // @ts-expect-error kinds of interrupts are known
  await fn.interrupts({ kinds: ['msi-x'] });
  // @ts-expect-error what was removed is not for others to say
  fn.removed = AbortSignal.abort();
  // @ts-expect-error devices are texts or objects
  await QemuMachine.start({ devices: [3] });
  // @ts-expect-error options are checked for spelling
  await QemuMachine.start({ memroy: 1 });
  // @ts-expect-error machines are made by start
  new QemuMachine();
  // @ts-expect-error widths are known
  machine.writePort(0x80, 64, 1);
  return [write, version, cap];
}
