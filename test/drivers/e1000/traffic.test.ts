/** Two cards on one hub send at once: every packet arrives unchanged, or its loss is detected. */
import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import type { E1000, Packet } from 'dmapool/drivers/e1000';
import { withoutQemu } from '../../qemu/qemu.ts';
import { Random } from '../../support/random.ts';
import { closeAll, openPair, warmUp } from './fixture.ts';
import { setImmediate as turn } from 'node:timers/promises';

const HEADER = 20;
const LEAST = 60;
const MOST = 1514;

/** Random bytes that the packets are cut from; the offset depends on the number of the packet. */
const NOISE = new Random(1).bytes(1 << 16);

/** Size and offset in the noise of packet `n` of a direction. Not the generator that the driver uses. */
function shapeOf(direction: number, n: number): { length: number; from: number } {
  const random = (Math.imul(n ^ 0x5bd1_e995, 0x2c1b_3c6d) ^ Math.imul(direction + 1, 0x297a_2d39)) >>> 0;
  return { length: LEAST + (random % (MOST - LEAST + 1)), from: (random >>> 11) % (NOISE.length - MOST) };
}

function write(packet: Packet, direction: number, n: number): void {
  const { length, from } = shapeOf(direction, n);
  const { bytes } = packet;
  bytes.fill(0xff, 0, 12);
  bytes[12] = 0x88;
  bytes[13] = 0xb6;
  bytes[14] = direction;
  bytes[15] = 0;
  packet.words[4] = n;
  bytes.set(NOISE.subarray(from, from + length - HEADER), HEADER);
  packet.length = length;
}

/** True if each byte of a packet is unchanged. */
function isWhole(packet: Packet, direction: number, n: number): boolean {
  const { length, from } = shapeOf(direction, n);
  const { bytes, words } = packet;
  if (packet.length !== length || words[4] !== n || bytes[14] !== direction || bytes[0] !== 0xff) return false;
  for (let i = HEADER; i < length; i++) if (bytes[i] !== NOISE[from + i - HEADER]) return false;
  return true;
}

/** One direction of traffic. */
class Direction {
  readonly #from: E1000;
  readonly #to: E1000;
  readonly #number: number;
  readonly #batch: Packet[] = [];
  sent = 0;
  received = 0;
  next = 0;

  constructor(from: E1000, to: E1000, number: number) {
    this.#from = from;
    this.#to = to;
    this.#number = number;
  }

  /** Sends packets up to number `end`, as far as there is room. */
  send(end: number): void {
    const batch: Packet[] = [];
    while (this.sent + batch.length < end && batch.length < 64) {
      const packet = this.#from.packets.tryAlloc();
      if (packet === null) break;
      write(packet, this.#number, this.sent + batch.length);
      batch.push(packet);
    }
    const taken = this.#from.transmit(batch);
    this.#from.packets.freeBatch(batch, taken);
    this.sent += taken;
  }

  /** Takes the received packets. Each must be unchanged and later than the one before; gaps are losses. */
  receive(): number {
    const got = this.#to.receive(this.#batch, 64);
    for (let i = 0; i < got; i++) {
      const packet = this.#batch[i]!;
      const n = packet.words[4]!;
      assert.ok(n >= this.next && n < this.sent, `packet ${String(n)} after ${String(this.next - 1)}`);
      assert.ok(isWhole(packet, this.#number, n), `packet ${String(n)} was changed`);
      this.next = n + 1;
    }
    this.received += got;
    this.#to.packets.freeBatch(this.#batch, 0, got);
    return got;
  }
}

async function paced(t: TestContext, count: number, window: number, ring: number): Promise<void> {
  const { machine, a, b } = await openPair(t, { receiveDescriptors: ring, transmitDescriptors: ring });
  await Promise.all([warmUp(a.nic, b.nic), warmUp(b.nic, a.nic)]);
  const directions = [new Direction(a.nic, b.nic, 0), new Direction(b.nic, a.nic, 1)];
  const begin = performance.now();
  let last = performance.now();
  while (directions.some(({ received }) => received < count)) {
    let moved = 0;
    for (const direction of directions) {
      direction.send(Math.min(count, direction.received + window));
      moved += direction.receive();
    }
    if (moved > 0) last = performance.now();
    assert.ok(performance.now() - last < 10_000, 'no more packets arrive');
    await turn();
  }
  const seconds = (performance.now() - begin) / 1000;
  t.diagnostic(`${String(2 * count)} packets in ${seconds.toFixed(1)} s`);
  await Promise.all([a.nic.drain(), b.nic.drain()]);
  for (const [i, { nic }] of [a, b].entries()) {
    const { sent, received, dropped, failed, missedPackets, noBuffers, ...counted } = await nic.statistics();
    assert.deepEqual(
      { sent, received, dropped, failed },
      { sent: count + 1, received: count + 1, dropped: 0, failed: 0 },
    );
    assert.deepEqual({ missedPackets, noBuffers }, { missedPackets: 0, noBuffers: 0 });
    assert.equal(counted.goodPacketsReceived, count + 1);
    assert.equal(counted.goodPacketsTransmitted, count + 1);
    let bytes = LEAST;
    for (let n = 0; n < count; n++) bytes += shapeOf(i, n).length;
    assert.equal(counted.sentBytes, bytes);
  }
  await closeAll(machine, a, b);
}

test(
  '200,000 packets of random sizes in both directions, paced by the receiver, arrive unchanged',
  {
    skip: withoutQemu,
    timeout: 120_000,
  },
  async (t) => {
    await paced(t, 200_000, 400, 512);
  },
);

for (const [ring, window, count] of [
  [8, 6, 3000],
  [16, 11, 3000],
  [4096, 4000, 30_000],
] as const) {
  test(
    `rings of ${String(ring)} descriptors, filled to the limit`,
    { skip: withoutQemu, timeout: 60_000 },
    async (t) => {
      await paced(t, count, window, ring);
    },
  );
}

test(
  'without pacing, sequence numbers reveal losses, and every buffer is freed',
  {
    skip: withoutQemu,
    timeout: 60_000,
  },
  async (t) => {
    const { machine, a, b } = await openPair(t, { receiveDescriptors: 256, transmitDescriptors: 256 });
    await warmUp(a.nic, b.nic);
    const direction = new Direction(a.nic, b.nic, 0);
    const count = 20_000;
    while (direction.sent < count) {
      direction.send(count);
      await turn();
    }
    await a.nic.drain();
    // QEMU may still have packets in its queue.
    for (let last = performance.now(); performance.now() - last < 500;) {
      if (direction.receive() > 0) last = performance.now();
      await turn();
    }
    const lost = count - direction.received;
    const { missedPackets, noBuffers, starved } = await b.nic.statistics();
    t.diagnostic(`${String(lost)} of ${String(count)} lost; MPC ${String(missedPackets)}, RNBC ${String(noBuffers)}`);
    assert.ok(lost > 0 && direction.received >= 255);
    // QEMU counts the packets that it drops at the ring, but not those that overflow its own queue.
    assert.ok(missedPackets > 0 && missedPackets <= lost, `MPC is ${String(missedPackets)}`);
    assert.ok(noBuffers > 0 && noBuffers <= lost, `RNBC is ${String(noBuffers)}`);
    assert.equal(starved, 0);
    // The receiver still works.
    direction.next = direction.sent;
    direction.send(count + 50);
    const end = performance.now() + 5000;
    while (direction.next < count + 50 && performance.now() < end) {
      direction.receive();
      await turn();
    }
    assert.equal(direction.next, count + 50);
    await closeAll(machine, a, b);
  },
);
