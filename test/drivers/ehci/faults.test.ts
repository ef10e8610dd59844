/**
 * Each call of the coherent allocator fails in turn, during start-up and I/O; the driver reports it and loses nothing.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmaOutOfMemoryError } from 'dmapool';
import { MassStorage } from 'dmapool/drivers/ehci';
import { withoutQemu } from '../../qemu/qemu.ts';
import { activeBlocks, type Bench, MIB, startWithDisk, withController } from './fixture.ts';
import { Random } from '../../support/random.ts';

const SOURCE_BROKE = 'the source broke';

/** Runs `step`; records an out-of-memory error and runs the step once more. */
async function insist<T>(failures: unknown[], step: () => Promise<T>): Promise<T> {
  try {
    return await step();
  } catch (error) {
    assert.ok(error instanceof DmaOutOfMemoryError || String(error).includes(SOURCE_BROKE), String(error));
    failures.push(error);
    return step();
  }
}

test('nothing is lost when any one call of the memory source fails', { skip: withoutQemu }, async (t) => {
  const random = new Random(1);
  const content = random.bytes(MIB);
  const { machine } = await startWithDisk(t, content);

  /** All steps of a driver that need memory; each is repeated after a failure. */
  const scenario = async ({ controller, pci }: Bench, failures: unknown[]): Promise<void> => {
    const device = await insist(failures, () => controller.connect());
    const disk = await insist(failures, () => MassStorage.open(device));
    const idle = activeBlocks(pci);
    const check = (): void => {
      assert.deepEqual(activeBlocks(pci), idle);
    };
    const bytes = new Uint8Array(6 * 4096);
    await insist(failures, () => disk.read(100, bytes));
    assert.ok(Buffer.from(bytes.buffer).equals(content.subarray(51_200, 51_200 + bytes.length)));
    check();
    const written = random.bytes(9 * 4096);
    await insist(failures, () => disk.write(100, written));
    content.set(written, 51_200);
    check();
    await insist(failures, () => device.string(1));
    const whole = new Uint8Array(100 * 512);
    await insist(failures, () => disk.read(90, whole));
    assert.ok(Buffer.from(whole.buffer).equals(content.subarray(90 * 512, 190 * 512)));
    check();
    await insist(failures, () => disk.flush());
    check();
    const buffers = await insist(failures, () => Promise.resolve().then(() => controller.buffer(20 * 4096)));
    buffers.free();
    check();
  };

  const { calls } = await withController(machine, async (bench) => {
    const failures: unknown[] = [];
    await scenario(bench, failures);
    assert.deepEqual(failures, []);
  });
  // One page for each kind of descriptor, and one for each page of data.
  assert.ok(calls >= 20, String(calls));
  for (let failing = 0; failing < calls; failing++) {
    const fate = failing % 2 === 0 ? 'none' : 'throw';
    const failures: unknown[] = [];
    // The count runs over both attempts, so that a single call fails.
    let left = failing;
    const run = (): Promise<unknown> =>
      withController(machine, (bench) => scenario(bench, failures), { fate: () => (left-- === 0 ? fate : 'ok') });
    await insist(failures, run);
    assert.equal(failures.length, 1, `the failure of call ${String(failing)} was reported once`);
  }
  // From this call on the source has no memory.
  for (const from of [0, 1, 2, 3, 5, 10]) {
    await assert.rejects(
      withController(
        machine,
        async ({ controller }) => {
          const disk = await MassStorage.open(await controller.connect());
          await disk.read(0, new Uint8Array(MIB));
        },
        { fate: (call) => (call >= from ? 'none' : 'ok') },
      ),
      DmaOutOfMemoryError,
    );
  }
});
