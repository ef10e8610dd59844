/** Random traffic against a model, on a real device model: the disk equals the model byte for byte. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { withoutQemu } from '../../qemu/qemu.ts';
import { assertIdle, closeNvme, startNvme } from './fixture.ts';
import { MIB } from '../../support/sizes.ts';
import { Traffic } from './traffic.ts';
import { Random } from '../../support/random.ts';

void test(
  '5,000 random reads and writes on two queue pairs leave the disk equal to the model',
  { skip: withoutQemu },
  async (t) => {
    const seed = Number(process.env['DMAPOOL_SEED'] ?? Date.now() % 2 ** 31);
    t.diagnostic(`DMAPOOL_SEED=${String(seed)}`);
    const random = new Random(seed);
    const bench = await startNvme(t, {
      bench: { size: 64 * MIB, drive: { cache: 'unsafe' } },
      queues: 2,
      queueDepth: 64,
    });
    const { nvme, disk } = bench;
    assert.equal(nvme.queues, 2);
    assert.equal(nvme.maxTransfer, MIB / 2, 'the largest transfers are split');
    const model = new Uint8Array(disk.size);
    const traffic = new Traffic(disk, random, model);
    while (traffic.transfers < 5000) {
      const end = Math.min(5000, traffic.transfers + 100 + random.below(400));
      const worker = async (): Promise<void> => {
        while (traffic.transfers < end) {
          await traffic.operation();
          // If two operations overlap, one of them gives up without waiting.
          await Promise.resolve();
        }
      };
      const depth = 1 + random.below(64);
      await Promise.all(Array.from({ length: depth }, worker));
      assertIdle(nvme);
    }
    t.diagnostic(
      `${JSON.stringify(traffic.done)}, ${String(Math.round(traffic.bytes / MIB))} MiB, up to ${String(traffic.mostAtATime)} at a time`,
    );
    assert.ok(traffic.mostAtATime > 32 && traffic.mostAtATime <= 64, String(traffic.mostAtATime));
    const { submitted, resets, timeouts } = nvme.statistics();
    assert.ok(
      submitted.every((count) => count > 1000),
      `both queues were used: ${submitted.join(', ')}`,
    );
    assert.deepEqual({ resets, timeouts }, { resets: 0, timeouts: 0 });
    for (const pool of nvme.pools) assert.ok(pool.statistics().allocations > 1000, pool.name);
    await disk.flush();
    await closeNvme(bench);
    await bench.machine.close();
    assert.ok(readFileSync(bench.file).equals(model), 'the image differs from the model');
  },
);
