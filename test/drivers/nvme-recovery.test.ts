/** A reset of the controller that takes its time: nothing that happens meanwhile makes more of it than a reset. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { BLOCK, FakeNvme } from './fake-nvme.ts';
import { end, sleep, start, until } from './nvme-fake-fixture.ts';
import { rejectsNvme } from './nvme-fixture.ts';

void describe('a reset of the NVMe controller', () => {
  for (const why of ['a late command', 'a fatal status']) {
    void it(`that takes longer than a command may, for ${why}, is lived through by those who go on`, async () => {
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
      const late = rejectsNvme('ERR_NVME_RESET', disk.read(0, new Uint8Array(BLOCK)));
      if (why === 'a fatal status') fake.fail();
      await until(() => stopping);
      // More than once: each wakes the watchdog.
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
});
