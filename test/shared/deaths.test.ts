import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { DmaPool, type DmaPoolOptions } from 'dmapool';
import { sharePool } from 'dmapool/shared';
import { H_LOCK } from '../../src/shared/layout.ts';
import { attachedWorker, range, sharedPool } from './fixture.ts';
import { type Hammer, Hammers, within } from './hammers.ts';

const BLOCKS = 100;
const KILLS = 200;
const SECONDS = 15;

/** The number of held blocks that these log lines report. */
function reported(lines: readonly string[]): { worker: number; count: number }[] {
  return lines.flatMap((line) => {
    const match = /worker (\d+) \(thread \d+\) died with (\d+) blocks? out: block \d+ at 0x/.exec(line);
    return match === null ? [] : [{ worker: Number(match[1]), count: Number(match[2]) }];
  });
}

test('no block is lost and no worker hangs when a worker is killed at any moment', { timeout: 120_000 }, async (t) => {
  await killAtAnyMoment(t, SECONDS, {});
});

test('in debug mode, a kill at any moment causes no false report of corruption', { timeout: 120_000 }, async (t) => {
  const pool = await killAtAnyMoment(t, SECONDS / 2, { debug: { sites: false } });
  assert.equal(pool.statistics().corrupted, 0);
});

async function killAtAnyMoment(
  t: TestContext,
  seconds: number,
  options: Partial<DmaPoolOptions>,
): Promise<DmaPool<'rx'>> {
  const { pool, log, handle } = await sharedPool(t, { workers: 0, maxBlocks: BLOCKS, magazine: 8, ...options });
  const hammers = new Hammers(handle, 8);
  const end = performance.now() + seconds * 1000;
  let survivor: Hammer = hammers.start();
  let victim: Hammer = hammers.start();
  let kills = 0;
  let longest = 0;
  let seen = 0;
  for (; kills < KILLS && performance.now() < end; kills++) {
    // The next worker starts meanwhile.
    const next = hammers.start();
    await within(10_000, 'a worker starts', victim.running);
    await sleep(Math.random() * 8);
    log.lines.length = 0;
    const begin = performance.now();
    await within(10_000, 'a worker is killed', hammers.kill(victim));
    assert.deepEqual(hammers.violations, []);
    // The log limits the rate of reports and drops some.
    const reports = reported(log.lines);
    const reclaimed = sharePool(pool).reclaim();
    assert.ok(reports.length <= 1, log.text);
    for (const { count } of reports) assert.equal(reclaimed, count, log.text);
    seen += reports.length;
    // The lock and the depot are intact.
    const index = pool.tryAllocIndex();
    if (index >= 0) pool.freeIndex(index);
    longest = Math.max(longest, performance.now() - begin);
    victim = survivor;
    survivor = next;
    if (kills % 10 === 9) {
      await hammers.finish([victim, survivor]);
      await Promise.all([hammers.kill(victim), hammers.kill(survivor)]);
      assert.deepEqual(hammers.violations, []);
      assert.equal(pool.statistics().active, 0);
      // Idle blocks in this worker's own magazine count too.
      const all = range(0, BLOCKS).map(() => pool.allocIndex());
      assert.equal(new Set(all).size, BLOCKS);
      assert.equal(pool.tryAllocIndex(), -1);
      for (const each of all) pool.freeIndex(each);
      hammers.again();
      victim = hammers.start();
      survivor = hammers.start();
    }
  }
  assert.ok(seen >= Math.min(kills, 10) / 2, `${String(seen)} reports`);
  t.diagnostic(`${String(kills)} kills; slowest recovery ${longest.toFixed(0)} ms`);
  await hammers.finish([victim, survivor]);
  await Promise.all([hammers.kill(victim), hammers.kill(survivor)]);
  assert.deepEqual(hammers.violations, []);
  return pool;
}

test('other workers continue at once when a worker dies with the lock', async (t) => {
  const { pool, handle, workers } = await sharedPool(t, { workers: 2, magazine: 4 });
  const [a, b] = workers;
  await a!.call('alloc', 3);
  await a!.call('takeLock');
  // Waits for the lock, in its own thread.
  const waiting = b!.call('alloc', 20);
  const begin = performance.now();
  await a!.kill();
  assert.equal((await waiting).length, 20);
  assert.ok(performance.now() - begin < 2000);
  assert.equal(new Int32Array(handle.control)[H_LOCK], 0);
  assert.equal(sharePool(pool).reclaim(), 3);
  await b!.kill();
  assert.equal(sharePool(pool).reclaim(), 20);
  assert.equal(new Set(range(0, 64).map(() => pool.allocIndex())).size, 64);
});

test('recovery after a death with the lock keeps the limit, though the last page has more blocks', async (t) => {
  const { device, workers } = await sharedPool(t, { workers: 0 });
  const pool = DmaPool.create('tx', device, { size: 256, maxBlocks: 20 });
  for (const block of range(0, 20).map(() => pool.alloc())) pool.free(block);
  const worker = await attachedWorker(sharePool(pool, { magazine: 2 }).handle);
  workers.push(worker);
  await worker.call('takeLock');
  await worker.kill();
  const taken = range(0, 32).map(() => pool.tryAllocIndex());
  assert.equal(taken.filter((index) => index >= 0).length, 20);
});

test('a dead lock holder does not block the thread that reports its death', async (t) => {
  const { pool, workers } = await sharedPool(t, { magazine: 4 });
  await workers[0]!.call('takeLock');
  const ended = workers[0]!.kill();
  // The death is not known before the event loop turns: a failure here is correct, a stall of seconds is not.
  const begin = performance.now();
  try {
    pool.tryAllocIndex();
  } catch {
    // See above.
  }
  const took = performance.now() - begin;
  await ended;
  assert.ok(pool.tryAllocIndex() >= 0);
  assert.ok(took < 1000, `stuck for ${took.toFixed(0)} ms`);
});
