/**
 * Random reads and writes of a virtio disk, compared with a model of it.
 *
 *     main.js [options] [IMAGE]             on QEMU: IMAGE is overwritten; without one, a temporary file
 *     main.js [options] --vfio ADDRESS      through VFIO: the disk is overwritten
 *
 *     --requests N   per round (5000)    --rounds N   (9)    --depth N   requests in flight (32)
 */
import { createHash, randomFillSync, randomInt } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type DmaBlock, DmaPool } from 'dmapool';
import { VfioDevice } from 'dmapool/linux';
import type { PciFunction } from 'dmapool/pci';
import { QemuMachine } from 'dmapool/qemu';
import { VirtioBlk } from './virtio-blk.ts';

const SECTOR = 512;
/** Bytes of a block of data: a request has 1 to 8 sectors. */
const BLOCK = 4096;
const DISK_SIZE = 4 * 1024 * 1024;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    vfio: { type: 'string' },
    requests: { type: 'string', default: '5000' },
    rounds: { type: 'string', default: '9' },
    depth: { type: 'string', default: '32' },
  },
});
const [requests, rounds, depth] = [values.requests, values.rounds, values.depth].map(Number) as [
  number,
  number,
  number,
];

/** Runs `use` with a disk of QEMU. */
async function onQemu(file: string, use: (pci: PciFunction) => Promise<void>): Promise<void> {
  const machine = await QemuMachine.start({
    drives: [{ id: 'disk0', file }],
    devices: [{ driver: 'virtio-blk-pci', id: 'blk0', drive: 'disk0', 'disable-legacy': 'on', iommu_platform: 'on' }],
  });
  try {
    const pci = await machine.open('blk0');
    await use(pci);
    await pci.close();
  } finally {
    await machine.close();
  }
}

/** Runs `use` with a disk that was bound to vfio-pci. */
async function throughVfio(address: string, use: (pci: PciFunction) => Promise<void>): Promise<void> {
  const vfio = await VfioDevice.open(address, { memory: { size: 4 * 1024 * 1024 } });
  try {
    await use(vfio.pci);
  } finally {
    await vfio.close();
  }
}

/** Random requests to one region of the disk, one after the other. @returns The number of wrong reads. */
async function exercise(disk: VirtioBlk, model: Buffer, first: number, data: DmaBlock, count: number): Promise<number> {
  const { length } = model;
  let wrong = 0;
  for (let i = 0; i < count; i++) {
    const bytes = randomInt(1, BLOCK / SECTOR + 1) * SECTOR;
    const at = randomInt(0, (length - bytes) / SECTOR + 1) * SECTOR;
    const [here, there] = [data.bytes.subarray(0, bytes), model.subarray(at, at + bytes)];
    if (randomInt(2) === 0) {
      randomFillSync(here);
      await disk.write(first + at / SECTOR, data, bytes);
      there.set(here);
    } else {
      here.fill(0xa5);
      await disk.read(first + at / SECTOR, data, bytes);
      if (!there.equals(here)) wrong++;
    }
  }
  return wrong;
}

async function run(pci: PciFunction): Promise<Buffer> {
  const disk = await VirtioBlk.open(pci, { iommu: values.vfio !== undefined });
  const pool = DmaPool.createManaged('data', pci.device, { size: BLOCK, align: BLOCK });
  const blocks = Array.from({ length: depth }, () => pool.alloc());
  const model = randomFillSync(Buffer.alloc(Math.min(disk.sectors * SECTOR, DISK_SIZE)));
  const fill = async (block: DmaBlock, first: number): Promise<void> => {
    for (let at = first; at < model.length; at += depth * BLOCK) {
      block.bytes.set(model.subarray(at, at + BLOCK));
      await disk.write(at / SECTOR, block);
    }
  };
  await Promise.all(blocks.map((block, worker) => fill(block, worker * BLOCK)));
  // Each concurrent loop has its own region, so that no two requests in flight overlap.
  const region = Math.floor(model.length / depth / BLOCK) * BLOCK;
  const rates: number[] = [];
  let wrong = 0;
  for (let round = 0; round < rounds; round++) {
    const begin = performance.now();
    const found = await Promise.all(
      blocks.map((data, worker) => {
        const count = Math.floor(((worker + 1) * requests) / depth) - Math.floor((worker * requests) / depth);
        const own = model.subarray(worker * region, (worker + 1) * region);
        return exercise(disk, own, (worker * region) / SECTOR, data, count);
      }),
    );
    rates.push((requests / (performance.now() - begin)) * 1000);
    wrong += found.reduce((sum, each) => sum + each, 0);
  }
  await disk.flush();
  for (const block of blocks) block.free();
  await disk.close();
  rates.sort((a, b) => a - b);
  const [least, median, most] = [rates[0]!, rates[rounds >> 1]!, rates.at(-1)!].map(Math.round);
  console.log(`${requests * rounds} random requests, depth ${depth}: ${wrong} wrong`);
  console.log(`${median} requests a second (median of ${rounds} rounds, ${least} to ${most})`);
  if (wrong > 0) process.exitCode = 1;
  return model;
}

let model: Buffer = Buffer.alloc(0);
const keep = async (pci: PciFunction): Promise<void> => {
  model = await run(pci);
};
if (values.vfio === undefined) {
  const folder = mkdtempSync(join(tmpdir(), 'virtio-blk-'));
  const file = positionals[0] ?? join(folder, 'disk.img');
  try {
    writeFileSync(file, Buffer.alloc(DISK_SIZE));
    await onQemu(file, keep);
    const isEqual = readFileSync(file).equals(model);
    console.log(`the image ${isEqual ? 'equals' : 'DIFFERS FROM'} the model`);
    if (!isEqual) process.exitCode = 1;
  } finally {
    rmSync(folder, { recursive: true });
  }
} else {
  await throughVfio(values.vfio, keep);
}
console.log(`SHA-256 of the model: ${createHash('sha256').update(model).digest('hex')}`);
