/** The driver of the 82540EM, on QEMU's model of it. */
import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import fc from 'fast-check';
import type { DmaArgumentError } from 'dmapool';
import { DMA_BIT_MASK, DmaBlockError, type DmaPool } from 'dmapool';
import {
  E1000,
  E1000Error,
  type E1000ErrorCode,
  type E1000Options,
  generate,
  type Packet,
} from 'dmapool/drivers/e1000';
import { PciError, PciGoneError } from 'dmapool/pci';
import { QemuError } from 'dmapool/qemu';
import { rejectsCode, throwsCode } from '../../support/errors.ts';
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
import { setImmediate as turn } from 'node:timers/promises';

const RCTL = 0x100;
const TCTL = 0x400;

function isOurs(code: E1000ErrorCode): (error: unknown) => boolean {
  return (error) => error instanceof E1000Error && error.code === code;
}

/** Rings of the least size, and a few buffers more. */
const SMALL: E1000Options = { receiveDescriptors: 8, transmitDescriptors: 8, buffers: 20 };

void describe('e1000', { skip: withoutQemu, timeout: 60_000 }, () => {
  void it('reads its address and its link, and closes without a trace', async (t) => {
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
    // Neither half is enabled any more: not even the next driver's bus mastering lets it write.
    assert.equal(((await card.pci.bar(0).read32(RCTL)) | (await card.pci.bar(0).read32(TCTL))) & 2, 0);
    // The same function again.
    const again = await E1000.open(card.pci, SMALL);
    assert.equal(again.packets.active, 8);
    await again.close();
    await closeAll(machine, card);
  });

  void it('sees the link go down and come back', async (t) => {
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

  void it('takes only an 82540EM, and one that no driver has', async (t) => {
    const machine = await startMachine(t, { devices: ['edu,id=edu0', 'e1000,id=nic0', 'e1000-82545em,id=other'] });
    for (const id of ['edu0', 'other']) {
      const pci = await machine.open(id);
      await assert.rejects(E1000.open(pci), isOurs('ERR_E1000_UNSUPPORTED'));
      await pci.close();
    }
    const { nic, pci } = await openCard(machine, 0);
    const error = await rejectsCode('ERR_DMAPOOL_PCI_BUSY', E1000.open(pci));
    assert.ok(error instanceof PciError);
    assert.equal((await nic.link()).up, true, 'the first one goes on');
    await nic.close();
    await pci.close();
    await rejectsCode('ERR_DMAPOOL_PCI_CLOSED', E1000.open(pci));
  });

  void it('finds an EEPROM without an address', async (t) => {
    const machine = await startMachine(t, {
      devices: ['e1000,id=nic0,mac=00:00:00:00:00:00', 'e1000,id=nic1,mac=01:02:03:04:05:06'],
    });
    // QEMU gives the first one an address of its own.
    const first = await openCard(machine, 0, SMALL);
    await closeAll(machine, first);
    const pci = await machine.open('nic1');
    await assert.rejects(E1000.open(pci), isOurs('ERR_E1000_EEPROM'));
    await pci.close();
    await closeAll(machine);
  });

  void it('says what is wrong with options', async (t) => {
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

  void it('says what is wrong with arguments and packets, and goes on', async (t) => {
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
    // None of it was taken, and all of it is good still.
    assert.equal(nic.transmit([one, two]), 2);
    // It is the card's, or out already.
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
    // Buffers run out, and come back.
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

  void it('fills short packets up with zeros, not with what was in the buffer', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    const short = packetOf(a.nic, frame(60, 0xaa));
    short.length = 14;
    a.nic.transmit([short]);
    const [received] = await receiveCopies(b.nic, 1);
    assert.deepEqual(received, new Uint8Array([...frame(14, 0xaa), ...new Uint8Array(46)]));
    await closeAll(machine, a, b);
  });

  void it('receives what is for itself and for everybody; all else only when promiscuous', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    const other = Uint8Array.of(0x52, 0x54, 0, 9, 9, 9);
    const multicast = Uint8Array.of(1, 0, 0x5e, 0, 0, 1);
    const send = (...frames: Uint8Array[]): void => {
      assert.equal(a.nic.transmit(frames.map((bytes) => packetOf(a.nic, bytes))), frames.length);
    };
    send(frame(60, 1, other), frame(60, 2, b.nic.mac), frame(60, 3, multicast), frame(60, 4));
    assert.deepEqual(await receiveCopies(b.nic, 2), [frame(60, 2, b.nic.mac), frame(60, 4)]);
    b.nic.setPromiscuous(true);
    await warmUp(a.nic, b.nic);
    send(frame(60, 5, other), frame(60, 6, multicast));
    assert.deepEqual(await receiveCopies(b.nic, 2), [frame(60, 5, other), frame(60, 6, multicast)]);
    b.nic.setPromiscuous(false);
    await warmUp(a.nic, b.nic);
    send(frame(60, 7, other), frame(60, 8));
    assert.deepEqual(await receiveCopies(b.nic, 1), [frame(60, 8)]);
    await closeAll(machine, a, b);
  });

  void it('uses addresses above 4 GiB when it may', async (t) => {
    const machine = await machineWithCards(t, 2, { memory: 64 * 2 ** 20, highMemory: 32 * 2 ** 20 });
    const [a, b] = await Promise.all([0, 1].map((i) => openCard(machine, i, SMALL, { dmaMask: DMA_BIT_MASK(64) })));
    await Promise.all([warmUp(a!.nic, b!.nic), warmUp(b!.nic, a!.nic)]);
    const packet = packetOf(a!.nic, frame(1514, 7));
    assert.ok(packet.dma >= 2 ** 32);
    a!.nic.transmit([packet]);
    assert.deepEqual(await receiveCopies(b!.nic, 1), [frame(1514, 7)]);
    await closeAll(machine, a!, b!);
  });

  void it('counts what it sends and receives, and what it had no room for', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    const lengths = [60, 64, 500, 1514];
    a.nic.transmit(lengths.map((length) => packetOf(a.nic, frame(length, 1))));
    await receiveCopies(b.nic, lengths.length);
    await a.nic.drain();
    const sum = 60 + lengths.reduce((total, length) => total + length, 0);
    const sender = await a.nic.statistics();
    assert.deepEqual([sender.sent, sender.sentBytes, sender.goodPacketsTransmitted], [5, sum, 5]);
    const receiver = await b.nic.statistics();
    assert.deepEqual([receiver.received, receiver.receivedBytes], [5, sum]);
    assert.deepEqual([receiver.goodPacketsReceived, receiver.broadcastPacketsReceived], [5, 5]);
    assert.equal(receiver.goodBytesReceived, sum + 5 * 4, 'with their checksums');
    assert.deepEqual(await b.nic.statistics(), receiver, 'reading changes nothing, although it clears the registers');
    // The ring has room for 7. Of the rest, 7 find room once those were taken; what QEMU had kept beyond is dropped.
    for (let sent = 0; sent < 21; sent += 7) {
      a.nic.transmit(Array.from({ length: 7 }, () => packetOf(a.nic, frame(60, 2))));
      await a.nic.drain();
    }
    const came = (await receiveCopies(b.nic, 21, 200)).length;
    const { missedPackets, noBuffers } = await b.nic.statistics();
    assert.ok(came >= 7 && came < 21, `${String(came)} came`);
    assert.deepEqual([missedPackets, noBuffers], [21 - came, 21 - came]);
    assert.deepEqual((await b.nic.statistics()).missedPackets, missedPackets);
    await closeAll(machine, a, b);
  });

  void it('drops packets that took several buffers, and keeps its buffers', async (t) => {
    const { machine, a, b } = await openPair(t, { ...SMALL, receiveDescriptors: 64, buffers: 80 });
    await warmUp(a.nic, b.nic);
    // Behind the driver's back: buffers of 256 bytes.
    const rctl = await b.pci.bar(0).read32(RCTL);
    b.pci.bar(0).write32(RCTL, rctl | (3 << 16));
    await warmUp(a.nic, b.nic);
    a.nic.transmit([60, 1000, 256, 257, 100].map((length) => packetOf(a.nic, frame(length, length & 0xff))));
    const received = await receiveCopies(b.nic, 3);
    assert.deepEqual(received, [frame(60, 60), frame(256, 0), frame(100, 100)]);
    assert.equal((await b.nic.statistics()).dropped, 2);
    await closeAll(machine, a, b);
  });

  void it('does not believe what the card says', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    // What the ring of 8 looks like after one packet: the next descriptor is number 1.
    const ring = await b.pci.bar(0).read32(0x2800);
    const lies: readonly (readonly [number, number, number])[] = [
      [0xffff, 0x03, 0],
      [1519, 0x03, 0],
      [0, 0x03, 0],
      [13, 0x03, 0],
      [100, 0x03, 0x01],
      [100, 0x03, 0x80],
      [2048, 0x01, 0],
      [100, 0x03, 0],
    ];
    for (const [i, [length, status, errors]] of lies.entries()) {
      const written = Uint8Array.of(length & 0xff, length >> 8, 0, 0, status, errors, 0, 0);
      await machine.writeMemory(ring + 16 * ((1 + i) % 8) + 8, written);
    }
    const batch: Packet[] = [];
    assert.equal(b.nic.receive(batch, 100), 0);
    assert.equal((await b.nic.statistics()).dropped, 7, 'the last two are one');
    assert.equal(b.nic.packets.active, 8);
    await closeAll(machine, a, b);
  });

  void it('leaves packets in the ring while there is no fresh buffer', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    const held: Packet[] = [];
    b.nic.packets.allocBatch(held, 11);
    const frames = [1, 2, 3, 4].map((i) => frame(60, i));
    a.nic.transmit(frames.map((bytes) => packetOf(a.nic, bytes)));
    await a.nic.drain();
    const batch: Packet[] = [];
    assert.equal(await b.nic.waitForPackets(), true);
    assert.equal(b.nic.receive(batch, 8), 1);
    assert.equal(b.nic.receive(batch, 8), 0, 'all buffers are out');
    assert.equal((await b.nic.statistics()).starved, 2);
    b.nic.packets.free(batch[0]!);
    b.nic.packets.freeBatch(held, 0, 11);
    assert.deepEqual(await receiveCopies(b.nic, 3), frames.slice(1));
    await closeAll(machine, a, b);
  });

  void it('finds fresh buffers among the packets that are out', async (t) => {
    const machine = await machineWithCards(t);
    const a = await openCard(machine, 0, SMALL);
    const b = await openCard(machine, 1, { ...SMALL, buffers: 9 });
    await warmUp(a.nic, b.nic);
    for (let i = 0; i < 3; i++) {
      a.nic.transmit([packetOf(a.nic, frame(60, i))]);
      await a.nic.drain();
      const batch: Packet[] = [];
      assert.equal(await b.nic.waitForPackets(), true);
      // The one buffer that is not in the ring; nobody looks for it once it is out.
      assert.equal(b.nic.receive(batch, 1), 1);
      assert.equal(b.nic.transmit(batch), 1);
    }
    assert.equal((await b.nic.statistics()).starved, 0);
    await closeAll(machine, a, b);
  });

  void it('lets the event loop turn in each wait for packets', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    const waits = async (timeout: number): Promise<number> => {
      let turned = false;
      setImmediate(() => {
        turned = true;
      });
      let calls = 0;
      for (; !turned && calls < 1000; calls++) await b.nic.waitForPackets({ timeout });
      return calls;
    };
    assert.ok((await waits(0)) < 10, 'there is nothing, and no time to wait for it');
    a.nic.transmit([packetOf(a.nic, frame(60, 1))]);
    assert.equal(await b.nic.waitForPackets(), true);
    assert.ok((await waits(1000)) < 10, 'there is a packet that nobody takes');
    assert.equal((await receiveCopies(b.nic, 1)).length, 1);
    await closeAll(machine, a, b);
  });

  void it('waits for packets by interrupt, for a time, or until a signal', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    assert.equal(await b.nic.waitForPackets({ timeout: 0 }), false);
    assert.equal(await b.nic.waitForPackets({ timeout: 20 }), false);
    const stop = new AbortController();
    const stopped = b.nic.waitForPackets({ signal: stop.signal });
    stop.abort(new Error('enough'));
    await assert.rejects(stopped, /enough/);
    await warmUp(a.nic, b.nic);
    for (let i = 0; i < 200; i++) {
      const wait = b.nic.waitForPackets({ timeout: 5000 });
      if (i % 2 === 0) await new Promise((resolve) => setTimeout(resolve, i % 5));
      a.nic.transmit([packetOf(a.nic, frame(60, i))]);
      assert.equal(await wait, true);
      assert.deepEqual(await receiveCopies(b.nic, 1), [frame(60, i)]);
    }
    await closeAll(machine, a, b);
  });

  void it('reports a transmitter that hangs, and takes its buffers back', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    a.pci.bar(0).write32(TCTL, 0);
    const packets: Packet[] = [];
    a.nic.packets.allocBatch(packets, 10);
    for (const packet of packets) packet.length = 60;
    assert.equal(a.nic.transmit(packets), 7, 'the ring has room for one less than it has descriptors');
    assert.equal(a.nic.transmit(packets, 7), 0);
    a.nic.packets.freeBatch(packets, 7);
    await assert.rejects(
      a.nic.drain({ timeout: 30 }),
      (error) => isOurs('ERR_E1000_TIMEOUT')(error) && String(error).includes('head is at 1, its tail at 0'),
    );
    assert.equal(a.nic.transmitting, 7);
    await closeAll(machine, a, b);
  });

  void it('fails everything that waits when it is closed, and takes late packets back', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    a.pci.bar(0).write32(TCTL, 0);
    a.nic.transmit([packetOf(a.nic, frame(60, 1))]);
    const mine = a.nic.packets.alloc();
    const waits = [a.nic.waitForPackets({ timeout: 10_000 }), a.nic.drain({ timeout: 10_000 }), a.nic.waitForPackets()];
    const rejected = Promise.all(waits.map((wait) => assert.rejects(wait, isOurs('ERR_E1000_CLOSED'))));
    await a.nic.close();
    await rejected;
    for (const action of [() => a.nic.receive([], 1), () => a.nic.transmit([mine]), () => a.nic.transmitting]) {
      assert.throws(action, isOurs('ERR_E1000_CLOSED'));
    }
    await assert.rejects(a.nic.statistics(), isOurs('ERR_E1000_CLOSED'));
    await assert.rejects(a.nic.link(), isOurs('ERR_E1000_CLOSED'));
    assert.throws(() => a.nic.packets.alloc(), /destroyed/);
    assert.equal(a.nic.packets.active, 1);
    a.nic.packets.free(mine);
    assert.match(a.log.text, /^error \S+: e1000 packets busy: 1 block is still out/);
    a.log.lines.length = 0;
    await closeAll(machine, a, b);
  });

  void it('stops the card before it gives memory back, also when its interrupts fail to close', async (t) => {
    const machine = await machineWithCards(t, 1);
    const pci = await machine.open('nic0');
    const open = pci.interrupts.bind(pci);
    pci.interrupts = async (options) => {
      const interrupts = await open(options);
      const close = interrupts.close.bind(interrupts);
      interrupts.close = async () => {
        await close();
        throw new Error('the home broke');
      };
      return interrupts;
    };
    const nic = await E1000.open(pci, SMALL);
    await assert.rejects(nic.close(), /the home broke/);
    assert.equal(await pci.isBusMaster(), false);
    assert.equal(((await pci.bar(0).read32(RCTL)) | (await pci.bar(0).read32(TCTL))) & 2, 0);
    assert.equal(nic.packets.active, 0);
    await pci.close();
    await closeAll(machine);
  });

  void it('gives its memory back when the function is closed first', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    await a.pci.close();
    assert.equal(a.nic.packets.active, 0);
    assert.throws(() => a.nic.receive([], 1), isOurs('ERR_E1000_CLOSED'));
    await a.nic.close();
    await closeAll(machine, a, b);
  });

  void it('fails with a typed error when it is pulled out at work, and loses nothing', async (t) => {
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
    assert.ok(a.nic.packets.active > 64, 'the rings are as they were');
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

  void it('delivers every packet once and in order, whatever its user does (against a model)', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    await randomHistories(t, a.nic, b.nic);
    await closeAll(machine, a, b);
  });
});

