/** The generator, the forwarder and the meter of the e1000 examples. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DmaArgumentError } from 'dmapool';
import { type E1000, E1000Error, type Packet } from 'dmapool/drivers/e1000';
import { forward } from '../../examples/e1000/forward.ts';
import { generate } from '../../examples/e1000/generate.ts';
import { TrafficMeter } from '../../examples/e1000/traffic.ts';
import { rejectsCode } from '../support/errors.ts';
import { withoutQemu } from '../qemu/qemu.ts';
import { closeAll, machineWithCards, openCard, openPair, warmUp } from '../drivers/e1000/fixture.ts';
import { setImmediate as turn } from 'node:timers/promises';

/** Measures the packets that a card receives until the meter has `count`, or the signal aborts. */
async function measure(nic: E1000, meter: TrafficMeter, count: number, signal?: AbortSignal): Promise<void> {
  const batch: Packet[] = [];
  while (meter.packets < count && signal?.aborted !== true) {
    const got = nic.receive(batch, 64);
    for (let i = 0; i < got; i++) meter.count(batch[i]!);
    nic.packets.freeBatch(batch, 0, got);
    if (got === 0) await turn();
  }
}

const timedOut = (error: unknown): boolean => error instanceof E1000Error && error.code === 'ERR_DMAPOOL_E1000_TIMEOUT';

test(
  'a packet from one card is sent back by the other one without a copy',
  { skip: withoutQemu, timeout: 60_000 },
  async (t) => {
    const { machine, a, b } = await openPair(t);
    await Promise.all([warmUp(a.nic, b.nic), warmUp(b.nic, a.nic)]);
    const packets = 20_000;
    const meter = new TrafficMeter(3);
    const progress: number[] = [];
    const [sent, forwarded] = await Promise.all([
      generate(a.nic, {
        packets,
        stream: 3,
        destination: b.nic.mac,
        acknowledged: () => meter.packets,
        onProgress: (done) => progress.push(done),
      }),
      forward(b.nic, b.nic, { packets }),
      measure(a.nic, meter, packets),
    ]);
    assert.equal(sent.packets, packets);
    assert.deepEqual(forwarded, sent);
    assert.deepEqual(meter.report(packets), { ...sent, lost: 0, changed: 0, late: 0, repeated: 0 });
    assert.equal(progress.at(-1), packets);
    await closeAll(machine, a, b);
  },
);

test('a forwarder joins two networks, with traffic both ways', { skip: withoutQemu, timeout: 60_000 }, async (t) => {
  const machine = await machineWithCards(t, 4);
  const cards = await Promise.all([0, 1, 2, 3].map((i) => openCard(machine, i, { promiscuous: true })));
  const [left, inner, outer, right] = cards.map(({ nic }) => nic) as [E1000, E1000, E1000, E1000];
  await Promise.all([warmUp(left, inner), warmUp(inner, left), warmUp(right, outer), warmUp(outer, right)]);
  const packets = 10_000;
  const stop = new AbortController();
  const forwarding = Promise.all([
    forward(inner, outer, { signal: stop.signal, destination: right.mac }),
    forward(outer, inner, { signal: stop.signal, destination: left.mac }),
  ]);
  const there = new TrafficMeter(1);
  const back = new TrafficMeter(2);
  const sizes = { minSize: 60, maxSize: 100 };
  const sent = await Promise.all([
    generate(left, { packets, stream: 1, acknowledged: () => there.packets }),
    generate(right, { packets, stream: 2, ...sizes, acknowledged: () => back.packets }),
    measure(right, there, packets),
    measure(left, back, packets),
  ]);
  stop.abort();
  assert.deepEqual(await forwarding, sent.slice(0, 2));
  assert.deepEqual(there.report(packets), { ...sent[0], lost: 0, changed: 0, late: 0, repeated: 0 });
  assert.deepEqual(back.report(packets), { ...sent[1], lost: 0, changed: 0, late: 0, repeated: 0 });
  assert.ok(sent[1].bytes <= 100 * packets);
  await closeAll(machine, ...cards);
});

test(
  'the meter detects lost, changed and late packets, and ignores others',
  { skip: withoutQemu, timeout: 60_000 },
  async (t) => {
    const { machine, a, b } = await openPair(t);
    await warmUp(a.nic, b.nic);
    await generate(a.nic, { packets: 100 });
    const packets: Packet[] = [];
    while (packets.length < 100) {
      const batch: Packet[] = [];
      const got = b.nic.receive(batch, 64);
      packets.push(...batch.slice(0, got));
      await turn();
    }
    for (let at = 12; at < packets[0]!.length; at++) {
      // Each inverted bit behind the addresses is detected.
      const meter = new TrafficMeter();
      packets[0]!.bytes[at]! ^= 1 << (at % 8);
      assert.equal(meter.count(packets[0]!), false, `byte ${String(at)}`);
      packets[0]!.bytes[at]! ^= 1 << (at % 8);
      assert.equal(meter.count(packets[0]!), true);
    }
    packets[0]!.length--;
    assert.equal(new TrafficMeter().count(packets[0]!), false, 'one byte less');
    packets[0]!.length++;
    assert.equal(new TrafficMeter(1).count(packets[0]!), false, 'of another stream');
    const meter = new TrafficMeter();
    for (const n of [0, 1, 4, 3, 3, 9, 7, 1, 5]) meter.count(packets[n]!);
    const { packets: seen, lost, changed, late, repeated } = meter.report(12);
    // 2, 6, 8, 10 and 11 are missing; 3, 7 and 5 are late; 3 and 1 are duplicates.
    assert.deepEqual({ seen, lost, changed, late, repeated }, { seen: 9, lost: 5, changed: 0, late: 3, repeated: 2 });
    b.nic.packets.freeBatch(packets);
    await closeAll(machine, a, b);
  },
);

