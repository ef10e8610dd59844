/** The driver of the 82540EM on QEMU: opening, options, arguments. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { DmaArgumentError } from 'dmapool';
import { DmaBlockError, type DmaPool } from 'dmapool';
import { E1000, E1000Error, type E1000Options, type Packet } from 'dmapool/drivers/e1000';
import { PciError } from 'dmapool/pci';
import { rejectsAs, rejectsCode, throwsCode } from '../../support/errors.ts';
import { startMachine, withoutQemu } from '../../qemu/qemu.ts';
import {
  closeAll,
  frame,
  machineWithCards,
  macOf,
  openCard,
  openPair,
  packetOf,
  receiveCopies,
  warmUp,
} from './fixture.ts';

const RCTL = 0x100;
const TCTL = 0x400;

/** Rings of the minimum size, and a few more buffers. */
const SMALL: E1000Options = { receiveDescriptors: 8, transmitDescriptors: 8, buffers: 20 };

void describe('e1000: opening and arguments', { skip: withoutQemu, timeout: 60_000 }, () => {
  void it('reads its address and its link, and leaves no state behind when it closes', async (t) => {
    const machine = await machineWithCards(t);
    const card = await openCard(machine, 1);
    assert.equal(card.nic.macAddress, macOf(1));
    assert.deepEqual([...card.nic.mac], [0x52, 0x54, 0, 0, 0, 1]);
    assert.deepEqual(await card.nic.link(), { up: true, speed: 1000, fullDuplex: true });
    assert.equal(await card.nic.waitForLink(), true);
    assert.equal(card.nic.device.readAttribute('pools'), 'poolinfo - 0.1\ne1000 packets     512  512 2048 256\n');
    assert.equal(await card.pci.isBusMaster(), true);
    await card.nic.close();
    await card.nic.close();
    assert.equal(await card.pci.isBusMaster(), false);
    // Receiver and transmitter are disabled: the next driver's bus mastering does not let the card write.
    assert.equal(((await card.pci.bar(0).read32(RCTL)) | (await card.pci.bar(0).read32(TCTL))) & 2, 0);
    // The same function again.
    const again = await E1000.open(card.pci, SMALL);
    assert.equal(again.packets.active, 8);
    await again.close();
    await closeAll(machine, card);
  });

  void it('detects that the link goes down and comes back', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await machine.qmp('set_link', { name: 'nic0', up: false });
    assert.equal((await a.nic.link()).up, false);
    assert.equal(await a.nic.waitForLink({ timeout: 20 }), false);
    const up = a.nic.waitForLink({ timeout: 5000 });
    await machine.qmp('set_link', { name: 'nic0', up: true });
    assert.equal(await up, true);
    await assert.rejects(a.nic.waitForLink({ signal: AbortSignal.abort(new Error('enough')) }), /enough/);
    await closeAll(machine, a, b);
  });

  void it('opens only an 82540EM, and only one without a driver', async (t) => {
    const machine = await startMachine(t, { devices: ['edu,id=edu0', 'e1000,id=nic0', 'e1000-82545em,id=other'] });
    for (const id of ['edu0', 'other']) {
      const pci = await machine.open(id);
      await rejectsAs(E1000Error, 'ERR_DMAPOOL_E1000_UNSUPPORTED', E1000.open(pci));
      await pci.close();
    }
    const { nic, pci } = await openCard(machine, 0);
    const error = await rejectsCode('ERR_DMAPOOL_PCI_BUSY', E1000.open(pci));
    assert.ok(error instanceof PciError);
    assert.equal((await nic.link()).up, true, 'the first driver works on');
    await nic.close();
    await pci.close();
    await rejectsCode('ERR_DMAPOOL_PCI_CLOSED', E1000.open(pci));
  });

  void it('refuses an EEPROM without an address', async (t) => {
    const machine = await startMachine(t, {
      devices: ['e1000,id=nic0,mac=00:00:00:00:00:00', 'e1000,id=nic1,mac=01:02:03:04:05:06'],
    });
    // QEMU assigns an address to the first card.
    const first = await openCard(machine, 0, SMALL);
    await closeAll(machine, first);
    const pci = await machine.open('nic1');
    await rejectsAs(E1000Error, 'ERR_DMAPOOL_E1000_EEPROM', E1000.open(pci));
    await pci.close();
    await closeAll(machine);
  });

  void it('reports wrong options', async (t) => {
    const machine = await machineWithCards(t, 1);
    const pci = await machine.open('nic0');
    for (const [argument, options] of [
      ['receiveDescriptors', { receiveDescriptors: 12 }],
      ['receiveDescriptors', { receiveDescriptors: 0 }],
      ['receiveDescriptors', { receiveDescriptors: 4104 }],
      ['transmitDescriptors', { transmitDescriptors: NaN }],
      ['transmitDescriptors', { transmitDescriptors: '8' }],
      ['buffers', { receiveDescriptors: 8, buffers: 8 }],
      ['buffers', { buffers: 2 ** 20 + 1 }],
      ['promiscuous', { promiscuous: 1 }],
      ['options', null],
    ] as const) {
      const opening = E1000.open(pci, options as E1000Options);
      const error = (await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', opening)) as DmaArgumentError;
      assert.equal(error.argument, argument);
    }
    await pci.close();
    await closeAll(machine);
  });

  void it('reports wrong arguments and packets, and works on', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    const { nic } = a;
    await warmUp(nic, b.nic);
    const [one, two] = [packetOf(nic, frame(60, 1)), packetOf(nic, frame(61, 2))];
    const foreign = packetOf(b.nic, frame(60, 3));
    const invalid = 'ERR_DMAPOOL_INVALID_ARGUMENT';
    for (const length of [13, 1519, -1, NaN, 60.5]) {
      two.length = length;
      throwsCode(invalid, () => nic.transmit([one, two]));
    }
    two.length = 61;
    throwsCode('ERR_DMAPOOL_WRONG_POOL', () => nic.transmit([one, foreign]));
    throwsCode('ERR_DMAPOOL_NOT_OWNER', () => nic.transmit([one, two, one]));
    throwsCode(invalid, () => nic.transmit([one, null as unknown as Packet]));
    throwsCode(invalid, () => nic.transmit([one, Object.create(one) as Packet]));
    throwsCode(invalid, () => nic.transmit(one as unknown as Packet[]));
    for (const nothing of [undefined, null]) {
      throwsCode(invalid, () => nic.transmit(nothing as unknown as Packet[]));
      throwsCode(invalid, () => {
        nic.packets.freeBatch(nothing as unknown as Packet[]);
      });
    }
    throwsCode(invalid, () => {
      nic.packets.freeBatch([one], 0, 2);
    });
    throwsCode(invalid, () => nic.transmit([one], 0, 2));
    throwsCode(invalid, () => nic.transmit([one], 2));
    throwsCode(invalid, () => nic.transmit([one], -1));
    throwsCode(invalid, () => nic.receive([], -1));
    throwsCode(invalid, () => nic.receive(one as unknown as Packet[], 1));
    throwsCode(invalid, () => {
      nic.setPromiscuous(1 as unknown as boolean);
    });
    throwsCode(invalid, () => {
      nic.packets.free(undefined as unknown as Packet);
    });
    throwsCode('ERR_DMAPOOL_WRONG_POOL', () => {
      nic.packets.free(foreign);
    });
    throwsCode(invalid, () => {
      nic.packets.allocBatch([], -1);
    });
    await rejectsCode(invalid, nic.waitForPackets({ timeout: -1 }));
    await rejectsCode(invalid, nic.drain({ signal: 1 as unknown as AbortSignal }));
    assert.equal(nic.transmitting, 0);
    // No packet of the array was taken, and all are still valid.
    assert.equal(nic.transmit([one, two]), 2);
    // The packet is owned by the card, or already sent.
    assert.throws(() => nic.transmit([one]), DmaBlockError);
    const received = await receiveCopies(b.nic, 2);
    assert.deepEqual(received, [frame(60, 1), frame(61, 2)]);
    await nic.drain();
    assert.throws(
      () => {
        nic.packets.free(one);
      },
      (error) => error instanceof DmaBlockError && error.code === 'ERR_DMAPOOL_NOT_ALLOCATED',
    );
    // All buffers get allocated, and are freed.
    const all: Packet[] = [];
    throwsCode('ERR_DMAPOOL_LIMIT', () => {
      nic.packets.allocBatch(all, 13);
    });
    assert.equal(nic.packets.active, 8);
    nic.packets.allocBatch(all, 12);
    assert.equal(nic.packets.tryAlloc(), null);
    throwsCode('ERR_DMAPOOL_LIMIT', () => nic.packets.alloc());
    nic.packets.freeBatch(all, 0, 12);
    b.nic.packets.free(foreign);
    await closeAll(machine, a, b);
  });
});

/** Never called: uses that must not compile. */
export function mistakes(nic: E1000, pool: DmaPool<'e1000 packets'>, packet: Packet): void {
  // @ts-expect-error A block is no packet.
  nic.transmit([pool.alloc()]);
  // @ts-expect-error A packet is no block.
  pool.free(packet);
  // @ts-expect-error Packets come from the pool.
  nic.packets.free({ index: 0, dma: 0, bytes: packet.bytes, words: packet.words, length: 60 });
  // @ts-expect-error Users cannot replace the buffer of a packet.
  packet.dma = 0;
  // @ts-expect-error Cards are created by open().
  new E1000(nic);
}
