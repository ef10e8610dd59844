/** Real device models, driven through `dmapool/pci`. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { type CoherentMemory, dmaBitMask, DmaPool } from 'dmapool';
import { NvmeController } from 'dmapool/drivers/nvme';
import { PCI_CAPABILITY, PCI_CONFIG, type PciFunction } from 'dmapool/pci';
import { diskImage } from '../support/disk-image.ts';
import { rejectsCode, throwsCode } from '../support/errors.ts';
import { EDU, startMachine, withoutQemu } from './qemu.ts';
import { MIB } from '../support/sizes.ts';

/** Starts a copy by edu between its buffer and memory; resolves when the copy is done. */
async function transfer(edu: PciFunction, dma: number, count: number, toMemory: boolean): Promise<void> {
  const bar = edu.bar(0);
  bar.write64(toMemory ? EDU.destination : EDU.source, dma);
  bar.write64(toMemory ? EDU.source : EDU.destination, EDU.buffer);
  bar.write64(EDU.count, count);
  bar.write64(EDU.command, toMemory ? 3 : 1);
  const deadline = performance.now() + 5000;
  while (((await bar.read64(EDU.command)) & 1n) !== 0n) {
    if (performance.now() > deadline) throw new Error('the transfer does not end');
  }
}

void describe('a QEMU machine', { skip: withoutQemu }, () => {
  for (const kind of ['pc', 'q35'] as const) {
    void it(`finds its functions and assigns addresses that do not overlap (${kind})`, async (t) => {
      const machine = await startMachine(t, {
        machine: kind,
        drives: [{ id: 'disk0', file: diskImage(t, MIB) }],
        netdevs: [
          { type: 'hubport', id: 'n0', hubid: 0 },
          { type: 'hubport', id: 'n1', hubid: 0 },
        ],
        devices: [
          'pci-bridge,id=bridge0,chassis_nr=9',
          { driver: 'nvme', id: 'nvme0', drive: 'disk0', serial: 'a,b' },
          { driver: 'e1000', id: 'nic0', netdev: 'n0', bus: 'bridge0', addr: 3 },
          { driver: 'e1000', id: 'nic1', netdev: 'n1', mac: '52:54:00:00:00:01' },
          'usb-ehci,id=ehci0,bus=bridge0,addr=1',
          'edu,id=edu0',
          'piix3-usb-uhci,id=uhci0',
        ],
      });
      assert.match(machine.output, /^\S+ warning: hub 0 is not connected to host network\n$/, 'no other complaint');
      const regions: { kind: string; from: number; to: number }[] = [];
      for (const [id, vendorId, deviceId, classCode] of [
        ['nvme0', 0x1b36, 0x0010, 0x010802],
        ['nic0', 0x8086, 0x100e, 0x020000],
        ['nic1', 0x8086, 0x100e, 0x020000],
        ['ehci0', 0x8086, 0x24cd, 0x0c0320],
        ['edu0', 0x1234, 0x11e8, 0x00ff00],
      ] as const) {
        const listed = machine.functions.find((each) => each.id === id)!;
        assert.deepEqual([listed.vendorId, listed.deviceId, listed.classCode], [vendorId, deviceId, classCode], id);
        const fn = await machine.open(id);
        assert.deepEqual([fn.vendorId, fn.deviceId, fn.classCode], [vendorId, deviceId, classCode], id);
        assert.equal(fn.address.startsWith('0000:01:'), id === 'nic0' || id === 'ehci0', fn.address);
        for (const bar of fn.bars) {
          const word = await fn.config.read32(PCI_CONFIG.bar0 + bar.index * 4);
          const from = bar.kind === 'io' ? word - 1 : word - (word % 16);
          assert.equal(from % bar.size, 0);
          regions.push({ kind: bar.kind, from, to: from + bar.size });
        }
        await fn.close();
      }
      regions.sort((a, b) => (a.kind === b.kind ? a.from - b.from : a.kind < b.kind ? -1 : 1));
      for (const [i, region] of regions.entries()) {
        const next = regions[i + 1];
        assert.ok(next?.kind !== region.kind || next.from >= region.to);
      }
      // Each function answers at its own addresses: register widths of 8, 16, 32 and 64 bits, memory and ports.
      const [nvme, uhci, ehci, edu] = await Promise.all(
        ['nvme0', 'uhci0', 'ehci0', 'edu0'].map((id) => machine.open(id)),
      );
      assert.equal(await nvme!.bar(0).read32(0x08), 0x1_0400, 'NVMe 1.4 (VS)');
      assert.equal(Number((await nvme!.bar(0).read64(0)) & 0xffffn), 2047, 'CAP.MQES');
      assert.equal(await ehci!.bar(0).read8(0), 0x20, 'CAPLENGTH');
      assert.equal(await ehci!.bar(0).read16(2), 0x0100, 'HCIVERSION');
      assert.equal(await edu!.bar(0).read32(EDU.id), 0x010000ed);
      const ports = uhci!.bar(4);
      assert.equal(ports.kind, 'io');
      ports.write32(8, 0x1234_5000);
      ports.write16(4, 0x000d);
      assert.deepEqual(
        [await ports.read32(8), await ports.read16(10), await ports.read8(4)],
        [0x1234_5000, 0x1234, 0x0d],
        'FLBASEADD, USBINTR',
      );
      const capabilities = await nvme!.config.capabilities();
      assert.ok(capabilities.some(({ id }) => id === PCI_CAPABILITY.msix));
      assert.equal(nvme!.config.size, kind === 'pc' ? 256 : 4096);
    });
  }

  void it('reaches the extended configuration space of PCI Express', async (t) => {
    const machine = await startMachine(t, {
      machine: 'q35',
      devices: ['pcie-root-port,id=rp0,chassis=1', { driver: 'e1000e', id: 'nic0', bus: 'rp0' }],
    });
    const nic = await machine.open('nic0');
    const ids = (await nic.config.extendedCapabilities()).map(({ id }) => id);
    assert.deepEqual(ids, [1, 3], 'advanced error reporting, device serial number');
    assert.ok(nic.bars.length >= 3);
  });

  void it('performs writes in order, before any later read, and many of them at once', async (t) => {
    const machine = await startMachine(t, { devices: ['edu,id=edu0'] });
    const edu = await machine.open('edu0');
    const bar = edu.bar(0);
    for (let i = 0; i < 20_000; i++) bar.write32(EDU.liveness, i);
    assert.equal(await bar.read32(EDU.liveness), ~19_999 >>> 0, 'the last one');
    const reads: Promise<number>[] = [];
    for (let i = 0; i < 500; i++) {
      bar.write32(EDU.liveness, i);
      reads.push(bar.read32(EDU.liveness));
    }
    assert.deepEqual(
      await Promise.all(reads),
      Array.from({ length: 500 }, (_, i) => ~i >>> 0),
    );
  });

  void it('lets devices do DMA at mapped addresses once bus mastering is on', async (t) => {
    const machine = await startMachine(t, {
      highMemory: 32 * MIB,
      devices: [{ driver: 'edu', id: 'edu0', dma_mask: 2 ** 53 - 1 }],
    });
    const edu = await machine.open('edu0');
    edu.device.setDmaMask(dmaBitMask(64));
    const pool = DmaPool.create('data', edu.device, { size: 2048, align: 2048 });
    const from = pool.alloc();
    const to = pool.alloc();
    assert.ok(from.dma >= 2 ** 32);
    for (let i = 0; i < 2048; i++) from.bytes[i] = i * 7;
    await transfer(edu, from.dma, 2048, false);
    await transfer(edu, to.dma, 2048, true);
    assert.ok(
      to.bytes.every((byte) => byte === 0),
      'no bus mastering, no DMA',
    );
    await edu.enableBusMaster();
    await transfer(edu, from.dma, 2048, false);
    await transfer(edu, to.dma, 2047, true);
    assert.deepEqual(to.bytes.subarray(0, 2047), from.bytes.subarray(0, 2047));
    assert.equal(to.bytes[2047], 0);
    pool.free(from);
    pool.free(to);
    pool.destroy();
  });

  void it('honours a mask of 28 bits on a machine with 1 GiB', async (t) => {
    const machine = await startMachine(t, { memory: 1024 * MIB, devices: ['edu,id=edu0'] });
    const edu = await machine.open('edu0', { dmaMask: dmaBitMask(28) });
    await edu.enableBusMaster();
    const all: CoherentMemory[] = [];
    for (;;) {
      const memory = edu.device.allocCoherent(16 * MIB);
      if (memory === null) break;
      assert.ok(memory.dma + memory.size <= 2 ** 28);
      all.push(memory);
    }
    const last = all.at(-1)!;
    const bytes = new Uint8Array(last.buffer, last.byteOffset, 64).fill(0xab);
    await transfer(edu, last.dma, 64, false);
    bytes.fill(0);
    await transfer(edu, last.dma, 64, true);
    assert.ok(bytes.every((byte) => byte === 0xab));
    assert.equal(machine.output, '', 'edu truncates addresses beyond its mask, with a warning');
  });

  void it('writes its disks back when it is closed', async (t) => {
    const file = diskImage(t, MIB);
    const machine = await startMachine(t, {
      drives: [{ id: 'disk0', file }],
      devices: [{ driver: 'nvme', drive: 'disk0', serial: '1' }],
    });
    const command = 'qemu-io disk0 "write -P 0x5a 4096 512"';
    await machine.qmp('human-monitor-command', { 'command-line': command });
    await machine.close();
    assert.ok(
      readFileSync(file)
        .subarray(4096, 4608)
        .every((byte) => byte === 0x5a),
    );
  });

  void it('refuses functions that are missing or open, and invalid arguments', async (t) => {
    const machine = await startMachine(t, { devices: ['edu,id=edu0'] });
    const error = await rejectsCode('ERR_DMAPOOL_PCI_NOT_FOUND', machine.open('nvme0'));
    assert.match(error.message, /0000:00:02.0 \(edu0\)/);
    const edu = await machine.open('edu0');
    await rejectsCode('ERR_DMAPOOL_PCI_BUSY', machine.open('0000:00:02.0'));
    await edu.close();
    await (await machine.open('0000:00:02.0')).close();
    await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', machine.open(''));
    await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', machine.open('edu0', { dmaMask: -1 }));
    await (await machine.open('edu0')).close();
    await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', machine.readPort(65_536, 8));
    await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', machine.readMemory(0, 0));
    await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', machine.writeMemory(-1, new Uint8Array(1)));
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      machine.writePort(0, 8, 256);
    });
    const refused = await rejectsCode('ERR_DMAPOOL_QEMU_COMMAND', machine.qmp('no-such-command'));
    assert.match(refused.message, /The command no-such-command has not been found/);
  });
});

