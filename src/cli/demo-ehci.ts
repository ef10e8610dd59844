import { randomBytes } from 'node:crypto';

import { EhciController, MassStorage } from '../../drivers/ehci/index.ts';
import type { QemuOption } from '../qemu/index.ts';
import type { DemoMeasurement, DemoResult } from './demo-document.ts';
import { withDisk } from './demo-disk.ts';
import type { CliIo } from './io.ts';
import { count, ProgressBar, styleFor } from './style.ts';

const MIB = 1024 * 1024;
const DISK_SIZE = 16 * MIB;
/** Bytes of one call; each advances the progress bar. */
const PIECE = 256 * 1024;
const DEVICES: readonly QemuOption[] = [
  { driver: 'usb-ehci', id: 'ehci' },
  { driver: 'usb-storage', bus: 'ehci.0', drive: 'disk0' },
];

/** `dmapool demo ehci`: reads and writes a whole USB disk. */
export async function demoEhci(io: CliIo): Promise<DemoResult> {
  const style = styleFor(io.stdout, io.env);
  const print = (label: string, text: string): void => {
    io.stdout.write(`${style.bold(label.padEnd(12))}  ${text}\n`);
  };
  return withDisk(DISK_SIZE, DEVICES, async (machine, image) => {
    const pci = await machine.open('ehci');
    const controller = await EhciController.open(pci);
    const version = `${String(controller.version >> 8)}.${String((controller.version >> 4) & 0xf)}`;
    print(pci.address, `EHCI ${version}, ${String(controller.ports)} root ports, on QEMU`);
    const device = await controller.connect();
    const { vendorId, productId, productIndex } = device.descriptor;
    const id = [vendorId, productId].map((word) => word.toString(16).padStart(4, '0')).join(':');
    print(`port ${String(device.port)}`, `${id} ${await device.string(productIndex)}, high speed`);
    const disk = await MassStorage.open(device);
    const size = disk.blocks * disk.blockSize;
    print('disk', `${disk.vendor} ${disk.product}, ${count(disk.blocks)} blocks of ${String(disk.blockSize)} bytes`);

    const measurements: DemoMeasurement[] = [];
    const bytes = new Uint8Array(size);
    const bar = new ProgressBar(io.stderr);
    for (const what of ['read', 'write'] as const) {
      if (what === 'write') randomBytes(size).copy(bytes);
      const begin = performance.now();
      for (let at = 0; at < size; at += PIECE) {
        bar.show(what, at / size);
        await disk[what](at / disk.blockSize, bytes.subarray(at, at + PIECE));
      }
      if (what === 'write') await disk.flush();
      const seconds = (performance.now() - begin) / 1000;
      bar.clear();
      print(what, `${speed(size, seconds)}, ${image.compare(bytes, style)}`);
      measurements.push({ name: what, seconds, bytes: size, operations: size / PIECE, lost: 0 });
    }
    const pools = pci.device.readAttribute('pools') ?? '';
    io.stdout.write(`\n${pools}`);
    await controller.close();
    await pci.close();
    return { devices: [pci.address], measurements, pools: [pools] };
  });
}

function speed(bytes: number, seconds: number): string {
  const mebibytes = bytes / MIB;
  return `${mebibytes.toFixed(1)} MiB in ${seconds.toFixed(1)} s, ${(mebibytes / seconds).toFixed(1)} MiB/s`;
}
