/**
 * A tour in five parts, which `npx dmapool demo` runs. The device is emulated.
 *
 * It imports only `dmapool`, as a user's program does. The reports of debug mode name its lines.
 */
import { Device, dmaBitMask, DmaPool, HeapMemory, IommuFaultError } from 'dmapool';

/** Output of {@link tour}. */
export interface TourOutput {
  /** Begins a part. */
  heading(text: string): void;
  /** A line of the program's own output. */
  line(text: string): void;
  /** A message of the device's log, of one or more lines. */
  report(text: string): void;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/**
 * Shows a pool, an emulated device behind the IOMMU, a late write, a leak, and the `pools` attribute.
 *
 * @param output Receives the text.
 *
 * @example
 * ```ts
 * tour({ heading: console.log, line: console.log, report: console.log });
 * ```
 */
export function tour(output: TourOutput): void {
  const line = (text: string): void => {
    output.line(text);
  };
  const report = (text: string): void => {
    output.report(text);
  };
  const memory = new HeapMemory();
  const log = { error: report, warn: report, info: report };
  const device = new Device({ name: '0000:00:1d.7', dmaMask: dmaBitMask(32), memory, log });

  output.heading('A pool: equal, aligned blocks, each with two addresses');
  const transfers = DmaPool.create('ehci_qtd', device, { size: 96, align: 32, boundary: 4096, debug: true });
  const [first, second] = [transfers.alloc({ zero: true }), transfers.alloc({ zero: true })];
  line(`a page of 4096 bytes has ${transfers.geometry.blocksPerPage} blocks of 96 bytes`);
  line(`the device reaches block 0 at ${hex(first.dma)}, block 1 at ${hex(second.dma)}`);

  output.heading('An emulated device, kept within its memory by an IOMMU');
  memory.write(device, first.dma, Uint8Array.of(0xd0, 0x0d));
  line(`the device wrote to block 0; the program reads ${hex(first.view.getUint16(0))}`);
  try {
    memory.write(device, first.dma + 0x10_0000, Uint8Array.of(0xd0, 0x0d)); // a wrong address
  } catch (error) {
    if (!(error instanceof IommuFaultError)) throw error;
    line('the device wrote to a wrong address:');
    report(error.message);
  }

  output.heading('A late write: the device still used a block that the driver had freed');
  const freed = second.dma;
  transfers.free(second);
  memory.write(device, freed + 8, Uint8Array.of(0xba, 0xad));
  const next = transfers.alloc(); // checks the block before it is used again
  line(`so the next allocation got block ${next.index}; the changed one is in quarantine`);

  output.heading('The device attribute `pools`, with the format of Linux');
  const pools = device.readAttribute('pools') ?? '';
  for (const text of pools.trimEnd().split('\n')) line(text);
  line('(name, blocks in use, blocks, bytes of a block, pages)');

  output.heading('A leak: the pool is destroyed while a block is allocated');
  transfers.free(first);
  transfers.free(next);
  transfers.alloc(); // never freed
  transfers.destroy();
  line('the memory stays reserved, because the device may still write to it, until the device was reset:');
  line(`${device.reclaim()} page came back`);
}
