/** Wrong use of the EHCI driver that must not compile. Checked by the compiler; never run. */
import type { Device } from 'dmapool';
import {
  type BulkPipe,
  EhciController,
  MassStorage,
  type UsbBuffer,
  type UsbDevice,
  type UsbError,
} from 'dmapool/drivers/ehci';
import type { PciFunction } from 'dmapool/pci';

export async function misuse(
  pci: PciFunction,
  memory: Device,
  device: UsbDevice,
  disk: MassStorage,
  pipe: BulkPipe,
  buffer: UsbBuffer,
  error: UsbError,
): Promise<void> {
  const standard = { requestType: 'standard', recipient: 'device', request: 6, value: 0, index: 0 } as const;
  await device.controlIn(standard, 18);

  // @ts-expect-error TS2345: A controller is started on a PCI function.
  await EhciController.open(memory);
  // @ts-expect-error TS2345: A disk is opened on a device, not on a controller.
  await MassStorage.open(await EhciController.open(pci));
  // @ts-expect-error TS2673: The constructor is private; use open().
  new MassStorage();
  // @ts-expect-error TS2322: A request has one of three types.
  await device.controlIn({ ...standard, requestType: 'private' }, 18);
  // @ts-expect-error TS2345: A request has an index.
  await device.controlOut({ requestType: 'class', recipient: 'interface', request: 0xff, value: 0 });
  // @ts-expect-error TS2345: A disk is written from a byte array.
  await disk.write(0, 'text');
  // @ts-expect-error TS2345: A zero-copy transfer needs DMA memory.
  await disk.readInto(0, new Uint8Array(512), 512);
  // @ts-expect-error TS2554: The length is required.
  await pipe.transfer(buffer);
  // @ts-expect-error TS2367: There is no such code.
  if (error.code === 'ERR_DMAPOOL_USB_NOTHING') return;
  // @ts-expect-error TS2540: Descriptors are read-only.
  device.descriptor.vendorId = 0;
}
