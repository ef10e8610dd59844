/** The driver of the 82540EM on QEMU: transmit and receive. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { dmaBitMask } from 'dmapool';
import type { E1000Options, Packet } from 'dmapool/drivers/e1000';
import { withoutQemu } from '../../qemu/qemu.ts';
import { closeAll, frame, machineWithCards, openCard, openPair, packetOf, receiveCopies, warmUp } from './fixture.ts';

const RCTL = 0x100;

/** Rings of the minimum size, and a few more buffers. */
const SMALL: E1000Options = { receiveDescriptors: 8, transmitDescriptors: 8, buffers: 20 };

void describe('e1000: packets', { skip: withoutQemu, timeout: 60_000 }, () => {
  void it('pads short packets with zeros, not with old bytes of the buffer', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    const short = packetOf(a.nic, frame(60, 0xaa));
    short.length = 14;
    a.nic.transmit([short]);
    const [received] = await receiveCopies(b.nic, 1);
    assert.deepEqual(received, new Uint8Array([...frame(14, 0xaa), ...new Uint8Array(46)]));
    await closeAll(machine, a, b);
  });

  void it('receives packets to its own address and broadcasts, and all others only when promiscuous', async (t) => {
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

  void it('uses addresses above 4 GiB when its mask allows', async (t) => {
    const machine = await machineWithCards(t, 2, { memory: 64 * 2 ** 20, highMemory: 32 * 2 ** 20 });
    const [a, b] = await Promise.all([0, 1].map((i) => openCard(machine, i, SMALL, { dmaMask: dmaBitMask(64) })));
    await Promise.all([warmUp(a!.nic, b!.nic), warmUp(b!.nic, a!.nic)]);
    const packet = packetOf(a!.nic, frame(1514, 7));
    assert.ok(packet.dma >= 2 ** 32);
    a!.nic.transmit([packet]);
    assert.deepEqual(await receiveCopies(b!.nic, 1), [frame(1514, 7)]);
    await closeAll(machine, a!, b!);
  });

  void it('counts sent, received and missed packets', async (t) => {
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
    assert.deepEqual(
      await b.nic.statistics(),
      receiver,
      'reading the statistics does not change them, although it clears the registers',
    );
    // The ring has room for 7. 7 more packets find room once those were taken; QEMU drops the rest of its queue.
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

  void it('drops packets that span several buffers, and keeps its buffers', async (t) => {
    const { machine, a, b } = await openPair(t, { ...SMALL, receiveDescriptors: 64, buffers: 80 });
    await warmUp(a.nic, b.nic);
    // Sets buffers of 256 bytes without the driver's knowledge.
    const rctl = await b.pci.bar(0).read32(RCTL);
    b.pci.bar(0).write32(RCTL, rctl | (3 << 16));
    await warmUp(a.nic, b.nic);
    a.nic.transmit([60, 1000, 256, 257, 100].map((length) => packetOf(a.nic, frame(length, length & 0xff))));
    const received = await receiveCopies(b.nic, 3);
    assert.deepEqual(received, [frame(60, 60), frame(256, 0), frame(100, 100)]);
    assert.equal((await b.nic.statistics()).dropped, 2);
    await closeAll(machine, a, b);
  });

  void it('checks the descriptors that the card writes', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    // The ring of 8 after one packet: the next descriptor is number 1.
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
    assert.equal((await b.nic.statistics()).dropped, 7, 'the last two write-backs count as one');
    assert.equal(b.nic.packets.active, 8);
    await closeAll(machine, a, b);
  });

  void it('leaves packets in the ring while no buffer is free', async (t) => {
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
    assert.equal(b.nic.receive(batch, 8), 0, 'all buffers are allocated');
    assert.equal((await b.nic.statistics()).starved, 2);
    b.nic.packets.free(batch[0]!);
    b.nic.packets.freeBatch(held, 0, 11);
    assert.deepEqual(await receiveCopies(b.nic, 3), frames.slice(1));
    await closeAll(machine, a, b);
  });

  void it('refills the ring from transmitted packets', async (t) => {
    const machine = await machineWithCards(t);
    const a = await openCard(machine, 0, SMALL);
    const b = await openCard(machine, 1, { ...SMALL, buffers: 9 });
    await warmUp(a.nic, b.nic);
    for (let i = 0; i < 3; i++) {
      a.nic.transmit([packetOf(a.nic, frame(60, i))]);
      await a.nic.drain();
      const batch: Packet[] = [];
      assert.equal(await b.nic.waitForPackets(), true);
      // The one buffer outside the ring: once it is allocated, no buffer is free.
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
    assert.ok((await waits(0)) < 10, 'no packet, and a time-out of 0');
    a.nic.transmit([packetOf(a.nic, frame(60, 1))]);
    assert.equal(await b.nic.waitForPackets(), true);
    assert.ok((await waits(1000)) < 10, 'an arrived packet that is not taken');
    assert.equal((await receiveCopies(b.nic, 1)).length, 1);
    await closeAll(machine, a, b);
  });

  void it('waits for packets by interrupt, until a time-out, or until a signal', async (t) => {
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
});
