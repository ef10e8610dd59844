/** Workers that are started by workers. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sharePool } from 'dmapool/shared';
import { attachedWorker, range, sharedPool } from './fixture.ts';

test('a worker can share the pool with its own child, and both end when it dies', async (t) => {
  const { pool, log, workers } = await sharedPool(t);
  const [middle] = workers;
  const { worker } = await middle!.call('makeInner');
  assert.equal(worker, 3);
  const taken = (await middle!.call('callInner', 'alloc', [5])) as number[];
  const [ticket] = (await middle!.call('callInner', 'transfer', [[taken[0]]])) as number[];
  pool.free(sharePool(pool).accept(ticket!));
  await middle!.call('alloc', 2);
  assert.equal(pool.statistics().active, 6);
  await middle!.kill();
  assert.match(log.text, /worker 2 \(thread \d+\) died with 2 blocks out/);
  assert.match(log.text, /worker 3 \(thread \d+\) died with 4 blocks out/);
  assert.equal(sharePool(pool).reclaim(), 6);
  assert.equal(new Set(range(0, 64).map(() => pool.allocIndex())).size, 64);
});

test('each death is reported once', async (t) => {
  const { log, workers } = await sharedPool(t, { workers: 3 });
  for (const worker of workers) {
    await worker.call('alloc', 1);
  }
  for (const worker of workers) await worker.kill();
  for (const number of [2, 3, 4]) {
    assert.equal(log.text.split(`worker ${String(number)} (`).length - 1, 1, log.text);
  }
});

test('a worker whose parent left is not taken for a child of the next thread with that slot', async (t) => {
  const { pool, log, handle, workers } = await sharedPool(t);
  const [middle] = workers;
  await middle!.call('makeInner');
  const taken = (await middle!.call('callInner', 'alloc', [2])) as number[];
  await middle!.call('destroy');
  const next = await attachedWorker(handle);
  await next.kill();
  assert.equal(log.text, '', 'no worker died with blocks');
  const mine = range(0, 64).map(() => pool.tryAllocIndex());
  const theirs = (await middle!.call('callInner', 'alloc', [64])) as number[];
  assertDistinct([...mine, ...taken, ...theirs], 64);
});

test('a worker whose parent left dies with it, even if another worker has taken the parent’s slot', async (t) => {
  const { pool, handle, workers } = await sharedPool(t);
  const [middle] = workers;
  await middle!.call('makeInner');
  await middle!.call('callInner', 'alloc', [2]);
  await middle!.call('destroy');
  workers.push(await attachedWorker(handle));
  await middle!.kill();
  assert.equal(sharePool(pool).reclaim(), 2);
  assertDistinct(
    range(0, 64).map(() => pool.tryAllocIndex()),
    64,
  );
});

test('a handle from a sibling creates no parent/child pair', async (t) => {
  const { pool, log, workers } = await sharedPool(t);
  const [a] = workers;
  const b = await attachedWorker(await a!.call('share'));
  workers.push(b);
  const taken = await b.call('alloc', 2);
  await a!.kill();
  assert.equal(log.text, '', 'no worker died with blocks');
  const mine = range(0, 64).map(() => pool.tryAllocIndex());
  assertDistinct([...mine, ...taken, ...(await b.call('alloc', 64))], 64);
});

/** Indices of `count` distinct blocks; -1 stands for a refusal. */
function assertDistinct(indices: readonly number[], count: number): void {
  const taken = indices.filter((index) => index >= 0);
  assert.equal(taken.length, count);
  assert.equal(new Set(taken).size, count);
}
