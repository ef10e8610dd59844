/** Waits for blocks of a shared pool, and how waits and idle workers detect that the pool ends. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { attachPool } from 'dmapool/shared';
import { rejectsCode, throwsCode } from '../support/errors.ts';
import { makePool, range, sharedPool, until } from './fixture.ts';
import { refusedWith } from './remote.ts';

test('a waiter gets idle blocks from the magazines of other workers', async (t) => {
  const { pool, workers } = await sharedPool(t, { maxBlocks: 16, magazine: 16 });
  await workers[0]!.call('free', await workers[0]!.call('alloc', 8));
  const mine = range(0, 8).map(() => pool.allocIndex());
  assert.equal(pool.tryAllocIndex(), -1);
  const waited = await Promise.all(range(0, 8).map(() => pool.allocWait({ timeout: 5000 })));
  assert.equal(new Set([...mine, ...waited.map((block) => block.index)]).size, 16);
});

test('waiters in several workers are served first come, first served', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 3, maxBlocks: 8, magazine: 2 });
  const held = range(0, 8).map(() => pool.allocIndex());
  const order: number[] = [];
  const waits: Promise<void>[] = [];
  for (let i = 0; i < 6; i++) {
    const worker = i % 3;
    waits.push(
      workers[worker]!.call('wait').then(() => {
        order.push(i);
      }),
    );
    await until('the wait is queued', () => pool.statistics().waiting === i + 1);
  }
  assert.deepEqual(await workers[0]!.call('alloc', 1), [], 'no new call gets a block while a waiter is queued');
  for (let i = 0; i < 6; i++) {
    pool.freeIndex(held[i]!);
    assert.equal(pool.tryAllocIndex(), -1, 'a freed block goes to a waiter');
    await waits[i];
    assert.deepEqual(order, range(0, i + 1));
  }
  const { waits: waited, waiting, active } = pool.statistics();
  assert.deepEqual([waited, waiting, active], [6, 0, 8]);
});

test('the creator waits its turn among the workers', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 1, maxBlocks: 4, magazine: 2 });
  const taken = await workers[0]!.call('alloc', 4);
  const mine = pool.allocWait();
  const theirs = workers[0]!.call('wait');
  await until('both waits are queued', () => pool.statistics().waiting === 2);
  await workers[0]!.call('free', taken.slice(0, 1));
  assert.equal((await mine).index, taken[0]);
  await workers[0]!.call('free', taken.slice(1, 2));
  assert.equal(await theirs, taken[1]);
});

test('a wait ends by its signal or its time-out, and the next waiter moves up', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 3, maxBlocks: 2, magazine: 2 });
  const held = [pool.alloc(), pool.alloc()];
  const aborted = workers[0]!.call('waitUntilAborted', 1500);
  await until('one wait is queued', () => pool.statistics().waiting === 1);
  const timed = workers[1]!.call('wait', 2000);
  await until('two waits are queued', () => pool.statistics().waiting === 2);
  const patient = workers[2]!.call('wait');
  await until('three waits are queued', () => pool.statistics().waiting === 3);
  assert.equal(await aborted, 'TimeoutError');
  assert.match(await refusedWith('ERR_DMAPOOL_TIMEOUT', timed), /within 2000 ms/);
  assert.equal(pool.statistics().waiting, 1);
  pool.free(held[0]!);
  assert.equal(await patient, held[0]!.index);
  pool.free(held[1]!);
  assert.equal(pool.tryAlloc(), held[1], 'no wait is queued');
});

test('a wait that ended behind another one is not counted as waiting', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 2, maxBlocks: 1, magazine: 2 });
  const held = pool.alloc();
  const patient = workers[0]!.call('wait');
  await until('one wait is queued', () => pool.statistics().waiting === 1);
  await refusedWith('ERR_DMAPOOL_TIMEOUT', workers[1]!.call('wait', 20));
  assert.equal(pool.statistics().waiting, 1);
  pool.free(held);
  await patient;
});

test('when a waiting worker dies, the next waiter moves up', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 2, maxBlocks: 2, magazine: 2 });
  const held = [pool.alloc(), pool.alloc()];
  const lost = assert.rejects(workers[0]!.call('wait'));
  await until('one wait is queued', () => pool.statistics().waiting === 1);
  const patient = workers[1]!.call('wait');
  await until('two waits are queued', () => pool.statistics().waiting === 2);
  await workers[0]!.kill();
  await lost;
  pool.free(held[0]!);
  assert.equal(await patient, held[0]!.index);
});

test('destroy ends every wait, in every worker', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 2, maxBlocks: 2, magazine: 2 });
  const held = [pool.alloc(), pool.alloc()];
  const waits = workers.map((worker) => worker.call('wait'));
  await until('both waits are queued', () => pool.statistics().waiting === 2);
  const ends = [
    rejectsCode('ERR_DMAPOOL_DESTROYED', pool.allocWait()),
    ...waits.map((wait) => refusedWith('ERR_DMAPOOL_DESTROYED', wait)),
  ];
  pool.destroy();
  await Promise.all(ends);
  for (const worker of workers) {
    await refusedWith('ERR_DMAPOOL_DESTROYED', worker.call('allocOne'));
    await refusedWith('ERR_DMAPOOL_DESTROYED', worker.call('wait'));
  }
  for (const block of held) pool.free(block);
});

test('a signal that throws on addEventListener loses no block and blocks no other waiter', async (t) => {
  const { pool } = await sharedPool(t, { workers: 0, maxBlocks: 1 });
  const block = pool.alloc();
  const { signal } = new AbortController();
  signal.addEventListener = () => {
    throw new RangeError('no more listeners');
  };
  await assert.rejects(pool.allocWait({ signal }), /no more listeners/);
  assert.equal(pool.statistics().waiting, 0);
  const next = pool.allocWait({ timeout: 2000 });
  pool.free(block);
  assert.equal((await next).index, block.index);
  pool.free(block);
  assert.equal(pool.alloc().index, block.index);
});

test('a worker on its event loop detects that the pool was destroyed, even with blocks in its magazine', async (t) => {
  const { pool, workers } = await sharedPool(t);
  const [worker] = workers;
  await worker!.call('free', await worker!.call('alloc', 2));
  const turning = worker!.call('turnUntilRefused', 1e9);
  await sleep(50);
  pool.destroy();
  await refusedWith('ERR_DMAPOOL_DESTROYED', turning);
});

test('an idle worker detects that the pool was destroyed', async (t) => {
  const { pool, workers } = await sharedPool(t);
  const [worker] = workers;
  await worker!.call('free', await worker!.call('alloc', 2));
  pool.destroy();
  await sleep(300);
  await refusedWith('ERR_DMAPOOL_DESTROYED', worker!.call('alloc', 1));
});

test('a slow call detects that the pool was destroyed, and no later call gets a block', async (t) => {
  const { pool, handle } = await sharedPool(t, { workers: 0, magazine: 8 });
  const there = attachPool(handle).pool;
  const held = there.allocIndex();
  pool.destroy();
  const most = 8;
  let taken = 0;
  throwsCode('ERR_DMAPOOL_DESTROYED', () => {
    for (; taken <= most; taken++) there.allocIndex();
  });
  there.freeIndex(held);
  throwsCode('ERR_DMAPOOL_DESTROYED', () => there.allocIndex());
});

test('a shared pool counts waits and failures like a pool of a single thread', async (t) => {
  const shared = (await sharedPool(t, { workers: 0, maxBlocks: 1 })).pool;
  const { pool: single } = makePool(1);
  for (const pool of [shared, single]) {
    const block = pool.alloc();
    const waiting = pool.allocWait();
    assert.equal(pool.tryAlloc(), null);
    pool.free(block);
    pool.free(await waiting);
  }
  assert.deepEqual(shared.statistics(), { ...single.statistics() });
});
