/**
 * A driver's process under load, for tests that kill it. It waits for a word on its standard input, opens the device,
 * writes `ready`, and then reads and writes without end. With `once` it writes and reads one block, writes `worked`,
 * and closes the device.
 */
import { once } from 'node:events';
import { NvmeController } from 'dmapool/drivers/nvme';
import { VfioDevice } from 'dmapool/linux';
import { PCI_COMMAND, PCI_CONFIG } from 'dmapool/pci';
import { MIB } from '../support/sizes.ts';

const [address, mode] = process.argv.slice(2);
await once(process.stdin, 'data');
process.stdin.destroy();
const vfio = await VfioDevice.open(address!, { memory: { size: 8 * MIB, hugepages: true } });
// The state in which the kernel left it.
if (((await vfio.pci.config.read16(PCI_CONFIG.command)) & PCI_COMMAND.busMaster) !== 0) throw new Error('not quiet');
const nvme = await NvmeController.open(vfio.pci, { bounceMemory: 4 * MIB, timeout: 20_000 });
const disk = await nvme.namespace(1);
const buffer = Buffer.alloc(65_536, 0x42);
if (mode === 'once') {
  await disk.write(0, buffer);
  const back = Buffer.alloc(buffer.length);
  await disk.read(0, back);
  if (!back.equals(buffer)) throw new Error('the data read differs from the data written');
  await nvme.close();
  await vfio.close();
  console.log('worked');
} else {
  const worker = async (lba: number): Promise<never> => {
    for (;;) {
      await disk.write(lba, buffer);
      await disk.read(lba, Buffer.alloc(buffer.length));
    }
  };
  const workers = Array.from({ length: 16 }, (_, i) => worker(i * 128));
  await disk.read(0, Buffer.alloc(4096));
  console.log('ready');
  await Promise.all(workers);
}
