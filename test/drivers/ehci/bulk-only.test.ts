/**
 * Bulk-only transport against a device with every error that the specification defines a recovery for (BOT 5.3, 6.7).
 * QEMU's device has none of these errors; ehci.test.ts tests it.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Device, DmaPool } from 'dmapool';
import { UsbError } from 'dmapool/drivers/ehci';
import fc from 'fast-check';
import { UsbBuffer } from '../../../drivers/ehci/buffer.ts';
import {
  type BulkOnlyLink,
  BulkOnlyTransport,
  type ScsiCommand,
  type ScsiResult,
} from '../../../drivers/ehci/bulk-only.ts';
import { rejectsAs } from '../../support/errors.ts';

type Phase = 'command' | 'data' | 'status' | 'status again' | 'reset' | 'clear in' | 'clear out';

/** A device of one command at a time, which stalls at the steps in `stalls`, and whose status `distort` changes. */
class FakeDevice implements BulkOnlyLink {
  readonly name = 'fake';
  readonly log: string[] = [];
  readonly stalls = new Set<Phase>();
  distort: (csw: DataView) => number = () => 13;
  failed = false;
  residue = 0;
  readonly pool: DmaPool<'usb_data'>;
  readonly #halted = new Set<string>();
  #state: 'ready' | 'data' | 'status' | 'lost' = 'ready';
  #tag = 0;
  #asked = 0;

  constructor(device: Device) {
    this.pool = DmaPool.create('usb_data', device, { size: 4096, align: 4096 });
  }

  buffer(length: number): UsbBuffer {
    return new UsbBuffer(this.pool, length);
  }

