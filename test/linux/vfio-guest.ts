/** Tests of memory and devices through VFIO; as root in the virtual machine, with the devices that vfio.test.ts lists. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { type CoherentAllocator, DMA_BIT_MASK, DmaPool } from 'dmapool';
import { PCI_COMMAND, PCI_CONFIG } from 'dmapool/pci';
import { bindToVfio, unbindFromVfio, VfioDevice, type VfioMemoryOptions } from 'dmapool/linux';
import { registerConformance } from '../memory/conformance-node.ts';

const EDU = '0000:00:10.0';
/** Another of the same kind. */
const EDU_2 = '0000:00:11.0';
const MIB = 2 ** 20;
const FOUR_GIB = 2 ** 32;

before(() => {
  bindToVfio([EDU, EDU_2]);
});
after(() => {
  unbindFromVfio([EDU, EDU_2]);
});

function freeHugepages(): number {
  return Number(readFileSync('/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages', 'utf8'));
}

const opened = new Map<CoherentAllocator, VfioDevice>();

for (const memory of [
  { size: 4 * MIB, hugepages: true },
  { size: 4 * MIB, strict: true, hugepages: false },
]) {
  const kind = `${memory.strict === true ? 'strict ' : ''}VFIO memory of ${memory.hugepages ? 'hugepages' : 'ordinary pages'}`;
  registerConformance(kind, {
    create: async () => {
      const vfio = await VfioDevice.open(opened.size === 0 ? EDU : EDU_2, { memory });
      opened.set(vfio.memory, vfio);
      return vfio.memory;
    },
    close: async (source) => {
      await opened.get(source)!.close();
      opened.delete(source);
    },
  });
}

/** edu: registers of its DMA engine (QEMU, docs/specs/edu.rst). */
const EDU_ID = 0x00;
const EDU_LIVENESS = 0x04;
const EDU_FACTORIAL = 0x08;
const EDU_STATUS = 0x20;
const EDU_INTERRUPT_STATUS = 0x24;
const EDU_INTERRUPT_RAISE = 0x60;
const EDU_INTERRUPT_ACKNOWLEDGE = 0x64;
const EDU_DMA = { source: 0x80, destination: 0x88, count: 0x90, command: 0x98 } as const;
const EDU_BUFFER = 0x40000;
const FROM_DEVICE = 2;
/** edu's DMA takes 100 ms; the mask is of 28 bits. */
const EDU_TIME = 5000;

async function eduDma(vfio: VfioDevice, dma: number, length: number, direction: 'read' | 'write'): Promise<void> {
  const bar = vfio.pci.bar(0);
  const [source, destination] = direction === 'read' ? [dma, EDU_BUFFER] : [EDU_BUFFER, dma];
  bar.write64(EDU_DMA.source, source);
  bar.write64(EDU_DMA.destination, destination);
  bar.write64(EDU_DMA.count, length);
  bar.write32(EDU_DMA.command, 1 | (direction === 'write' ? FROM_DEVICE : 0));
  const end = Date.now() + EDU_TIME;
  while (((await bar.read32(EDU_DMA.command)) & 1) !== 0) {
    if (Date.now() > end) throw new Error('edu does not end its transfer');
    await setTimeout(5);
  }
}

async function withEdu(memory: VfioMemoryOptions, use: (vfio: VfioDevice) => Promise<void>): Promise<void> {
  const vfio = await VfioDevice.open(EDU, { memory, dmaMask: DMA_BIT_MASK(28) });
  try {
    await use(vfio);
  } finally {
    await vfio.close();
  }
}