void describe('interrupts of a QEMU machine', { skip: withoutQemu }, () => {
  for (const kind of ['pc', 'q35'] as const) {
    void it(`arrive from every slot, also behind bridges, and only at their function (${kind})`, async (t) => {
      const machine = await startMachine(t, {
        machine: kind,
        devices: [
          'pci-bridge,id=bridge0,chassis_nr=9',
          ...Array.from({ length: 6 }, (_, i) => `edu,id=root${String(i)}`),
          ...Array.from({ length: 5 }, (_, i) => `edu,id=behind${String(i)},bus=bridge0,addr=${String(i + 1)}`),
        ],
      });
      const ids = machine.functions.map(({ id }) => id).filter((id) => id !== '');
      assert.equal(ids.length, 11);
      const all = await Promise.all(
        ids.map(async (id) => {
          const fn = await machine.open(id);
          return { fn, bar: fn.bar(0), interrupts: await fn.interrupts({ kinds: ['intx'] }) };
        }),
      );
      for (const one of all) {
        one.bar.write32(EDU.raise, 5);
        assert.equal(await one.interrupts.wait({ timeout: 5000 }), true, one.fn.address);
        assert.equal(await one.interrupts.wait(), true, 'while it is asserted');
        // Eleven functions on four lines: the others on the line check, and find that theirs is not asserted.
        const others = all.filter((other) => other !== one).map(({ interrupts }) => interrupts.wait({ timeout: 20 }));
        assert.ok((await Promise.all(others)).every((woken) => !woken));
        one.bar.write32(EDU.acknowledge, 5);
        assert.equal(await one.interrupts.wait({ timeout: 5 }), false, 'and no longer');
      }
      // An interrupt that arrives while another function asserts their line: slots four apart share one.
      const [first, second] = ['root0', 'root4'].map((id) => all[ids.indexOf(id)]!);
      first!.bar.write32(EDU.raise, 1);
      assert.equal(await first!.interrupts.wait({ timeout: 5000 }), true);
      const wait = second!.interrupts.wait({ timeout: 5000 });
      second!.bar.write32(EDU.raise, 1);
      assert.equal(await wait, true);
    });
  }

  void it('are disabled when they are closed', async (t) => {
    const machine = await startMachine(t, { devices: ['edu,id=edu0'] });
    const edu = await machine.open('edu0');
    const interrupts = await edu.interrupts({ kinds: ['intx'] });
    await interrupts.close();
    assert.notEqual((await edu.config.read16(PCI_CONFIG.command)) & 0x400, 0);
    await rejectsCode('ERR_DMAPOOL_PCI_UNSUPPORTED', edu.interrupts({ kinds: ['msix'] }));
    const again = await edu.interrupts({ kinds: ['intx'] });
    edu.bar(0).write32(EDU.raise, 1);
    assert.equal(await again.wait({ timeout: 5000 }), true);
  });
});