/** Never called: mistakes that do not compile. */
export function mistakes(nic: E1000, pool: DmaPool<'e1000 packets'>, packet: Packet): void {
  // @ts-expect-error A block is no packet.
  nic.transmit([pool.alloc()]);
  // @ts-expect-error A packet is no block.
  pool.free(packet);
  // @ts-expect-error Packets come from the pool.
  nic.packets.free({ index: 0, dma: 0, bytes: packet.bytes, words: packet.words, length: 60 });
  // @ts-expect-error Its buffer is not the user's to choose.
  packet.dma = 0;
  // @ts-expect-error Cards are opened.
  new E1000(nic);
}

/** What the user of two cards does next. */
const step = fc.oneof(
  fc.record({
    kind: fc.constant('send' as const),
    lengths: fc.array(fc.integer({ min: 14, max: 1514 }), { maxLength: 10 }),
  }),
  fc.record({ kind: fc.constant('receive' as const), max: fc.integer({ min: 0, max: 9 }) }),
  fc.record({ kind: fc.constant('free' as const), count: fc.integer({ min: 0, max: 9 }) }),
  fc.constant({ kind: 'turn' as const }),
);

/** A queue between the cards is all the model there is: never longer than what the ring of 8 can hold. */
async function randomHistories(t: TestContext, from: E1000, to: E1000): Promise<void> {
  let number = 0;
  let steps = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (history) => {
      const model: Uint8Array[] = [];
      const held: Packet[] = [];
      const take = (max: number): number => {
        const batch: Packet[] = [];
        const got = to.receive(batch, max);
        assert.ok(got <= Math.min(max, model.length));
        for (const packet of batch.slice(0, got)) {
          assert.deepEqual(packet.bytes.slice(0, packet.length), model.shift());
          held.push(packet);
        }
        return got;
      };
      for (const action of history) {
        steps++;
        if (action.kind === 'send') {
          const frames = action.lengths.slice(0, 6 - model.length).map((length) => frame(length, ++number & 0xff));
          const packets: Packet[] = [];
          for (const bytes of frames) {
            const packet = from.packets.tryAlloc();
            if (packet === null) break;
            packet.bytes.set(bytes);
            packet.length = bytes.length;
            packets.push(packet);
          }
          const taken = from.transmit(packets);
          from.packets.freeBatch(packets, taken);
          for (const bytes of frames.slice(0, taken)) {
            const whole = new Uint8Array(Math.max(60, bytes.length));
            whole.set(bytes);
            model.push(whole);
          }
        } else if (action.kind === 'receive') {
          take(action.max);
        } else if (action.kind === 'free') {
          for (const packet of held.splice(0, action.count)) to.packets.free(packet);
        } else {
          await turn();
        }
        assert.equal(to.packets.active, 8 + held.length);
      }
      for (const packet of held.splice(0)) to.packets.free(packet);
      const end = performance.now() + 5000;
      while (model.length > 0) {
        if (take(8) === 0) await turn();
        for (const packet of held.splice(0)) to.packets.free(packet);
        assert.ok(performance.now() < end, `${String(model.length)} packets did not come`);
      }
      await from.drain();
      assert.equal(to.packets.active, 8);
      assert.equal(from.packets.active, 8);
    }),
    { numRuns: 300 },
  );
  t.diagnostic(`${String(steps)} steps`);
}