void describe('a device through VFIO', () => {
  void it('has registers and configuration space', () =>
    withEdu({ size: MIB }, async ({ pci, group, iovaRanges }) => {
      assert.equal(pci.vendorId, 0x1234);
      assert.equal(pci.deviceId, 0x11e8);
      assert.ok(Number.isInteger(group));
      assert.ok(iovaRanges!.every(({ first, last }) => first <= last));
      assert.deepEqual(
        pci.bars.map(({ index, kind, size }) => ({ index, kind, size })),
        [{ index: 0, kind: 'memory', size: MIB }],
      );
      const bar = pci.bar(0);
      assert.equal((await bar.read32(EDU_ID)) & 0xff, 0xed);
      bar.write32(EDU_LIVENESS, 0x1234_5678);
      assert.equal(await bar.read32(EDU_LIVENESS), ~0x1234_5678 >>> 0);
      bar.write32(EDU_FACTORIAL, 10);
      while (((await bar.read32(EDU_STATUS)) & 1) !== 0) await setTimeout(1);
      assert.equal(await bar.read32(EDU_FACTORIAL), 3_628_800);
      assert.equal(await pci.isBusMaster(), false);
    }));

  void it('survives that its registers are switched off: they read all ones', () =>
    withEdu({ size: MIB }, async ({ pci }) => {
      const bar = pci.bar(0);
      await pci.config.update16(PCI_CONFIG.command, 0, PCI_COMMAND.memory);
      bar.write32(EDU_LIVENESS, 1);
      assert.equal(await bar.read32(EDU_ID), 0xffff_ffff);
      await pci.config.update16(PCI_CONFIG.command, PCI_COMMAND.memory);
      assert.equal((await bar.read32(EDU_ID)) & 0xff, 0xed);
    }));

  for (const strict of [false, true]) {
    void it(`reads and writes ${strict ? 'strict ' : ''}memory that it was given`, () =>
      withEdu({ size: MIB, strict }, async (vfio) => {
        const pool = DmaPool.create('p', vfio.pci.device, { size: 2048 });
        const [from, to] = [pool.alloc(), pool.alloc()];
        from.bytes.forEach((_, i) => (from.bytes[i] = i * 7));
        await vfio.pci.enableBusMaster();
        await eduDma(vfio, from.dma, 2048, 'read');
        await eduDma(vfio, to.dma, 2048, 'write');
        assert.deepEqual(to.bytes, from.bytes);
        pool.free(from);
        pool.free(to);
        pool.destroy();
      }));
  }

  for (const kind of ['msi', 'intx'] as const) {
    void it(`interrupts by ${kind}`, () =>
      withEdu({ size: MIB }, async ({ pci }) => {
        const bar = pci.bar(0);
        const interrupts = await pci.interrupts({ kinds: [kind], vectors: 4 });
        assert.deepEqual([interrupts.kind, interrupts.vectors], [kind, 1]);
        await pci.enableBusMaster();
        assert.equal(await interrupts.wait({ timeout: 20 }), false);
        for (let i = 1; i <= 50; i++) {
          const waiting = interrupts.wait({ timeout: EDU_TIME });
          bar.write32(EDU_INTERRUPT_RAISE, i);
          assert.equal(await waiting, true, `interrupt ${String(i)}`);
          assert.equal(await bar.read32(EDU_INTERRUPT_STATUS), i);
          bar.write32(EDU_INTERRUPT_ACKNOWLEDGE, i);
        }
        // One that came while nobody waited.
        bar.write32(EDU_INTERRUPT_RAISE, 1);
        await bar.flush();
        assert.equal(await interrupts.wait({ timeout: EDU_TIME }), true);
        bar.write32(EDU_INTERRUPT_ACKNOWLEDGE, 1);
        assert.equal(await interrupts.wait({ timeout: 20 }), false, 'each is told once');
        const cut = assert.rejects(interrupts.wait(), { code: 'ERR_DMAPOOL_PCI_CLOSED' });
        await interrupts.close();
        await cut;
        await (await pci.interrupts({ kinds: [kind] })).close();
      }));
  }

  void it('serves one pool in several workers', () =>
    withEdu({ size: MIB }, async (vfio) => {
      const pool = DmaPool.create('shared', vfio.pci.device, { size: 256, maxBlocks: 64 });
      const worker = new Worker(new URL('./region-worker.js', import.meta.url));
      try {
        worker.postMessage({ do: 'fill', handle: pool.share(), value: 0x77 });
        const [answer] = (await once(worker, 'message')) as [{ ok?: number; code?: string }];
        assert.equal(answer.code, undefined);
        const block = pool.accept(answer.ok!);
        assert.ok(block.bytes.every((byte) => byte === 0x77));
        // The device sees what the worker wrote.
        const copy = pool.alloc();
        await vfio.pci.enableBusMaster();
        await eduDma(vfio, block.dma, 256, 'read');
        await eduDma(vfio, copy.dma, 256, 'write');
        assert.deepEqual(copy.bytes, block.bytes);
        pool.free(block);
        pool.free(copy);
      } finally {
        await worker.terminate();
        pool.destroy();
      }
    }));
});

void describe('VFIO memory', () => {
  void it('has addresses above 4 GiB first, and low ones for devices of 32 bits', async () => {
    const vfio = await VfioDevice.open(EDU, { memory: { size: 8 * MIB } });
    const { memory, pci } = vfio;
    try {
      const take = (dmaMask: number): number =>
        memory.allocCoherent({ device: { name: 'd', dmaMask }, size: 4096, node: -1 })!.dma;
      assert.equal(memory.bytesMapped, 0, 'nothing is mapped before it is needed');
      assert.ok(take(DMA_BIT_MASK(32)) < FOUR_GIB);
      assert.ok(take(DMA_BIT_MASK(39)) >= FOUR_GIB);
      assert.ok(take(DMA_BIT_MASK(28)) < 2 ** 28);
      assert.equal(memory.mappings, 2);
      const last = vfio.iovaRanges!.at(-1)!.last;
      assert.ok(take(DMA_BIT_MASK(64)) <= last);
      assert.equal(memory.bytesInUse, 4 * 4096);
      assert.equal(pci.closed, false);
    } finally {
      await vfio.close();
    }
    assert.equal(memory.bytesMapped, 0);
  });

  void it('gives hugepages back, and locks no more than it says', async () => {
    const before = freeHugepages();
    const locked = (): number => Number(/VmLck:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1]) * 1024;
    const lockedBefore = locked();
    const vfio = await VfioDevice.open(EDU, { memory: { size: 8 * MIB, hugepages: true, strict: true } });
    assert.equal(freeHugepages(), before - 4);
    const pool = DmaPool.create('p', vfio.pci.device, { size: 4096 });
    const blocks = Array.from({ length: 10 }, () => pool.alloc());
    assert.equal(vfio.memory.mappings, 10);
    assert.equal(locked(), lockedBefore + vfio.memory.bytesMapped);
    for (const block of blocks) pool.free(block);
    pool.destroy();
    assert.deepEqual([vfio.memory.mappings, locked()], [0, lockedBefore]);
    await vfio.close();
    await vfio.close();
    assert.equal(freeHugepages(), before);
  });
});