void describe('closing', { skip: withoutQemu }, () => {
  void it('under a driver frees no memory that a transfer may still write', async (t) => {
    const machine = await startMachine(t, {
      drives: [{ id: 'disk0', file: diskImage(t, 16 * MIB), options: { 'throttling.bps-read': MIB } }],
      devices: ['nvme,id=nvme0,drive=disk0,serial=1', 'edu,id=edu0'],
    });
    const pci = await machine.open('nvme0');
    const nvme = await NvmeController.open(pci);
    const disk = await nvme.namespace(1);
    const reads = Array.from({ length: 8 }, (_, i) =>
      disk.read(i * 256, new Uint8Array(128 * 1024)).catch((error: unknown) => error),
    );
    await new Promise((resolve) => setTimeout(resolve, 100));
    await pci.close();
    // Allocates all free memory for another device; the disk's data (zeros) would show in it.
    const { device } = await machine.open('edu0');
    const taken: Uint8Array[] = [];
    for (;;) {
      const memory = machine.memory.allocCoherent({ device, size: 4096, node: -1 });
      if (memory === null) break;
      taken.push(new Uint8Array(memory.buffer, memory.byteOffset, memory.size).fill(0xff));
    }
    await new Promise((resolve) => setTimeout(resolve, 1500));
    assert.ok(taken.every((bytes) => bytes.every((byte) => byte === 0xff)));
    await Promise.all(reads);
    await nvme.close();
  });

  void it('during a reset keeps the addresses of the function', async (t) => {
    const machine = await startMachine(t, { machine: 'q35', devices: ['nvme,id=nvme0,serial=1'] });
    const pci = await machine.open('nvme0');
    const version = await pci.bar(0).read32(8);
    const resets = [pci.reset(), pci.reset()];
    await pci.close();
    assert.deepEqual(await Promise.all(resets), [true, true]);
    const again = await machine.open('nvme0');
    assert.equal(await again.bar(0).read32(8), version);
  });
});

