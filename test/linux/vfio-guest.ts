/**
 * Tests of memory and devices through VFIO; run as root in the virtual machine, with the devices that vfio.test.ts
 * lists.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chmodSync, readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { type CoherentAllocator, type CoherentMemory, dmaBitMask, DmaError, DmaPool } from 'dmapool';
import { sharePool } from 'dmapool/shared';
import { PCI_COMMAND, PCI_CONFIG } from 'dmapool/pci';
import { bindToVfio, listPciDevices, unbindFromVfio, VfioDevice, type VfioMemoryOptions } from 'dmapool/linux';
import { registerConformance } from '../memory/conformance-node.ts';
import { footprint, SystemFaults } from './system-faults.ts';
import { FIRST as EDU, freeHugepages, iommuFaults, openUnprivileged, within10s } from './vfio-guest-support.ts';
import { MIB } from '../support/sizes.ts';

/** A second device of the same kind. */
const EDU_2 = '0000:00:11.0';
const FOUR_GIB = 2 ** 32;

before(() => {
  bindToVfio([EDU, EDU_2]);
});
after(() => {
  unbindFromVfio([EDU, EDU_2]);
});

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
/** edu's DMA takes 100 ms; its mask has 28 bits. */
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
    if (Date.now() > end) throw new Error('edu does not finish its transfer');
    await setTimeout(5);
  }
}

