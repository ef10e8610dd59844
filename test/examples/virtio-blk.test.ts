/** The virtio disk of the tutorial docs/first-driver.md, on QEMU and through VFIO. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { DmaPool } from 'dmapool';
import { PciError, type PciFunction } from 'dmapool/pci';
import type { QemuMachine } from 'dmapool/qemu';
import { VirtioBlk } from '../../examples/virtio-blk/virtio-blk.ts';
import { startMachine, withoutQemu } from '../qemu/qemu.ts';
import { diskImage } from '../support/disk-image.ts';
import { rejectsCode } from '../support/errors.ts';
import { RecordingLog } from '../support/log.ts';
import { MIB } from '../support/sizes.ts';
import { itInVm, shellInVm } from '../vm/machine.ts';

const PROGRAM = fileURLToPath(new URL('../../examples/virtio-blk/main.js', import.meta.url));
const CLI = fileURLToPath(new URL('../../../bin/dmapool.js', import.meta.url));
const TUTORIAL = readFileSync(new URL('../../../docs/first-driver.md', import.meta.url), 'utf8');
const DISK_SIZE = 4 * MIB;
const RUNTIMES =
  process.env['DMAPOOL_RUNTIMES'] ?? fileURLToPath(new URL('../../../test/runtimes/node_modules', import.meta.url));
const NODES = [
  ['the Node of the tests', process.execPath],
  ['Node 26', join(RUNTIMES, 'node-26', 'bin', 'node')],
] as const;

interface Bench {
  readonly machine: QemuMachine;
  readonly pci: PciFunction;
  readonly log: RecordingLog;
}

/** A machine with a disk of bytes 0x77. */
async function startBench(t: TestContext, rate: Readonly<Record<string, number>> = {}): Promise<Bench> {
  const file = diskImage(t, MIB);
  writeFileSync(file, Buffer.alloc(MIB, 0x77));
  const log = new RecordingLog();
  const machine = await startMachine(t, {
    highMemory: 32 * MIB,
    log,
    drives: [{ id: 'disk0', file, options: rate }],
    devices: [{ driver: 'virtio-blk-pci', id: 'blk0', drive: 'disk0', 'disable-legacy': 'on' }],
  });
  return { machine, pci: await machine.open('blk0', { log }), log };
}

/** The tutorial quotes what the log says. */
function assertQuoted(log: RecordingLog, pattern: RegExp): void {
  const [message] = pattern.exec(log.text) ?? [];
  assert.ok(message !== undefined, log.text);
  assert.ok(TUTORIAL.includes(message), `the tutorial quotes: ${message}`);
}

