/** A machine's RAM is a memory source like any other, and devices find in it what we put there. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, it } from 'node:test';
import { Worker } from 'node:worker_threads';
import { type CoherentAllocator, Device, DmaPool } from 'dmapool';
import { attachPool, sharePool } from 'dmapool/shared';
import { QemuMachine } from 'dmapool/qemu';
import { conformanceChecks } from 'dmapool/conformance';
import { startMachine, withoutQemu } from './qemu.ts';

const MIB = 1024 * 1024;

for (const [name, options] of Object.entries({
  'RAM of a machine': { memory: 16 * MIB },
  'RAM of a machine, half of it above 4 GiB': { memory: 16 * MIB, highMemory: 8 * MIB },
  'RAM of a q35': { memory: 12 * MIB, highMemory: 3 * MIB, machine: 'q35' as const },
})) {
  void describe(`${name}: what every memory source promises`, { skip: withoutQemu }, () => {
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

void describe('RAM of a machine', { skip: withoutQemu }, () => {
  void it('is the memory that the machine sees, at every address, and nothing else', async (t) => {
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

  void it('reads zeros in stale views once the machine is closed, and takes memory back late', async () => {
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

  void it('serves one pool in several workers', async (t) => {
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

  void it('costs next to nothing while it is not touched', async (t) => {
    const before = process.memoryUsage.rss();
    await startMachine(t, { memory: 1024 * MIB });
    assert.ok(process.memoryUsage.rss() - before < 64 * MIB);
  });
});
