/** Memory order between real threads: a load-acquire sees what was written before the store-release. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { loadAcquire32, storeRelease32 } from 'dmapool';
import { sharePool } from 'dmapool/shared';
import { createControl } from '../../src/shared/layout.ts';
import { Workers } from '../../src/shared/workers.ts';
import { sharedPool } from './fixture.ts';
import { type Litmus, SLOT, SLOTS } from './litmus-worker.ts';

const ROUNDS = 100_000;

/** Violations that the worker detected. */
async function run(task: Litmus): Promise<number> {
  const worker = new Worker(new URL('./litmus-worker.js', import.meta.url), { workerData: task });
  const exit = once(worker, 'exit');
  const [violations] = (await once(worker, 'message')) as [number];
  await exit;
  return violations;
}

test('writes before a transfer are visible after the accept', { timeout: 60_000 }, async (t) => {
  const { pool, handle } = await sharedPool(t, { workers: 0 });
  const ring = new Float64Array(new SharedArrayBuffer(16 * 8));
  const cursors = new Int32Array(new SharedArrayBuffer(8));
  const seen = run({ kind: 'receive', handle, ring, cursors, rounds: ROUNDS });
  for (let round = 0; round < ROUNDS;) {
    // The worker starts only while this thread's event loop turns.
    const space = Atomics.load(cursors, 1) + ring.length - round;
    if (space === 0) await new Promise((resolve) => setImmediate(resolve));
    for (let i = 0; i < space && round < ROUNDS; i++, round++) {
      const block = pool.alloc();
      const { u32 } = block;
      for (let word = 7; word >= 0; word--) u32[word] = round + word;
      ring[round % ring.length] = sharePool(pool).transfer(block);
      Atomics.store(cursors, 0, round + 1);
    }
  }
  assert.equal(await seen, 0);
  assert.equal(pool.statistics().active, 0);
});

test('the lock admits one worker at a time and shows it the last holder’s writes', { timeout: 60_000 }, async () => {
  const { header } = createControl(1, 1, 1);
  // All three have attached: the lock is taken over from a holder that has not.
  const workers = new Workers(header);
  for (const thread of [1, 2, 3]) assert.equal(workers.claim(thread), thread);
  const counters = new Int32Array(new SharedArrayBuffer(12));
  const seen = await Promise.all([1, 2, 3].map((me) => run({ kind: 'count', header, me, counters, rounds: ROUNDS })));
  assert.deepEqual(seen, [0, 0, 0]);
  assert.deepEqual([...counters], [3, 3 * ROUNDS, 3 * ROUNDS]);
});

test('storeRelease32 and loadAcquire32 order the accesses around them', { timeout: 60_000 }, async () => {
  const words = new Uint32Array(new SharedArrayBuffer(SLOTS * SLOT * 4));
  const seen = run({ kind: 'acquire', words, rounds: ROUNDS });
  for (let round = 1; round <= ROUNDS;) {
    const space = loadAcquire32(words, SLOT - 1) + SLOTS + 1 - round;
    if (space === 0) await new Promise((resolve) => setImmediate(resolve));
    for (let i = 0; i < space && round <= ROUNDS; i++, round++) {
      const slot = (round % SLOTS) * SLOT;
      for (let word = 8; word > 0; word--) words[slot + word] = round * 8 + word;
      storeRelease32(words, slot, round);
    }
  }
  assert.equal(await seen, 0);
});
