/** MSI and MSI-X of real device models, whose messages go to words of the machine's RAM. */
import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { dmaBitMask, type DmaOutOfMemoryError } from 'dmapool';
import { NvmeController } from 'dmapool/drivers/nvme';
import { type Bar, type Interrupts, PCI_CAPABILITY, type PciCapability, type PciFunction, waitFor } from 'dmapool/pci';
import type { QemuMachine } from 'dmapool/qemu';
import { diskImage } from '../support/disk-image.ts';
import { rejectsCode } from '../support/errors.ts';
import { RecordingLog } from '../support/log.ts';
import { MIB } from '../support/sizes.ts';
import { until } from '../support/until.ts';
import { EDU, startMachine, withoutQemu } from './qemu.ts';

const PATIENCE = 5000;
const MSI_ENABLE = 1;
const MSIX_ENABLE = 0x8000;
const MASKED = 1;

/** Allocated bytes of the machine's RAM. */
function bytesInUse(machine: QemuMachine): number {
  return (machine.memory as unknown as { readonly bytesInUse: number }).bytesInUse;
}

async function capabilityOf(pci: PciFunction, kind: 'msi' | 'msix'): Promise<PciCapability> {
  const capability = await pci.config.findCapability(PCI_CAPABILITY[kind]);
  assert.ok(capability !== null);
  return capability;
}

/** Starts a machine with an NVMe disk. */
function startWithDisk(
  t: TestContext,
  machine: 'pc' | 'q35' = 'pc',
  options: Readonly<Record<string, number>> = {},
): Promise<QemuMachine> {
  return startMachine(t, {
    machine,
    drives: [{ id: 'disk0', file: diskImage(t, MIB), options }],
    devices: ['nvme,id=nvme0,drive=disk0,serial=1'],
  });
}

