/** A machine's RAM is an ordinary memory source, and devices find in it what this process wrote. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { type CoherentAllocator, Device, DmaPool } from 'dmapool';
import { attachPool, sharePool } from 'dmapool/shared';
import { QemuMachine } from 'dmapool/qemu';
import { conformanceChecks } from 'dmapool/conformance';
import { RecordingLog } from '../support/log.ts';
import { MIB } from '../support/sizes.ts';
import { EDU, startMachine, withoutQemu } from './qemu.ts';

for (const [name, options] of Object.entries({
  'RAM of a machine': { memory: 16 * MIB },
  'RAM of a machine, half of it above 4 GiB': { memory: 16 * MIB, highMemory: 8 * MIB },
  'RAM of a q35': { memory: 12 * MIB, highMemory: 3 * MIB, machine: 'q35' as const },
})) {
  void describe(`${name}: the contract of every memory source`, { skip: withoutQemu }, () => {
    const machines = new Map<CoherentAllocator, QemuMachine>();
    const checks = conformanceChecks({
      create: async () => {
        const machine = await QemuMachine.start(options);
        machines.set(machine.memory, machine);
        return machine.memory;
      },
      close: (source) => machines.get(source)!.close(),
    });
    for (const check of checks) void it(check.name, check.run);
  });
}

void describe('RAM outside allocations', { skip: withoutQemu }, () => {
  void it('is checked: a device’s write there is reported with its address, once', async (t) => {
    const log = new RecordingLog();
    const machine = await startMachine(t, { memory: 16 * MIB, devices: [{ driver: 'edu', id: 'edu0' }], log });
    const edu = await machine.open('edu0', { dmaMask: 2 ** 28 - 1 });
    const bar = edu.bar(0);
    await edu.enableBusMaster();
    /** 64 bytes of the device's buffer, zeros at first. */
    const write = async (dma: number): Promise<void> => {
      bar.write64(EDU.source, EDU.buffer);
      bar.write64(EDU.destination, dma);
      bar.write64(EDU.count, 64);
      bar.write32(EDU.command, 3);
      while (((await bar.read32(EDU.command)) & 1) !== 0) await delay(5);
    };
    const pool = DmaPool.create('p', edu.device, { size: 4096 });
    const [block, kept] = [pool.alloc(), pool.alloc()];
    const { dma } = block;
    await write(dma);
    assert.deepEqual(await machine.checkMemory(), [], 'memory of a pool');
    pool.free(block);
    pool.free(kept);
    pool.destroy();
    assert.deepEqual(await machine.checkMemory(), []);
    // Zeros, to memory that was freed, and to an address that was never mapped for a device.
    await write(dma);
    await write(0);
    assert.deepEqual(
      (await machine.checkMemory()).map(({ address, size }) => [address, size]).sort(([a], [b]) => a! - b!),
      [
        [0, 64],
        [dma, 64],
      ],
    );
    assert.deepEqual(await machine.checkMemory(), [], 'once');
    assert.match(log.text, new RegExp(`64 bytes at 0x${dma.toString(16)}: `));
    // Memory that was never allocated, written with other bytes.
    const filled = edu.device.allocCoherent(4096)!;
    new Uint8Array(filled.buffer, filled.byteOffset, 64).fill(7);
    bar.write64(EDU.source, filled.dma);
    bar.write64(EDU.destination, EDU.buffer);
    bar.write32(EDU.command, 1);
    while (((await bar.read32(EDU.command)) & 1) !== 0) await delay(5);
    await write(8 * MIB + 128);
    await machine.writeMemory(9 * MIB, Uint8Array.of(1, 2, 3));
    assert.deepEqual(await machine.checkMemory(), [{ address: 8 * MIB + 128, size: 64 }]);
    // Other stray writes are reported when the memory is allocated, or when the machine is closed.
    edu.device.freeCoherent(filled);
    await write(filled.dma);
    const again = edu.device.allocCoherent(4096)!;
    assert.equal(again.dma, filled.dma);
    assert.match(log.lines.at(-1)!, new RegExp(`64 bytes at 0x${filled.dma.toString(16)}: `));
    await write(10 * MIB);
    const lines = log.lines.length;
    await machine.close();
    assert.equal(log.lines.length, lines + 1);
    assert.match(log.lines.at(-1)!, new RegExp(`64 bytes at 0x${(10 * MIB).toString(16)}: `));
    await assert.rejects(machine.checkMemory(), { code: 'ERR_DMAPOOL_QEMU_CLOSED' });
    await edu.close();
  });
});

void describe('RAM of a machine', { skip: withoutQemu }, () => {
  void it('is the memory that the machine sees at every address, and nothing else', async (t) => {
    const machine = await startMachine(t, { memory: 32 * MIB, highMemory: 16 * MIB });
    for (const dmaMask of [2 ** 20 - 1, 2 ** 32 - 1, 2 ** 53 - 1]) {
      const memory = machine.memory.allocCoherent({ device: { name: 'd', dmaMask }, size: 8192, node: -1 })!;
      assert.equal(memory.dma >= 2 ** 32, dmaMask === 2 ** 53 - 1);
      const bytes = new Uint8Array(memory.buffer, memory.byteOffset, memory.size);
      bytes.fill(0x5a);
      assert.deepEqual(await machine.readMemory(memory.dma, 8192), new Uint8Array(8192).fill(0x5a));
      await machine.writeMemory(memory.dma + 4090, Uint8Array.of(1, 2, 3, 4, 5, 6, 7));
      assert.deepEqual([...bytes.subarray(4089, 4098)], [0x5a, 1, 2, 3, 4, 5, 6, 7, 0x5a]);
    }
  });

  void it('reads zeros in stale views once the machine is closed, and accepts late frees', async () => {
    const machine = await QemuMachine.start({ memory: 8 * MIB });
    const device = new Device({ name: 'late', memory: machine.memory });
    const pool = DmaPool.create('p', device, { size: 64 });
    const block = pool.alloc();
    block.bytes.fill(7);
    await machine.close();
    assert.ok(block.bytes.every((byte) => byte === 0));
    block.bytes.fill(1);
    pool.free(block);
    pool.destroy();
    assert.equal(device.allocCoherent(4096), null);
  });

  void it('can back one pool in several workers', async (t) => {
    const machine = await startMachine(t, { memory: 16 * MIB });
    const pool = DmaPool.create('shared', new Device({ name: 'nic', memory: machine.memory }), {
      size: 256,
      maxBlocks: 64,
    });
    const handle = sharePool(pool).handle;
    const worker = new Worker(new URL('../linux/region-worker.js', import.meta.url));
    t.after(() => worker.terminate());
    assert.throws(() => attachPool(handle).pool, { code: 'ERR_DMAPOOL_NOT_SHAREABLE', message: /openSharedRegion/ });
    worker.postMessage({ do: 'fill', handle, value: 0x77 });
    const [answer] = (await once(worker, 'message')) as [{ ok?: number; code?: string }];
    assert.equal(answer.code, undefined);
    const block = sharePool(pool).accept(answer.ok!);
    assert.ok(block.bytes.every((byte) => byte === 0x77));
    assert.deepEqual(await machine.readMemory(block.dma, 256), new Uint8Array(256).fill(0x77));
    pool.free(block);
    await worker.terminate();
    pool.destroy();
  });

  void it('uses almost no memory until it is touched', async (t) => {
    const before = process.memoryUsage.rss();
    await startMachine(t, { memory: 1024 * MIB });
    assert.ok(process.memoryUsage.rss() - before < 64 * MIB);
  });
});
