/** Wrong use of the NVMe driver that must not compile. Checked by the compiler; never run. */
import type { Device } from 'dmapool';
import type { NvmeError } from 'dmapool/drivers/nvme';
import { DriverError, NvmeController, type NvmeNamespace } from 'dmapool/drivers/nvme';
import type { PciFunction } from 'dmapool/pci';

export async function misuse(pci: PciFunction, memory: Device, disk: NvmeNamespace, error: NvmeError): Promise<void> {
  const nvme: NvmeController = await NvmeController.open(pci, { queues: 2, queueDepth: 64 });
  if (error instanceof DriverError) console.log(error.device);

  // @ts-expect-error TS2345: A controller is opened on a PCI function.
  await NvmeController.open(memory);
  // @ts-expect-error TS2561: Option names are checked.
  await NvmeController.open(pci, { queue: 2 });
  // @ts-expect-error TS2673: The constructor is private; use open().
  new NvmeController();
  // @ts-expect-error TS2345: A namespace has a number.
  await nvme.namespace('nvme0n1');
  // @ts-expect-error TS2345: A disk is written from a byte array.
  await disk.write(0, 'text');
  // @ts-expect-error TS2367: There is no such code.
  if (error.code === 'ERR_DMAPOOL_NVME_NOTHING') return;
}
