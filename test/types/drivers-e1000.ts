/** Wrong use of the network card's driver that must not compile. Checked by the compiler; never run. */
import type { Device } from 'dmapool';
import { DriverError, E1000, type E1000Error, type Packet } from 'dmapool/drivers/e1000';
import type { PciFunction } from 'dmapool/pci';

export async function misuse(pci: PciFunction, memory: Device, packet: Packet, error: E1000Error): Promise<void> {
  const nic: E1000 = await E1000.open(pci, { receiveDescriptors: 8, promiscuous: true });
  if (error instanceof DriverError) console.log(error.device);

  // @ts-expect-error TS2345: A card is opened on a PCI function.
  await E1000.open(memory);
  // @ts-expect-error TS2561: Option names are checked.
  await E1000.open(pci, { recieveDescriptors: 8 });
  // @ts-expect-error TS2673: The constructor is private; use open().
  new E1000();
  // @ts-expect-error TS2345: transmit() takes an array of packets.
  nic.transmit(packet);
  // @ts-expect-error TS2740: A packet is no plain byte array.
  nic.transmit([new Uint8Array(60)]);
  // @ts-expect-error TS2561: The option is named timeout.
  await nic.waitForLink({ timeoutMs: 10 });
  // @ts-expect-error TS2367: There is no such code.
  if (error.code === 'ERR_DMAPOOL_E1000_NOTHING') return;
}