void describe('messages of a QEMU machine', { skip: withoutQemu }, () => {
  void it('are single interrupts by MSI, kept for the next wait (edu)', async (t) => {
    const machine = await startMachine(t, { highMemory: 32 * MIB, devices: ['edu,id=edu0'] });
    const edu = await machine.open('edu0');
    const bar = edu.bar(0);
    const interrupts = await edu.interrupts({ vectors: 4 });
    assert.deepEqual([interrupts.kind, interrupts.vectors], ['msi', 1]);
    await edu.enableBusMaster();
    assert.equal(await interrupts.wait({ timeout: 20 }), false);
    for (let i = 1; i <= 50; i++) {
      const waiting = interrupts.wait({ timeout: PATIENCE });
      bar.write32(EDU.raise, i);
      assert.equal(await waiting, true, `interrupt ${String(i)}`);
      assert.equal(await bar.read32(EDU.interruptStatus), i);
      bar.write32(EDU.acknowledge, i);
    }
    // Messages without a waiter: a word does not count, so two are one interrupt.
    bar.write32(EDU.raise, 1);
    bar.write32(EDU.raise, 2);
    await bar.flush();
    assert.equal(await interrupts.wait({ timeout: PATIENCE }), true);
    assert.equal(await interrupts.wait({ timeout: 20 }), false, 'each message is reported once');
    // A message long after the start of the wait, when the words are read less often.
    const late = interrupts.wait({ timeout: PATIENCE });
    await new Promise((resolve) => setTimeout(resolve, 50));
    bar.write32(EDU.raise, 4);
    assert.equal(await late, true);
    // A wait that was aborted loses nothing.
    const controller = new AbortController();
    const aborted = assert.rejects(interrupts.wait({ signal: controller.signal }), /enough/);
    controller.abort(new Error('enough'));
    await aborted;
    bar.write32(EDU.raise, 8);
    await bar.flush();
    assert.equal(await interrupts.wait({ timeout: PATIENCE }), true);
    const cut = rejectsCode('ERR_DMAPOOL_PCI_CLOSED', interrupts.wait());
    await interrupts.close();
    await cut;
    await (await edu.interrupts({ kinds: ['msi'] })).close();
    await edu.close();
  });

  void it('need bus mastering, and the log says so', async (t) => {
    const machine = await startMachine(t, { devices: ['edu,id=edu0'] });
    const log = new RecordingLog();
    const edu = await machine.open('edu0', { log });
    const interrupts = await edu.interrupts();
    edu.bar(0).write32(EDU.raise, 1);
    assert.equal(await interrupts.wait({ timeout: 30 }), false);
    assert.match(log.text, /^warn 0000:00:02.0: waits for an interrupt while bus mastering is off: .*enableBusMaster/m);
    await edu.enableBusMaster();
    edu.bar(0).write32(EDU.raise, 1);
    assert.equal(await interrupts.wait({ timeout: PATIENCE }), true);
    await edu.close();
  });

  void it('follow the order of the requested kinds', async (t) => {
    const machine = await startMachine(t, { devices: ['edu,id=edu0', 'nvme,id=nvme0,serial=1', 'e1000,id=nic0'] });
    const kindOf = async (id: string, kinds?: ('msix' | 'msi' | 'intx' | 'poll')[]): Promise<string> => {
      const pci = await machine.open(id);
      const { kind } = await pci.interrupts(kinds === undefined ? {} : { kinds });
      await pci.close();
      return kind;
    };
    assert.deepEqual([await kindOf('nvme0'), await kindOf('edu0'), await kindOf('nic0')], ['msix', 'msi', 'intx']);
    assert.deepEqual([await kindOf('edu0', ['intx', 'msi']), await kindOf('nic0', ['msi', 'poll'])], ['intx', 'poll']);
    await rejectsCode('ERR_DMAPOOL_PCI_UNSUPPORTED', kindOf('nvme0', ['msi']));
  });

  void it('arrive at their vector by MSI-X (e1000e)', async (t) => {
    const machine = await startMachine(t, { highMemory: 32 * MIB, devices: ['e1000e,id=nic0'] });
    const nic = await machine.open('nic0', { dmaMask: dmaBitMask(64) });
    const interrupts = await nic.interrupts({ vectors: 64 });
    assert.deepEqual([interrupts.kind, interrupts.vectors], ['msix', 5], 'it has five');
    await nic.enableBusMaster();
    const bar = nic.bar(0);
    // 82574: the causes receive queue 0, transmit queue 0 and "other" (link change), bits 20, 22 and 24, at vectors 3, 1
    // and 4.
    const [cause, set, mask, map] = [0xc0, 0xc8, 0xd0, 0xe4];
    const vectors: readonly (readonly [causes: number, vector: number])[] = [
      [1 << 20, 3],
      [1 << 22, 1],
      [(1 << 24) | 4, 4],
    ];
    bar.write32(map, 8 | 3 | ((8 | 1) << 8) | ((8 | 4) << 16));
    bar.write32(
      mask,
      vectors.reduce((bits, [causes]) => bits | causes, 0),
    );
    for (let round = 0; round < 3; round++) {
      for (const [causes, vector] of vectors) {
        const waits = Array.from({ length: 5 }, (_, i) =>
          interrupts.wait({ vector: i, timeout: i === vector ? PATIENCE : 30 }),
        );
        bar.write32(set, causes);
        assert.deepEqual(
          await Promise.all(waits),
          waits.map((_, i) => i === vector),
        );
        bar.write32(cause, causes);
      }
    }
    await nic.close();
  });

  void it('wait while their vector is masked, with a pending bit (NVMe)', async (t) => {
    // The driver looks for completions before it waits. A slow disk completes the command after that.
    const machine = await startWithDisk(t, 'pc', { 'throttling.bps-read': MIB / 16 });
    const pci = await machine.open('nvme0');
    const nvme = await NvmeController.open(pci, { queues: 1 });
    assert.equal(nvme.interruptKind, 'msix');
    const disk = await nvme.namespace(1);
    const msix = await capabilityOf(pci, 'msix');
    assert.equal((await msix.read16(2)) & MSIX_ENABLE, MSIX_ENABLE);
    const within = async (at: number): Promise<{ readonly bar: Bar; readonly offset: number }> => {
      const place = await msix.read32(at);
      return { bar: pci.bar(place & 7), offset: place - (place & 7) };
    };
    const [table, pending] = [await within(4), await within(8)];
    const mask = table.offset + 16 + 12; // vector 1, of the I/O queue
    await disk.read(0, new Uint8Array(MIB / 16)); // the next one takes its time
    assert.equal(await table.bar.read32(table.offset + 2 * 16 + 12), MASKED, 'an unused vector is masked');
    assert.equal(await table.bar.read32(mask), 0);
    table.bar.write32(mask, MASKED);
    let isDone = false;
    const read = disk.read(0, new Uint8Array(512)).then(() => {
      isDone = true;
    });
    await waitFor(async () => (await pending.bar.read32(pending.offset)) === 2, { timeout: PATIENCE });
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.equal(isDone, false);
    table.bar.write32(mask, 0);
    await read;
    assert.equal(await pending.bar.read32(pending.offset), 0);
    await nvme.close();
    await pci.close();
  });

  void it('serve a queue each (NVMe)', async (t) => {
    const machine = await startWithDisk(t);
    const pci = await machine.open('nvme0');
    const nvme = await NvmeController.open(pci, { queues: 4 });
    const disk = await nvme.namespace(1);
    const sector = (i: number): Uint8Array => new Uint8Array(512).fill(i);
    await Promise.all(Array.from({ length: 200 }, (_, i) => disk.write(i, sector(i))));
    const read = await Promise.all(
      Array.from({ length: 200 }, async (_, i) => {
        const bytes = new Uint8Array(512);
        await disk.read(i, bytes);
        return bytes;
      }),
    );
    read.forEach((bytes, i) => {
      assert.deepEqual(bytes, sector(i));
    });
    assert.ok(nvme.statistics().submitted.every((count) => count >= 80));
    await nvme.close();
    await pci.close();
  });

  void it('are written to memory that is kept until the function is closed', async (t) => {
    const machine = await startWithDisk(t);
    const before = bytesInUse(machine);
    const pci = await machine.open('nvme0');
    const interrupts = await pci.interrupts({ vectors: 2 });
    assert.equal(bytesInUse(machine) - before, 4096);
    await interrupts.close();
    const again = await pci.interrupts({ vectors: 64 });
    assert.equal(bytesInUse(machine) - before, 4096, 'the same page');
    await again.close();
    assert.equal(bytesInUse(machine) - before, 4096, 'the function may still write to it');
    await pci.close();
    assert.equal(bytesInUse(machine), before);
  });

  void it('end with their interrupts, and with the function', async (t) => {
    const machine = await startMachine(t, { devices: ['edu,id=edu0', 'nvme,id=nvme0,serial=1'] });
    for (const [id, kind, enable] of [
      ['edu0', 'msi', MSI_ENABLE],
      ['nvme0', 'msix', MSIX_ENABLE],
    ] as const) {
      const pci = await machine.open(id);
      const interrupts = await pci.interrupts();
      const isEnabled = async (): Promise<boolean> =>
        ((await (await capabilityOf(pci, kind)).read16(2)) & enable) !== 0;
      assert.equal(await isEnabled(), true);
      await interrupts.close();
      assert.equal(await isEnabled(), false);
      await pci.interrupts();
      await pci.close();
      const next = await machine.open(id);
      assert.equal((await (await capabilityOf(next, kind)).read16(2)) & enable, 0);
      await next.close();
    }
  });

  void it('stay disabled for the next driver when a reset restores them after their close', async (t) => {
    const machine = await startWithDisk(t, 'q35');
    const pci = await machine.open('nvme0');
    const interrupts = await pci.interrupts();
    await pci.enableBusMaster();
    const reset = pci.reset();
    // The reset saves the enabled state, clears bus mastering, and then takes 100 ms.
    await waitFor(async () => !(await pci.isBusMaster()), { timeout: PATIENCE });
    await interrupts.close();
    assert.equal(await reset, true);
    await pci.close();
    const next = await machine.open('nvme0');
    assert.equal((await (await capabilityOf(next, 'msix')).read16(2)) & MSIX_ENABLE, 0);
    await next.close();
  });

  void it('survive a reset of the function', async (t) => {
    const machine = await startWithDisk(t, 'q35');
    const pci = await machine.open('nvme0');
    assert.equal(await pci.reset(), true);
    const nvme = await NvmeController.open(pci);
    const disk = await nvme.namespace(1);
    await disk.write(3, new Uint8Array(512).fill(3));
    await nvme.close();
    const interrupts = await pci.interrupts();
    assert.equal(await pci.reset(), true);
    assert.equal((await (await capabilityOf(pci, 'msix')).read16(2)) & MSIX_ENABLE, MSIX_ENABLE);
    await interrupts.close();
    await pci.close();
  });

  void it('end with the device when it is unplugged', async (t) => {
    const machine = await startMachine(t, { devices: ['edu,id=edu0'] });
    const before = bytesInUse(machine);
    const edu = await machine.open('edu0');
    const interrupts = await edu.interrupts();
    await edu.enableBusMaster();
    const wait = rejectsCode('ERR_DMAPOOL_PCI_GONE', interrupts.wait());
    await machine.unplug('edu0');
    await wait;
    await edu.close();
    assert.equal(bytesInUse(machine), before);
  });

  void it('are no longer polled after the end of the machine, though the interrupts are open', async (t) => {
    const machine = await startMachine(t, { devices: ['edu,id=edu0'] });
    const edu = await machine.open('edu0');
    const interrupts = await edu.interrupts();
    await edu.enableBusMaster();
    const wait = rejectsCode('ERR_DMAPOOL_QEMU_CLOSED', interrupts.wait());
    await machine.close();
    await wait;
    const isTimer = (name: string): boolean => name === 'Timeout' || name === 'Immediate';
    await until('polling has ended', () => !process.getActiveResourcesInfo().some(isTimer));
  });

  void it('are refused where the machine has no memory for their words', async (t) => {
    const machine = await startMachine(t, { memory: 8 * MIB, devices: ['edu,id=edu0'] });
    const edu = await machine.open('edu0');
    const taken = [];
    for (let memory = edu.device.allocCoherent(4096); memory !== null; memory = edu.device.allocCoherent(4096)) {
      taken.push(memory);
    }
    const error = (await rejectsCode('ERR_DMAPOOL_NO_MEMORY', edu.interrupts())) as DmaOutOfMemoryError;
    assert.match(error.message, /^0000:00:02.0: the machine has no free memory for the words of MSI or MSI-X$/);
    edu.device.freeCoherent(taken.pop()!);
    const interrupts: Interrupts = await edu.interrupts();
    assert.equal(interrupts.kind, 'msi');
    for (const memory of taken) edu.device.freeCoherent(memory);
    await edu.close();
  });
});
