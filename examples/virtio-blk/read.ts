/** Reads the first sector of a disk image through the driver, on QEMU. */
import { DmaPool } from 'dmapool';
import { QemuMachine } from 'dmapool/qemu';
import { VirtioBlk } from './virtio-blk.ts';

const machine = await QemuMachine.start({
  drives: [{ id: 'disk0', file: process.argv[2] ?? 'disk.img' }],
  devices: [{ driver: 'virtio-blk-pci', id: 'blk0', drive: 'disk0', 'disable-legacy': 'on', iommu_platform: 'on' }],
});
try {
  const pci = await machine.open('blk0');
  const disk = await VirtioBlk.open(pci);
  const pool = DmaPool.createManaged('data', pci.device, { size: 4096, align: 512 });
  const block = pool.alloc();
  await disk.read(0, block, 512);
  const [line] = Buffer.from(block.bytes).toString('latin1').split('\n');
  console.log(`${disk.sectors} sectors; the first line is: ${line}`);
  block.free();
  await disk.close();
  await pci.close();
} finally {
  await machine.close();
}
