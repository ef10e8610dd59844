/** The driver of the 82540EM on QEMU: hangs, closing, removal. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { E1000, E1000Error, type E1000Options, type Packet } from 'dmapool/drivers/e1000';
import { generate } from '../../../examples/e1000/generate.ts';
import { PciGoneError } from 'dmapool/pci';
import { QemuError } from 'dmapool/qemu';
import { rejectsAs, rejectsCode, throwsCode } from '../../support/errors.ts';
import { withoutQemu } from '../../qemu/qemu.ts';
import { closeAll, frame, machineWithCards, openPair, packetOf, warmUp } from './fixture.ts';
import { setImmediate as turn } from 'node:timers/promises';

const RCTL = 0x100;
const TCTL = 0x400;

/** Rings of the minimum size, and a few more buffers. */
const SMALL: E1000Options = { receiveDescriptors: 8, transmitDescriptors: 8, buffers: 20 };

void describe('e1000: hangs, closing, removal', { skip: withoutQemu, timeout: 60_000 }, () => {
  void it('reports a hung transmitter and reclaims its buffers', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    a.pci.bar(0).write32(TCTL, 0);
    const packets: Packet[] = [];
    a.nic.packets.allocBatch(packets, 10);
    for (const packet of packets) packet.length = 60;
    assert.equal(a.nic.transmit(packets), 7, 'the ring holds one packet less than it has descriptors');
    assert.equal(a.nic.transmit(packets, 7), 0);
    a.nic.packets.freeBatch(packets, 7);
    const late = await rejectsAs(E1000Error, 'ERR_DMAPOOL_E1000_TIMEOUT', a.nic.drain({ timeout: 30 }));
    assert.match(late.message, /head 1, tail 0/);
    assert.equal(a.nic.transmitting, 7);
    await closeAll(machine, a, b);
  });

  void it('rejects every pending call when it is closed, and accepts late packets', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    a.pci.bar(0).write32(TCTL, 0);
    a.nic.transmit([packetOf(a.nic, frame(60, 1))]);
    const mine = a.nic.packets.alloc();
    const waits = [a.nic.waitForPackets({ timeout: 10_000 }), a.nic.drain({ timeout: 10_000 }), a.nic.waitForPackets()];
    const rejected = Promise.all(waits.map((wait) => rejectsAs(E1000Error, 'ERR_DMAPOOL_E1000_CLOSED', wait)));
    await a.nic.close();
    await rejected;
    for (const action of [() => a.nic.receive([], 1), () => a.nic.transmit([mine]), () => a.nic.transmitting]) {
      assert.ok(throwsCode('ERR_DMAPOOL_E1000_CLOSED', action) instanceof E1000Error);
    }
    await rejectsAs(E1000Error, 'ERR_DMAPOOL_E1000_CLOSED', a.nic.statistics());
    await rejectsAs(E1000Error, 'ERR_DMAPOOL_E1000_CLOSED', a.nic.link());
    assert.throws(() => a.nic.packets.alloc(), /destroyed/);
    assert.equal(a.nic.packets.active, 1);
    a.nic.packets.free(mine);
    assert.match(a.log.text, /^error \S+: e1000 packets busy: 1 still out/);
    a.log.lines.length = 0;
    await closeAll(machine, a, b);
  });

  void it('stops the card before it frees memory, even if its interrupts fail to close', async (t) => {
    const machine = await machineWithCards(t, 1);
    const pci = await machine.open('nic0');
    const open = pci.interrupts.bind(pci);
    pci.interrupts = async (options) => {
      const interrupts = await open(options);
      const close = interrupts.close.bind(interrupts);
      interrupts.close = async () => {
        await close();
        throw new Error('the backend broke');
      };
      return interrupts;
    };
    const nic = await E1000.open(pci, SMALL);
    await assert.rejects(nic.close(), /the backend broke/);
    assert.equal(await pci.isBusMaster(), false);
    assert.equal(((await pci.bar(0).read32(RCTL)) | (await pci.bar(0).read32(TCTL))) & 2, 0);
    assert.equal(nic.packets.active, 0);
    await pci.close();
    await closeAll(machine);
  });

  void it('frees its memory when the function is closed first', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    await a.pci.close();
    assert.equal(a.nic.packets.active, 0);
    assert.ok(throwsCode('ERR_DMAPOOL_E1000_CLOSED', () => a.nic.receive([], 1)) instanceof E1000Error);
    await a.nic.close();
    await closeAll(machine, a, b);
  });

  void it('fails with a typed error when the device is removed in use, and loses nothing', async (t) => {
    const { machine, a, b } = await openPair(t, { receiveDescriptors: 64, transmitDescriptors: 64 });
    await Promise.all([warmUp(a.nic, b.nic), warmUp(b.nic, a.nic)]);
    const mine = packetOf(a.nic, frame(60, 1));
    const stop = new AbortController();
    const receiving = async (nic: E1000): Promise<void> => {
      const batch: Packet[] = [];
      while (!stop.signal.aborted) {
        nic.packets.freeBatch(batch, 0, nic.receive(batch, 8));
        await turn();
      }
    };
    const again = async (action: () => Promise<unknown>): Promise<never> => {
      for (;;) {
        await action();
        await turn();
      }
    };
    const others = [receiving(b.nic), generate(b.nic, { signal: stop.signal })];
    const failing = [
      receiving(a.nic),
      generate(a.nic),
      again(() => a.nic.statistics()),
      again(() => a.nic.drain()),
      again(() => a.nic.waitForPackets()),
    ].map((work) => assert.rejects(work, PciGoneError));
    await new Promise((resolve) => setTimeout(resolve, 50));
    await machine.unplug('nic0');
    await Promise.all(failing);
    assert.throws(() => a.nic.transmit([mine]), PciGoneError);
    assert.throws(() => a.nic.receive([], 1), PciGoneError);
    await assert.rejects(a.nic.waitForPackets(), PciGoneError);
    await assert.rejects(a.nic.link(), PciGoneError);
    assert.ok(a.nic.packets.active > 64, 'the rings are unchanged');
    a.nic.packets.free(mine);
    stop.abort();
    await Promise.all(others);
    await closeAll(machine, a, b);
    await rejectsCode('ERR_DMAPOOL_PCI_GONE', E1000.open(a.pci));
  });

  void it('fails with a typed error when the machine dies', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    const wait = a.nic.waitForPackets({ timeout: 10_000 });
    process.kill(machine.pid, 'SIGKILL');
    await assert.rejects(wait, (error) => error instanceof QemuError && error.code === 'ERR_DMAPOOL_QEMU_DIED');
    assert.throws(() => b.nic.transmit([]), QemuError);
    await closeAll(machine, a, b);
  });
});
