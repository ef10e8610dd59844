/** The driver of the 82540EM on QEMU: random histories against a model. */
import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import fc from 'fast-check';
import type { E1000 } from 'dmapool/drivers/e1000';
import { type E1000Options, type Packet } from 'dmapool/drivers/e1000';
import { withoutQemu } from '../../qemu/qemu.ts';
import { closeAll, frame, openPair, warmUp } from './fixture.ts';
import { setImmediate as turn } from 'node:timers/promises';

/** Rings of the minimum size, and a few more buffers. */
const SMALL: E1000Options = { receiveDescriptors: 8, transmitDescriptors: 8, buffers: 20 };

void describe('e1000: random histories', { skip: withoutQemu, timeout: 60_000 }, () => {
  void it('delivers every packet once and in order in any order of calls (against a model)', async (t) => {
    const { machine, a, b } = await openPair(t, SMALL);
    await warmUp(a.nic, b.nic);
    await randomHistories(t, a.nic, b.nic);
    await closeAll(machine, a, b);
  });
});

/** The next call of the user of two cards. */
const step = fc.oneof(
  fc.record({
    kind: fc.constant('send' as const),
    lengths: fc.array(fc.integer({ min: 14, max: 1514 }), { maxLength: 10 }),
  }),
  fc.record({ kind: fc.constant('receive' as const), max: fc.integer({ min: 0, max: 9 }) }),
  fc.record({ kind: fc.constant('free' as const), count: fc.integer({ min: 0, max: 9 }) }),
  fc.constant({ kind: 'turn' as const }),
);

/** The model is one queue between the cards, never longer than a ring of 8 can hold. */
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
        assert.ok(performance.now() < end, `${String(model.length)} packets did not arrive`);
      }
      await from.drain();
      assert.equal(to.packets.active, 8);
      assert.equal(from.packets.active, 8);
    }),
    { numRuns: 300 },
  );
  t.diagnostic(`${String(steps)} steps`);
}
