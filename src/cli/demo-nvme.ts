import { randomBytes } from 'node:crypto';

import { NvmeController, type NvmeNamespace } from '../../drivers/nvme/index.ts';
import type { QemuOption } from '../qemu/index.ts';
import type { DemoMeasurement, DemoResult } from './demo-document.ts';
import { withDisk } from './demo-disk.ts';
import { CliExit, type CliIo, EXIT } from './io.ts';
import { count, ProgressBar, styleFor } from './style.ts';

const MIB = 1024 * 1024;
const DISK_SIZE = 128 * MIB;
/** Bytes of one read or write, and the number in flight. */
const PIECE = MIB;
const DEPTH = 8;
/** Small random reads, to measure the rate. */
const SMALL = 4096;
const SMALL_READS = 40_000;
const SMALL_DEPTH = 32;
const DEVICES: readonly QemuOption[] = [{ driver: 'nvme', id: 'nvme0', drive: 'disk0', serial: 'demo' }];

/** `dmapool demo nvme`: reads and writes a whole disk, then reads it at random. */
export async function demoNvme(io: CliIo): Promise<DemoResult> {
  const style = styleFor(io.stdout, io.env);
  const print = (label: string, text: string): void => {
    io.stdout.write(`${style.bold(label.padEnd(12))}  ${text}\n`);
  };
  return withDisk(DISK_SIZE, DEVICES, async (machine, image) => {
    const pci = await machine.open('nvme0');
    const nvme = await NvmeController.open(pci, { queues: 2, queueDepth: 64 });
    const { modelNumber, version } = nvme.identity;
    const queues = `${String(nvme.queues)} queue pairs of ${String(nvme.queueDepth)} commands`;
    print(pci.address, `${modelNumber}, NVMe ${version}, ${queues}, on QEMU`);
    const disk = await nvme.namespace(1);
    print('namespace 1', `${count(disk.blocks)} blocks of ${String(disk.blockSize)} bytes`);

    const measurements: DemoMeasurement[] = [];
    const bytes = new Uint8Array(disk.size);
    const bar = new ProgressBar(io.stderr);
    for (const what of ['read', 'write'] as const) {
      if (what === 'write') bytes.set(randomBytes(bytes.length));
      const begin = performance.now();
      await sideBySide(DEPTH, bytes.length / PIECE, async (i) => {
        bar.show(what, (i * PIECE) / bytes.length);
        await disk[what]((i * PIECE) / disk.blockSize, bytes.subarray(i * PIECE, (i + 1) * PIECE));
      });
      if (what === 'write') await disk.flush();
      const seconds = (performance.now() - begin) / 1000;
      bar.clear();
      print(what, `${count(bytes.length / MIB / seconds)} MiB/s, ${image.compare(bytes, style)}`);
      measurements.push({ name: what, seconds, bytes: bytes.length, operations: bytes.length / PIECE, lost: 0 });
    }
    const seconds = await readRandom(disk, bytes, bar);
    const rate = `${count(SMALL_READS / seconds)} a second of ${String(SMALL)} bytes`;
    print('random read', `${rate}, ${String(SMALL_DEPTH)} at a time, all correct`);
    const operations = SMALL_READS;
    measurements.push({ name: 'random read', seconds, bytes: operations * SMALL, operations, lost: 0 });
    const pools = pci.device.readAttribute('pools') ?? '';
    io.stdout.write(`\n${pools}`);
    await nvme.close();
    await pci.close();
    return { devices: [pci.address], measurements, pools: [pools] };
  });
}

/** Runs `job(0)` to `job(jobs - 1)`, `width` at a time. */
async function sideBySide(width: number, jobs: number, job: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < jobs) await job(next++);
  };
  await Promise.all(Array.from({ length: width }, worker));
}

/** Reads small pieces at random offsets and compares each with the expected bytes. Returns the seconds. */
async function readRandom(disk: NvmeNamespace, bytes: Uint8Array, bar: ProgressBar): Promise<number> {
  let different = 0;
  const buffers: Uint8Array[] = [];
  const begin = performance.now();
  await sideBySide(SMALL_DEPTH, SMALL_READS, async (i) => {
    if (i % 256 === 0) bar.show('random read', i / SMALL_READS);
    const at = Math.floor((Math.random() * bytes.length) / SMALL) * SMALL;
    const buffer = buffers.pop() ?? new Uint8Array(SMALL);
    await disk.read(at / disk.blockSize, buffer);
    if (Buffer.compare(buffer, bytes.subarray(at, at + SMALL)) !== 0) different++;
    buffers.push(buffer);
  });
  const seconds = (performance.now() - begin) / 1000;
  bar.clear();
  if (different > 0) throw new CliExit(EXIT.failure, `${count(different)} of ${count(SMALL_READS)} reads differ`);
  return seconds;
}
