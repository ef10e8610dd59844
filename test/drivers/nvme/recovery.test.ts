/** A slow reset of the controller: events during the reset do not lead to more than the reset. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { NvmeError } from 'dmapool/drivers/nvme';
import { BLOCK, FakeNvme } from './fake-nvme.ts';
import { end, start } from './fake-fixture.ts';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '../../support/until.ts';
import { rejectsAs } from '../../support/errors.ts';

void describe('a reset of the NVMe controller', () => {
  for (const why of ['a late command', 'a fatal status']) {
    void it(`that takes longer than a command time-out, for ${why}, is survived by callers that continue`, async () => {
      const fake = new FakeNvme();
      fake.canAbort = false;
      fake.stopTime = 300;
      const bench = await start(fake, { timeout: 100, queues: 2 });
      const { nvme, disk } = bench;
      fake.fate = () => 'hang';
      let stopping = false;
      fake.onDisable = () => {
        stopping = true;
        fake.fate = () => null;
      };
      const late = rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_RESET', disk.read(0, new Uint8Array(BLOCK)));
      if (why === 'a fatal status') fake.fail();
      await until('the driver stops the controller', () => stopping);
      // Several of them: each wakes the watchdog.
      const more: Promise<void>[] = [];
      for (let i = 0; i < 20; i++) {
        more.push(disk.write(i, new Uint8Array(BLOCK).fill(i + 1)));
        await sleep(5);
      }
      await late;
      await Promise.all(more);
      assert.equal(fake.disk[19 * BLOCK], 20);
      assert.equal(nvme.statistics().resets, 1);
      fake.stopTime = 0;
      await end(bench);
    });
  }

  for (const vectors of [1, 3]) {
    void it(`does not lose completions from before it stopped, with ${String(vectors)} interrupts`, async () => {
      const fake = new FakeNvme();
      fake.canAbort = false;
      fake.maxVectors = vectors;
      const bench = await start(fake, { timeout: 100, queues: 2 });
      const { nvme, disk, log } = bench;
      fake.fate = () => 'hang';
      fake.onDisable = () => {
        fake.onDisable = () => undefined;
        // Both of the second queue, and one of the first: all just before the stop, when the interrupt is no longer
        // serviced.
        fake.interruptsWork = false;
        fake.fate = () => null;
        for (const command of fake.hung.filter(({ cdw10 }) => cdw10 > 0)) fake.complete(command, 0);
        fake.interruptsWork = true;
      };
      const reads = Array.from({ length: 4 }, (_, i) => disk.read(i, new Uint8Array(BLOCK)));
      const codes = (await Promise.allSettled(reads)).map((outcome) =>
        outcome.status === 'fulfilled' ? 'done' : (outcome.reason as NvmeError).code,
      );
      assert.deepEqual(codes, ['ERR_DMAPOOL_NVME_RESET', 'done', 'done', 'done']);
      await Promise.all(reads.slice(1));
      await disk.read(5, new Uint8Array(BLOCK));
      assert.equal(nvme.statistics().resets, 1);
      assert.deepEqual(fake.faults, [], 'no doorbell of a deleted queue');
      assert.doesNotMatch(log.text, /completion of command/);
      await end(bench);
    });
  }

  void it('does not lose completions from before the driver had to give up', async () => {
    const bench = await start();
    const { fake, nvme, disk, pci } = bench;
    fake.fate = () => 'hang';
    const read = disk.read(1, new Uint8Array(BLOCK));
    const lost = disk.read(2, new Uint8Array(BLOCK));
    await until('the fake holds the commands', () => fake.hung.length === 2);
    fake.interruptsWork = false;
    fake.complete(fake.hung[0]!, 0);
    const broken = new Error('the bus broke');
    const write = fake.write.bind(fake);
    fake.write = (...access) => {
      if (access[1] >= 0x1000) throw broken;
      write(...access);
    };
    const codes = await Promise.allSettled([read, lost, disk.flush()]);
    assert.deepEqual(
      codes.map(({ status }) => status),
      ['fulfilled', 'rejected', 'rejected'],
    );
    await assert.rejects(disk.flush(), broken);
    await nvme.close();
    assert.deepEqual(fake.faults, []);
    await pci.close();
  });
});