function assertResults(printed: string, file: string): void {
  assert.match(printed, /^5000 random requests, depth 32: 0 wrong$/m);
  assert.match(printed, /^\d+ requests a second \(median of 1 rounds/m);
  const hash = createHash('sha256').update(readFileSync(file)).digest('hex');
  assert.match(printed, new RegExp(`^SHA-256 of the model: ${hash}$`, 'm'));
}

for (const [name, node] of NODES) {
  const skip = withoutQemu !== false ? withoutQemu : existsSync(node) ? false : `${node} is not installed`;

  test(`5,000 random requests leave the image as the model on QEMU, ${name}`, { skip }, (t) => {
    const file = diskImage(t, DISK_SIZE);
    const { stdout, stderr, status } = spawnSync(node, [PROGRAM, '--rounds', '1', file], { encoding: 'utf8' });
    assert.equal(status, 0, stderr);
    assert.match(stdout, /^the image equals the model$/m);
    assertResults(stdout, file);
  });

  test(`the first program of the tutorial prints what the tutorial says, ${name}`, { skip }, (t) => {
    const file = diskImage(t, MIB);
    const image = readFileSync(file);
    image.write('Hello, disk!\n');
    writeFileSync(file, image);
    const program = fileURLToPath(new URL('../../examples/virtio-blk/read.js', import.meta.url));
    const { stdout, stderr } = spawnSync(node, [program, file], { encoding: 'utf8' });
    assert.equal(stderr, '');
    assert.equal(stdout, '2048 sectors; the first line is: Hello, disk!\n');
    assert.ok(TUTORIAL.includes(stdout));
  });

  test(`the two network programs lose no packet, ${name}`, { skip, timeout: 120_000 }, () => {
    const { stdout, stderr, status } = spawnSync(node, [CLI, 'demo', 'e1000'], { encoding: 'utf8' });
    assert.equal(status, 0, stderr);
    assert.notEqual(stdout, '');
  });
}

itInVm('5,000 random requests leave the image as the model through VFIO', async (t) => {
  const file = diskImage(t, DISK_SIZE);
  const run = `${process.execPath} ${PROGRAM} --rounds 1 --vfio 0000:00:10.0`;
  const { stdout, stderr, exitCode, kernelLog } = await shellInVm(
    `set -e; ${process.execPath} ${CLI} bind 0000:00:10.0 >/dev/null; ${run}`,
    { devices: [{ kind: 'virtio-blk', image: file }] },
  );
  assert.equal(exitCode, 0, stderr);
  assertResults(stdout, file);
  assert.doesNotMatch(kernelLog, /fault addr/);
});

itInVm('a disk that would bypass the IOMMU is refused', async () => {
  const { stderr, exitCode } = await shellInVm(
    `set -e; ${process.execPath} ${CLI} bind 0000:00:10.0 >/dev/null; ${process.execPath} ${PROGRAM} --vfio 0000:00:10.0`,
    { devices: [{ kind: 'virtio-blk', size: DISK_SIZE, properties: 'iommu_platform=off' }] },
  );
  assert.equal(exitCode, 1);
  assert.match(stderr, /Error: 0000:00:10\.0 would bypass the IOMMU/);
});

test('reads and writes more requests at once than the queue has room for', { skip: withoutQemu }, async (t) => {
  const { pci, machine, log } = await startBench(t);
  const disk = await VirtioBlk.open(pci);
  assert.equal(disk.sectors, MIB / 512);
  const pool = DmaPool.create('data', pci.device, { size: 1024, align: 512 });
  const blocks = Array.from({ length: 200 }, () => pool.alloc());
  assert.ok(blocks[0]!.dma >= 2 ** 32);
  await Promise.all(blocks.map((block, i) => disk.write(i * 2, (block.bytes.fill(i), block))));
  for (const block of blocks) block.bytes.fill(0xee);
  await Promise.all(blocks.map((block, i) => disk.read(i * 2, block, 512)));
  blocks.forEach(({ bytes }, i) => {
    assert.ok(bytes.subarray(0, 512).every((byte) => byte === i));
    assert.ok(bytes.subarray(512).every((byte) => byte === 0xee));
  });
  await disk.flush();
  for (const [sector, bytes] of [
    [2048, 512],
    [-1, 512],
    [0, 100],
  ] as const) {
    await assert.rejects(disk.read(sector, blocks[0]!, bytes), RangeError);
  }
  for (const block of blocks) block.free();
  pool.destroy();
  await disk.close();
  assert.equal(pci.device.readAttribute('pools'), undefined);
  assert.equal(pci.device.bytesAllocated, 0);
  // It can be opened again on the same function.
  await (await VirtioBlk.open(pci)).close();
  await pci.close();
  assert.deepEqual(await machine.checkMemory(), []);
  assert.equal(log.text, '');
});

test('the device and the driver refuse what the tutorial says', { skip: withoutQemu }, async (t) => {
  const { pci, machine } = await startBench(t);
  await assert.rejects(VirtioBlk.open(pci, { iommu: true }), /0000:00:02\.0 would bypass the IOMMU/);
  const disk = await VirtioBlk.open(pci);
  await rejectsCode('ERR_DMAPOOL_PCI_BUSY', VirtioBlk.open(pci));
  const pool = DmaPool.createManaged('data', pci.device, { size: 512, align: 512 });
  const block = pool.alloc();
  await disk.read(0, block);
  block.free();
  await disk.close();
  await assert.rejects(disk.read(0, block), /the driver was closed/);
  await pci.close();
  const other = await startMachine(t, { devices: ['edu,id=edu0'] });
  await assert.rejects(VirtioBlk.open(await other.open('edu0')), /0000:00:02\.0 is no virtio 1\.x disk/);
  await machine.close();
});

test('an unplugged disk fails its requests, and their memory is free again', { skip: withoutQemu }, async (t) => {
  const { pci, machine, log } = await startBench(t);
  const disk = await VirtioBlk.open(pci);
  const pool = DmaPool.createManaged('data', pci.device, { size: 512, align: 512 });
  const readOn = async (): Promise<never> => {
    const block = pool.alloc();
    try {
      for (;;) await disk.read(0, block);
    } finally {
      block.free();
    }
  };
  const readers = Array.from({ length: 50 }, () => rejectsCode('ERR_DMAPOOL_PCI_GONE', readOn()));
  await machine.unplug('blk0');
  await Promise.all(readers);
  await disk.close();
  await pci.close();
  assert.equal(pci.device.bytesAllocated, 0);
  assert.equal(log.text, '');
});

test('a close of the function under the driver fails its requests', { skip: withoutQemu }, async (t) => {
  const { pci } = await startBench(t, { 'throttling.bps-read': MIB / 16 });
  const disk = await VirtioBlk.open(pci);
  const pool = DmaPool.create('data', pci.device, { size: 4096, align: 4096 });
  const blocks = Array.from({ length: 60 }, () => pool.alloc());
  const reads = blocks.map((block) =>
    disk.read(0, block).then(
      () => 'done',
      (error: unknown) => (error as PciError).code,
    ),
  );
  await new Promise((resolve) => setTimeout(resolve, 20));
  await pci.close();
  const late = disk.read(0, blocks[0]!).catch((error: unknown) => error);
  const outcomes = await Promise.all(reads);
  assert.ok(outcomes.includes('ERR_DMAPOOL_PCI_CLOSED'), outcomes.join());
  assert.ok((await late) instanceof Error);
  for (const block of blocks) block.free();
  pool.destroy();
  assert.equal(pci.device.bytesAllocated, 0);
});

test('a disk that can not be stopped keeps the memory of its requests', { skip: withoutQemu }, async (t) => {
  const { pci, machine } = await startBench(t, { 'throttling.bps-read': MIB / 16 });
  const disk = await VirtioBlk.open(pci);
  const pool = DmaPool.createManaged('data', pci.device, { size: 65_536, align: 4096 });
  const blocks = [pool.alloc(), pool.alloc()];
  await disk.read(0, blocks[0]!);
  const code = 'ERR_DMAPOOL_PCI_DMA_ACTIVE';
  const read = rejectsCode(code, disk.read(0, blocks[1]!));
  await new Promise(setImmediate); // The request is in flight; the disk is slow now.
  const stopDma = pci.stopDma.bind(pci);
  pci.stopDma = () => Promise.reject(new PciError(code, pci.address, 'it may still do DMA'));
  await rejectsCode(code, disk.close());
  await read;
  assert.match(pci.device.readAttribute('pools')!, /^virtio-blk header +1 /m);
  assert.deepEqual(await machine.checkMemory(), []);
  pci.stopDma = stopDma;
  await disk.close();
  for (const block of blocks) block.free();
  await pci.close();
  assert.equal(pci.device.bytesAllocated, 0);
  assert.deepEqual(await machine.checkMemory(), []);
});

test('a chain that is not in flight stops the device', { skip: withoutQemu }, async (t) => {
  const { pci, machine } = await startBench(t, { 'throttling.bps-read': MIB / 16 });
  let rings: DmaPool | undefined;
  const createManaged = DmaPool.createManaged.bind(DmaPool);
  t.mock.method(DmaPool, 'createManaged', (...args: Parameters<typeof DmaPool.createManaged>) => {
    const pool = createManaged(...args);
    if (args[0] === 'virtqueue') rings = pool;
    return pool;
  });
  const open = pci.interrupts.bind(pci);
  pci.interrupts = async (options) => {
    const interrupts = await open(options);
    const wait = interrupts.wait.bind(interrupts);
    // As if the broken device also sent the message.
    interrupts.wait = (request) => (request?.ready?.() === true ? Promise.resolve(true) : wait(request));
    return interrupts;
  };
  const disk = await VirtioBlk.open(pci);
  const pool = DmaPool.create('data', pci.device, { size: 65_536, align: 4096 });
  const blocks = [pool.alloc(), pool.alloc()];
  await disk.read(0, blocks[0]!);
  // As a broken device would write it: the second entry of the used ring of 128, then the index.
  const [ring] = rings!.allocated();
  const used = 128 * 16 + 6 + 2 * 128 + 2;
  ring!.view.setUint32(used + 4 + 8, 5, true);
  ring!.view.setUint16(used + 2, 2, true);
  await assert.rejects(disk.read(0, blocks[1]!), /0000:00:02\.0 finished chain 5, which is not in flight/);
  await assert.rejects(disk.read(0, blocks[0]!), /not in flight/);
  await disk.close();
  for (const block of blocks) block.free();
  pool.destroy();
  await pci.close();
  assert.equal(pci.device.bytesAllocated, 0);
  assert.deepEqual(await machine.checkMemory(), []);
});

test('the log names the mistakes of the tutorial, in its words', { skip: withoutQemu }, async (t) => {
  const { pci, machine, log } = await startBench(t, { 'throttling.bps-read': MIB / 16 });
  let disk = await VirtioBlk.open(pci);
  const pool = DmaPool.create('data', pci.device, { size: 65_536, align: 4096 });
  const [first, second] = [pool.alloc(), pool.alloc()];
  await disk.read(0, first);
  // Freed while the device writes to it: the disk is slow now.
  const read = disk.read(0, second);
  first.free();
  second.free();
  pool.destroy();
  await read;
  assert.equal((await machine.checkMemory()).length, 1);
  assertQuoted(log, /stray write to RAM outside allocations/);
  assertQuoted(log, /a device has a wrong address, its memory was freed too early, or a view outlived its memory/);
  // No bus mastering.
  await pci.disableBusMaster();
  const data = DmaPool.createManaged('data', pci.device, { size: 512, align: 512 });
  const block = data.alloc();
  const lost = assert.rejects(disk.read(0, block), /the driver was closed/);
  await new Promise((resolve) => setTimeout(resolve, 1200));
  await disk.close();
  await lost;
  assertQuoted(log, /0000:00:02\.0: waits for an interrupt while bus mastering is off: .*enableBusMaster\(\)/);
  // A block that is never freed.
  disk = await VirtioBlk.open(pci);
  await disk.read(0, block);
  await disk.close();
  await pci.close();
  assertQuoted(log, /0000:00:02\.0: data busy: 1 still out/);
});