async function withEdu(memory: VfioMemoryOptions, use: (vfio: VfioDevice) => Promise<void>): Promise<void> {
  const vfio = await VfioDevice.open(EDU, { memory, dmaMask: dmaBitMask(28) });
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

  void it('reads all ones from its registers while they are disabled', () =>
    withEdu({ size: MIB }, async ({ pci }) => {
      const bar = pci.bar(0);
      await pci.config.update16(PCI_CONFIG.command, 0, PCI_COMMAND.memory);
      bar.write32(EDU_LIVENESS, 1);
      assert.equal(await bar.read32(EDU_ID), 0xffff_ffff);
      await pci.config.update16(PCI_CONFIG.command, PCI_COMMAND.memory);
      assert.equal((await bar.read32(EDU_ID)) & 0xff, 0xed);
    }));

  for (const strict of [false, true]) {
    void it(`reads and writes its ${strict ? 'strict ' : ''}memory`, () =>
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
    void it(`raises interrupts by ${kind}`, () =>
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
        // An interrupt that arrives without a waiter is kept.
        bar.write32(EDU_INTERRUPT_RAISE, 1);
        await bar.flush();
        assert.equal(await interrupts.wait({ timeout: EDU_TIME }), true);
        bar.write32(EDU_INTERRUPT_ACKNOWLEDGE, 1);
        assert.equal(await interrupts.wait({ timeout: 20 }), false, 'each interrupt is reported once');
        const cut = assert.rejects(interrupts.wait(), { code: 'ERR_DMAPOOL_PCI_CLOSED' });
        await interrupts.close();
        await cut;
        await (await pci.interrupts({ kinds: [kind] })).close();
      }));
  }

  void it('can back one pool in several workers', () =>
    withEdu({ size: MIB }, async (vfio) => {
      const pool = DmaPool.create('shared', vfio.pci.device, { size: 256, maxBlocks: 64 });
      const worker = new Worker(new URL('./region-worker.js', import.meta.url));
      try {
        worker.postMessage({ do: 'fill', handle: sharePool(pool).handle, value: 0x77 });
        const [answer] = (await once(worker, 'message')) as [{ ok?: number; code?: string }];
        assert.equal(answer.code, undefined);
        const block = sharePool(pool).accept(answer.ok!);
        assert.ok(block.bytes.every((byte) => byte === 0x77));
        // The device reads what the worker wrote.
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
  void it('has addresses above 4 GiB first, and low ones for 32-bit devices', async () => {
    const vfio = await VfioDevice.open(EDU, { memory: { size: 8 * MIB } });
    const { memory, pci } = vfio;
    try {
      const take = (dmaMask: number): number =>
        memory.allocCoherent({ device: { name: 'd', dmaMask }, size: 4096, node: -1 })!.dma;
      assert.equal(memory.bytesMapped, 0, 'maps nothing before it is needed');
      assert.ok(take(dmaBitMask(32)) < FOUR_GIB);
      assert.ok(take(dmaBitMask(39)) >= FOUR_GIB);
      assert.ok(take(dmaBitMask(28)) < 2 ** 28);
      assert.equal(memory.mappings, 2);
      const last = vfio.iovaRanges!.at(-1)!.last;
      assert.ok(take(dmaBitMask(64)) <= last);
      assert.equal(memory.bytesInUse, 4 * 4096);
      assert.equal(pci.closed, false);
    } finally {
      await vfio.close();
    }
    assert.equal(memory.bytesMapped, 0);
  });

  void it('returns hugepages, and locks no more than it reports', async () => {
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

void describe('the IOMMU', () => {
  /**
   * Lets edu write 1024 bytes to an address without a mapping: the write is blocked, and the kernel's log reports a
   * fault.
   */
  async function mustBeStopped(vfio: VfioDevice, dma: number): Promise<void> {
    const before = iommuFaults().length;
    await vfio.pci.enableBusMaster();
    await eduDma(vfio, dma, 1024, 'write');
    assert.ok(await within10s(() => iommuFaults().length > before));
    const { device, address } = iommuFaults().at(-1)!;
    assert.equal(device, EDU.slice(5));
    assert.equal(address, dma - (dma % 4096));
    assert.equal((await vfio.pci.bar(0).read32(EDU_ID)) & 0xff, 0xed, 'the device still works');
  }

  void it('blocks an access to an unmapped address', () =>
    withEdu({ size: MIB }, async (vfio) => {
      const block = DmaPool.createManaged('p', vfio.pci.device, { size: 4096 }).alloc();
      block.bytes.fill(0x33);
      await mustBeStopped(vfio, 0xabc_d000);
      assert.ok(block.bytes.every((byte) => byte === 0x33));
    }));

  void it('blocks an access to a page of a destroyed pool (strict)', () =>
    withEdu({ size: MIB, strict: true }, async (vfio) => {
      const pool = DmaPool.create('p', vfio.pci.device, { size: 4096 });
      const block = pool.alloc();
      const { bytes, dma } = block;
      await vfio.pci.enableBusMaster();
      await eduDma(vfio, dma, 1024, 'write');
      bytes.fill(0x44);
      pool.free(block);
      pool.destroy();
      await mustBeStopped(vfio, dma);
      assert.ok(bytes.every((byte) => byte === 0x44));
    }));

  void it('blocks an access to the memory of a closed source', () =>
    withEdu({ size: MIB }, async (vfio) => {
      const pool = DmaPool.create('p', vfio.pci.device, { size: 4096 });
      const block = pool.alloc();
      block.bytes.fill(0x55);
      vfio.memory.close();
      assert.ok(block.bytes.every((byte) => byte === 0));
      await mustBeStopped(vfio, block.dma);
      assert.ok(block.bytes.every((byte) => byte === 0));
      assert.equal(pool.tryAlloc() === null, true);
      pool.free(block);
      pool.destroy();
    }));
});

void describe('a view of VFIO memory', () => {
  void it('never crashes the process when the device is closed', async () => {
    const before = freeHugepages();
    const device = { name: 'd', dmaMask: dmaBitMask(39) };
    for (let i = 0; i < 20; i++) {
      const source = await VfioDevice.open(EDU, {
        memory: { size: 4 * MIB, strict: i % 2 === 0, hugepages: i % 3 === 0 },
      });
      const live: { memory: CoherentMemory; view: Uint8Array; value: number }[] = [];
      for (const size of [1, 4096, 20_000, MIB]) {
        const memory = source.memory.allocCoherent({ device, size, node: -1 })!;
        const view = new Uint8Array(memory.buffer, memory.byteOffset, memory.size);
        live.push({ memory, view, value: view.fill(i + 1)[0]! });
      }
      if (i % 4 === 0) source.memory.close();
      await source.close();
      for (const { view } of live) assert.ok(view[0] === 0 && view.at(-1) === 0);
      live.forEach(({ view }) => view.fill(7));
      for (const { memory } of live) source.memory.freeCoherent(memory);
      assert.equal(source.memory.allocCoherent({ device, size: 1, node: -1 }), null);
    }
    assert.equal(freeHugepages(), before);
  });
});

void describe('a device through VFIO when the system refuses a call', () => {
  for (const errno of ['ENOMEM', 'EINVAL'] as const) {
    void it(`throws a typed error and leaves nothing open when the k-th call fails, for each k (${errno})`, async (t) => {
      const faults = new SystemFaults();
      const use = async (): Promise<void> => {
        const vfio = await VfioDevice.open(EDU, { memory: { size: MIB, hugepages: false }, dmaMask: dmaBitMask(28) });
        try {
          const pool = DmaPool.createManaged('p', vfio.pci.device, { size: 2048 });
          pool.free(pool.alloc());
          await (await vfio.pci.interrupts()).close();
          assert.equal((await vfio.pci.bar(0).read32(EDU_ID)) & 0xff, 0xed);
        } finally {
          await vfio.close();
        }
      };
      await use();
      const before = footprint();
      faults.inLibc(t, ['ioctl', 'mmap', 'munmap', 'memfdCreate', 'addSeals', 'eventfd', 'pipe', 'replace']);
      let k = 0;
      do {
        faults.fail(++k, errno);
        try {
          await use();
        } catch (error) {
          assert.ok(faults.failed !== null && error instanceof DmaError, `call ${String(k)}: ${String(error)}`);
        }
        assert.deepEqual(footprint(), before, `call ${String(k)}, ${String(faults.failed)}`);
      } while (faults.failed !== null);
      t.diagnostic(`${String(k - 1)} calls`);
      assert.ok(k > 20);
    });
  }
});

void describe('wrong use of VFIO is refused, and the error states the remedy', () => {
  void it('a device of another driver, or of none', async () => {
    unbindFromVfio([EDU]);
    try {
      await assert.rejects(VfioDevice.open(EDU), {
        code: 'ERR_DMAPOOL_VFIO_NOT_BOUND',
        message: `${EDU}: no driver is bound to it; run: dmapool bind ${EDU}`,
      });
    } finally {
      bindToVfio([EDU]);
    }
  });

  void it('a device that is already open', async () => {
    await withEdu({ size: MIB }, async () => {
      await assert.rejects(VfioDevice.open(EDU), {
        code: 'ERR_DMAPOOL_PCI_BUSY',
        message: new RegExp(`^${EDU}: it is in use: process ${String(process.pid)} \\(.*\\) has /dev/vfio/\\d+ open$`),
      });
    });
  });

  void it('an invalid address, or one without a device', async () => {
    for (const wrong of ['', '00:10.0', '0000:00:10.9', '../..']) {
      await assert.rejects(VfioDevice.open(wrong), { code: 'ERR_DMAPOOL_INVALID_ARGUMENT' });
    }
    await assert.rejects(VfioDevice.open('0000:00:1c.7'), { code: 'ERR_DMAPOOL_PCI_NOT_FOUND' });
  });

  void it('invalid options', async () => {
    for (const memory of [
      { size: 0 },
      { size: 1.5 },
      { size: 2 ** 33, strict: true },
      { node: -2 },
      { hugepages: 12345 },
    ]) {
      await assert.rejects(VfioDevice.open(EDU, { memory }), { code: 'ERR_DMAPOOL_INVALID_ARGUMENT' });
    }
    // No file is left open.
    await withEdu({ size: MIB }, () => Promise.resolve());
  });

  void it('unavailable hugepages', async () => {
    await assert.rejects(VfioDevice.open(EDU, { memory: { size: 256 * MIB, hugepages: true } }), {
      code: 'ERR_DMAPOOL_NO_HUGEPAGES',
      message: /as root: echo \d+ > \/sys\/kernel\/mm\/hugepages\//,
    });
  });

  void it('a group of another user, and more memory than may be locked', () => {
    const path = `/dev/vfio/${String(listPciDevices().find(({ address }) => address === EDU)!.iommuGroup)}`;
    assert.equal(
      openUnprivileged(EDU, '{ memory: { size: 2 ** 20 } }'),
      `ERR_DMAPOOL_VFIO_PERMISSION ${EDU}: this user may not open ${path}; as root: chown USER ${path}`,
    );
    chmodSync(path, 0o666);
    assert.match(
      openUnprivileged(EDU, '{ memory: { size: 64 * 2 ** 20 } }'),
      /^ERR_DMAPOOL_VFIO_MEMLOCK .*: the device needs 65536 KiB of locked memory, and this process may lock \d+ KiB more \(limit \d+ KiB\): raise the limit \(ulimit -l \d+, /,
    );
    // Root is not needed for a group of this user and memory within the limit.
    assert.equal(openUnprivileged(EDU, '{ memory: { size: 2 ** 20, hugepages: false } }'), 'opened');
  });
});