  transfer(direction: 'in' | 'out', buffer: UsbBuffer, length: number): Promise<number> {
    if (this.#halted.has(direction)) return this.#stall(direction);
    const { view } = buffer.pages[0]!;
    if (this.#state === 'ready' && direction === 'out') {
      this.log.push('command');
      if (this.stalls.has('command')) return this.#stall(direction, 'lost');
      assert.deepEqual([length, view.getUint32(0, true)], [31, 0x43425355]);
      this.#tag = view.getUint32(4, true);
      this.#state = view.getUint32(8, true) > 0 ? 'data' : 'status';
      this.#asked = 0;
      return Promise.resolve(31);
    }
    if (this.#state === 'data') {
      this.log.push('data');
      this.#state = 'status';
      return this.stalls.has('data') ? this.#stall(direction) : Promise.resolve(length - this.residue);
    }
    if (this.#state === 'status' && direction === 'in') {
      this.log.push('status');
      const again = this.#asked++ > 0;
      if (this.stalls.has(again ? 'status again' : 'status')) return this.#stall(direction);
      this.#state = 'ready';
      view.setUint32(0, 0x53425355, true);
      view.setUint32(4, this.#tag, true);
      view.setUint32(8, this.residue, true);
      view.setUint8(12, this.failed ? 1 : 0);
      return Promise.resolve(this.distort(view));
    }
    return this.#stall(direction, 'lost');
  }

  clearHalt(direction: 'in' | 'out'): Promise<void> {
    this.log.push(`clear ${direction}`);
    if (this.stalls.has(`clear ${direction}`)) return this.#stall('control');
    // In a state that only a reset ends, an endpoint halts again at once.
    if (this.#state !== 'lost') this.#halted.delete(direction);
    return Promise.resolve();
  }

  reset(): Promise<void> {
    this.log.push('reset');
    if (this.stalls.has('reset')) return this.#stall('control');
    this.#state = 'ready';
    return Promise.resolve();
  }

  #stall(where: 'in' | 'out' | 'control', state = this.#state): Promise<never> {
    if (where !== 'control') this.#halted.add(where);
    this.#state = state;
    return Promise.reject(new UsbError('ERR_DMAPOOL_USB_STALL', 'fake', `stalled ${where}`));
  }
}

interface Bench {
  readonly fake: FakeDevice;
  readonly run: (direction?: 'in' | 'out', length?: number) => Promise<ScsiResult>;
}

async function withFake(action: (bench: Bench) => Promise<void>): Promise<void> {
  const fake = new FakeDevice(new Device({ name: 'fake' }));
  const transport = new BulkOnlyTransport(fake);
  await action({
    fake,
    run: async (direction = 'in', length = 4096) => {
      using buffer = fake.buffer(length);
      const command: ScsiCommand = { cdb: new Uint8Array(10), direction, buffer, length, lun: 0 };
      return await transport.run(command);
    },
  });
  assert.equal(fake.pool.statistics().active, 0, 'every block is free');
  fake.pool.destroy();
}

const RECOVERY = ['reset', 'clear in', 'clear out'];

test('a halt in the data phase is followed by the status', async () => {
  for (const direction of ['in', 'out'] as const) {
    await withFake(async ({ fake, run }) => {
      fake.stalls.add('data');
      fake.residue = 1000;
      assert.deepEqual(await run(direction), { length: 3096, passed: true });
      fake.failed = true;
      fake.residue = 4096;
      assert.deepEqual(await run(direction), { length: 0, passed: false });
      const once = ['command', 'data', `clear ${direction}`, 'status'];
      assert.deepEqual(fake.log, [...once, ...once]);
    });
  }
});

test('a halted status is read once more, and a second halt leads to a reset', async () => {
  await withFake(async ({ fake, run }) => {
    fake.stalls.add('status');
    assert.deepEqual(await run('out', 0), { length: 0, passed: true });
    assert.deepEqual(fake.log, ['command', 'status', 'clear in', 'status']);
    fake.log.length = 0;
    fake.stalls.add('status again');
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_STALL', run('out', 0));
    assert.deepEqual(fake.log, ['command', 'status', 'clear in', 'status', ...RECOVERY]);
    fake.stalls.clear();
    assert.deepEqual(await run(), { length: 4096, passed: true });
  });
});

test('a refused command and an invalid status lead to a reset', async () => {
  const distortions: readonly ((csw: DataView) => number)[] = [
    () => 12,
    () => 14,
    () => 0,
    (csw) => (csw.setUint32(0, 0x53425356, true), 13),
    (csw) => (csw.setUint32(4, 77, true), 13),
    (csw) => (csw.setUint32(8, 4097, true), 13),
    // A phase error (BOT, table 5.3).
    (csw) => (csw.setUint8(12, 2), 13),
    (csw) => (csw.setUint8(12, 0xff), 13),
  ];
  await withFake(async ({ fake, run }) => {
    for (const distort of distortions) {
      fake.log.length = 0;
      fake.distort = distort;
      await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_PROTOCOL', run());
      assert.deepEqual(fake.log, ['command', 'data', 'status', ...RECOVERY]);
      fake.distort = () => 13;
      assert.deepEqual(await run(), { length: 4096, passed: true });
    }
    fake.log.length = 0;
    fake.stalls.add('command');
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_STALL', run());
    assert.deepEqual(fake.log, ['command', ...RECOVERY]);
  });
});

test('a failed reset is repeated before the next command', async () => {
  for (const failing of ['reset', 'clear in', 'clear out'] as const) {
    await withFake(async ({ fake, run }) => {
      fake.stalls.add('command').add(failing);
      await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_STALL', run());
      fake.log.length = 0;
      await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_STALL', run());
      assert.ok(!fake.log.includes('command'), 'no command before the reset');
      fake.stalls.clear();
      fake.log.length = 0;
      await run();
      assert.deepEqual(fake.log, [...RECOVERY, 'command', 'data', 'status']);
    });
  }
});

test('after any sequence of stalls, commands work again and no block is lost', async () => {
  const phases: readonly Phase[] = ['command', 'data', 'status', 'status again', 'reset', 'clear in', 'clear out'];
  await fc.assert(
    fc.asyncProperty(fc.array(fc.subarray([...phases]), { maxLength: 6 }), async (rounds) => {
      await withFake(async ({ fake, run }) => {
        for (const stalls of rounds) {
          fake.stalls.clear();
          for (const phase of stalls) fake.stalls.add(phase);
          await run(rounds.length % 2 === 0 ? 'in' : 'out').catch((error: unknown) => {
            assert.ok(error instanceof UsbError);
          });
        }
        fake.stalls.clear();
        assert.deepEqual(await run(), { length: 4096, passed: true });
      });
    }),
  );
});