void describe('unplugging', { skip: withoutQemu }, () => {
  const machines = {
    pc: { devices: ['edu,id=edu0', 'edu,id=edu1'] },
    q35: {
      machine: 'q35' as const,
      devices: [
        ...[0, 1].map((i) => `pcie-root-port,id=rp${String(i)},chassis=${String(i)},slot=${String(i)}`),
        'edu,id=edu0,bus=rp0',
        'edu,id=edu1,bus=rp1',
      ],
    },
  };
  for (const [kind, options] of Object.entries(machines)) {
    void it(`ends waits and accesses with typed errors, and does not affect other functions (${kind})`, async (t) => {
      const machine = await startMachine(t, options);
      const [edu, other] = await Promise.all([machine.open('edu0'), machine.open('edu1')]);
      const pool = DmaPool.createManaged('p', edu.device, { size: 64 });
      const interrupts = await edu.interrupts();
      const waits = [rejectsCode('ERR_DMAPOOL_PCI_GONE', interrupts.wait())];
      const done = machine.unplug('edu0');
      // Reads in flight end with the right value while the device is there, or with the error.
      const answers = await Promise.all(
        Array.from({ length: 50 }, async () => {
          await new Promise((resolve) => setTimeout(resolve, Math.random() * 20));
          return edu
            .bar(0)
            .read32(EDU.id)
            .catch((error: unknown) => (error as { code: string }).code);
        }),
      );
      await done;
      assert.deepEqual(
        [...new Set(answers)].filter((answer) => answer !== 0x010000ed),
        ['ERR_DMAPOOL_PCI_GONE'],
      );
      await Promise.all(waits);
      assert.ok(edu.removed.aborted);
      edu.bar(0).write32(EDU.liveness, 1);
      await rejectsCode('ERR_DMAPOOL_PCI_GONE', edu.bar(0).flush());
      await rejectsCode('ERR_DMAPOOL_PCI_GONE', edu.config.read32(0));
      pool.free(pool.alloc());
      await edu.close();
      await rejectsCode('ERR_DMAPOOL_PCI_NOT_FOUND', machine.open('edu0'));
      assert.equal(await other.bar(0).read32(EDU.id), 0x010000ed);
      assert.deepEqual(
        machine.functions.map(({ id }) => id).filter((id) => id !== ''),
        ['edu1'],
      );
      await machine.unplug('edu1');
    });
  }

  void it('waits for a slow disk, and does not block the machine', async (t) => {
    const machine = await startMachine(t, {
      commandTimeout: 500,
      args: ['-blockdev', 'null-co,node-name=slow,latency-ns=1500000000,size=1048576'],
      devices: ['nvme,id=nvme0,drive=slow,serial=1', 'edu,id=edu0'],
    });
    const pci = await machine.open('nvme0');
    const nvme = await NvmeController.open(pci);
    const disk = await nvme.namespace(1);
    const read = rejectsCode('ERR_DMAPOOL_PCI_GONE', disk.read(0, new Uint8Array(512)));
    await new Promise((resolve) => setTimeout(resolve, 50));
    await machine.unplug('nvme0', { timeout: 20_000 });
    await read;
    await nvme.close();
    await pci.close();
    const edu = await machine.open('edu0');
    assert.equal(await edu.bar(0).read32(EDU.id), 0x010000ed);
  });

  void it('reports QEMU’s message if QEMU refuses it', async (t) => {
    const machine = await startMachine(t, { machine: 'q35', devices: ['edu,id=edu0', 'edu'] });
    const error = await rejectsCode('ERR_DMAPOOL_QEMU_COMMAND', machine.unplug('edu0'));
    assert.match(error.message, /does not support hotplug/i);
    const edu = await machine.open('edu0');
    assert.equal(await edu.bar(0).read32(EDU.id), 0x010000ed);
    await rejectsCode('ERR_DMAPOOL_PCI_UNSUPPORTED', machine.unplug('0000:00:02.0'));
    await rejectsCode('ERR_DMAPOOL_PCI_NOT_FOUND', machine.unplug('missing'));
    await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', machine.unplug('edu0', { timeout: 0 }));
    await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', machine.unplug('edu0', null as never));
  });
});
