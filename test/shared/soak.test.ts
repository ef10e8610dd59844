/**
 * Four workers run hammer.ts; one of them is killed and replaced every 50 ms. No block is lost, no block has two
 * holders, and no worker hangs. The test lasts 5 s, in CI 60 s; DMAPOOL_SOAK_SECONDS sets another time.
 */
import assert from 'node:assert/strict';
import { sharePool } from 'dmapool/shared';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { range, sharedPool } from './fixture.ts';
import { type Hammer, Hammers, within } from './hammers.ts';

const { DMAPOOL_SOAK_SECONDS, DMAPOOL_REQUIRE_TOOLS } = process.env;
const SECONDS = Number(DMAPOOL_SOAK_SECONDS ?? (DMAPOOL_REQUIRE_TOOLS === '1' ? 60 : 5));
const WORKERS = 4;
const BLOCKS = 120;

test(`soak, ${String(SECONDS)} s`, { timeout: (SECONDS + 60) * 1000 }, async (t) => {
  const { pool, log, memory, handle } = await sharedPool(t, { workers: 0, maxBlocks: BLOCKS, magazine: 8 });
  const hammers = new Hammers(handle, 8);
  const team: Hammer[] = range(0, WORKERS).map(() => hammers.start());
  await Promise.all(team.map((hammer) => hammer.running));
  const end = performance.now() + SECONDS * 1000;
  let kills = 0;
  let reclaimed = 0;
  while (performance.now() < end && hammers.violations.length === 0) {
    await sleep(50);
    const at = kills++ % WORKERS;
    await within(10_000, 'a worker is killed', hammers.kill(team[at]!));
    reclaimed += sharePool(pool).reclaim();
    team[at] = hammers.start();
  }
  await hammers.finish(team);
  await Promise.all(team.map((hammer) => hammers.kill(hammer)));
  assert.deepEqual(hammers.violations, []);
  t.diagnostic(`${String(kills)} kills, ${String(reclaimed)} blocks reclaimed`);
  assert.equal(pool.statistics().active, 0, log.lines.at(-1));
  const all = range(0, BLOCKS).map(() => pool.allocIndex());
  assert.equal(new Set(all).size, BLOCKS);
  assert.equal(pool.tryAllocIndex(), -1);
  for (const index of all) pool.freeIndex(index);
  pool.destroy();
  assert.equal(memory.bytesInUse, 0);
});