test(
  'programs without progress end with an error, and an abort ends them',
  {
    skip: withoutQemu,
    timeout: 60_000,
  },
  async (t) => {
    const machine = await machineWithCards(t, 4);
    const small = { receiveDescriptors: 8, transmitDescriptors: 8, buffers: 20 };
    const cards = await Promise.all([0, 1, 2, 3].map((i) => openCard(machine, i, small)));
    const [a, b, c, d] = cards.map(({ nic }) => nic) as [E1000, E1000, E1000, E1000];
    await Promise.all([warmUp(a, b), warmUp(d, c)]);
    // Card c cannot send.
    cards[2]!.pci.bar(0).write32(0x400, 0);
    await generate(d, { packets: 4 });
    const stop = AbortSignal.timeout(300);
    const ends = performance.now();
    await Promise.all([
      assert.rejects(generate(a, { acknowledged: () => 0, window: 5 }), timedOut),
      assert.rejects(generate(c), timedOut),
      generate(d, { signal: stop }),
      forward(b, b, { signal: stop }),
      generate(d, { packets: 0 }).then((report) => {
        assert.deepEqual(report, { packets: 0, bytes: 0 });
      }),
    ]);
    assert.ok(performance.now() - ends > 4500);
    const taken: Packet[] = [];
    for (let packet = c.packets.tryAlloc(); packet !== null; packet = c.packets.tryAlloc()) taken.push(packet);
    await generate(b, { packets: 3 });
    await assert.rejects(forward(a, c), timedOut);
    c.packets.freeBatch(taken);
    await closeAll(machine, ...cards);
  },
);

test(
  'a forwarder with one buffer more than its ring has descriptors sends everything back',
  { skip: withoutQemu, timeout: 60_000 },
  async (t) => {
    const machine = await machineWithCards(t);
    const a = await openCard(machine, 0);
    const b = await openCard(machine, 1, { receiveDescriptors: 64, transmitDescriptors: 64, buffers: 65 });
    await Promise.all([warmUp(a.nic, b.nic), warmUp(b.nic, a.nic)]);
    const packets = 40;
    const meter = new TrafficMeter();
    await Promise.all([
      generate(a.nic, { packets }),
      forward(b.nic, b.nic, { packets }),
      measure(a.nic, meter, packets),
    ]);
    assert.equal(meter.report(packets).lost, 0);
    await closeAll(machine, a, b);
  },
);

test(
  'a forwarder without free buffers reports it, or ends on abort',
  { skip: withoutQemu, timeout: 60_000 },
  async (t) => {
    const { machine, a, b } = await openPair(t, { receiveDescriptors: 8, transmitDescriptors: 8, buffers: 20 });
    await warmUp(a.nic, b.nic);
    const held: Packet[] = [];
    b.nic.packets.allocBatch(held, 12);
    await generate(a.nic, { packets: 3 });
    assert.deepEqual(await forward(b.nic, b.nic, { signal: AbortSignal.timeout(200) }), { packets: 0, bytes: 0 });
    await assert.rejects(forward(b.nic, b.nic), timedOut);
    b.nic.packets.freeBatch(held);
    assert.equal((await forward(b.nic, b.nic, { packets: 3 })).packets, 3);
    await closeAll(machine, a, b);
  },
);

test('programs report wrong options', { skip: withoutQemu, timeout: 60_000 }, async (t) => {
  const machine = await machineWithCards(t, 1);
  const card = await openCard(machine, 0);
  const { nic } = card;
  const wrong: readonly (readonly [string, Promise<unknown>])[] = [
    ['options', generate(nic, null as unknown as object)],
    ['packets', generate(nic, { packets: -1 })],
    ['minSize', generate(nic, { minSize: 59 })],
    ['maxSize', generate(nic, { minSize: 100, maxSize: 99 })],
    ['maxSize', generate(nic, { maxSize: 1515 })],
    ['stream', generate(nic, { stream: 65536 })],
    ['window', generate(nic, { window: 0 })],
    ['batch', generate(nic, { batch: 1025 })],
    ['destination', generate(nic, { destination: new Uint8Array(5) })],
    ['options', forward(nic, nic, 1 as unknown as object)],
    ['packets', forward(nic, nic, { packets: NaN })],
    ['batch', forward(nic, nic, { batch: 0 })],
    ['destination', forward(nic, nic, { destination: 'x' as unknown as Uint8Array })],
  ];
  for (const [argument, program] of wrong) {
    const error = (await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', program)) as DmaArgumentError;
    assert.equal(error.argument, argument);
  }
  await closeAll(machine, card);
});
