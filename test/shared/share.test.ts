/** Sharing: the same blocks in every worker, blocks allocated before sharing, the limit, and the statistics. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { attachPool, sharePool } from 'dmapool/shared';
import { H_PAGES } from '../../src/shared/layout.ts';
import { indicesOf } from '../support/pools.ts';
import { throwsCode } from '../support/errors.ts';
import { attachedWorker, makePool, range, sharedPool } from './fixture.ts';
import { refusedWith } from './remote.ts';

// ---- the same blocks

test('an attached worker sees the same blocks at the same addresses', async (t) => {
  const { pool, workers } = await sharedPool(t);
  const [a] = workers;
  const block = pool.alloc({ zero: true });
  block.u32[0] = 42;
  const [index] = await a!.call('accept', [sharePool(pool).transfer(block)]);
  assert.equal(index, block.index);
  assert.equal(await a!.call('read', index), 42);
  assert.equal(await a!.call('dmaOf', index), pool.dmaOf(index));
  await a!.call('write', index, 43);
  assert.equal(block.u32[0], 43);
  const [ticket] = await a!.call('transfer', [index]);
  assert.equal(sharePool(pool).accept(ticket!), block, 'a block has the same object each time it is allocated');
  pool.free(block);
});

test('in each worker, a fresh page gives ascending blocks and the last freed block is the next one allocated', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 2, magazine: 8 });
  assert.equal(sharePool(pool).worker, 1);
  for (const worker of workers) {
    const taken = await worker.call('alloc', 4);
    assert.deepEqual(taken, range(taken[0]!, taken[0]! + 4));
    await worker.call('free', [taken[2]!, taken[0]!]);
    assert.deepEqual(await worker.call('alloc', 2), [taken[0], taken[2]]);
    await worker.call('free', taken);
  }
  const mine = range(0, 4).map(() => pool.allocIndex());
  assert.deepEqual(mine, range(mine[0]!, mine[0]! + 4));
  for (const index of mine) pool.freeIndex(index);
});

test('a bulk allocation in a worker gives distinct blocks, even if it is larger than a magazine', async (t) => {
  const { pool, workers } = await sharedPool(t, { magazine: 4 });
  const taken = await workers[0]!.call('allocBulk', 60);
  assert.equal(new Set(taken).size, 60);
  await refusedWith('ERR_DMAPOOL_LIMIT', workers[0]!.call('allocBulk', 5));
  assert.equal(pool.statistics().active, 60);
  await workers[0]!.call('free', taken);
  assert.equal(pool.statistics().active, 0);
});

// ---- sharing a pool in use

test('sharing keeps the allocated blocks and the order of the free list', async (t) => {
  const { pool } = makePool();
  const blocks = range(0, 20).map(() => pool.alloc());
  for (const block of blocks) block.u32[0] = block.index + 100;
  for (const i of [3, 9, 4]) pool.free(blocks[i]!);
  const handle = sharePool(pool).handle;
  const worker = await attachedWorker(handle);
  t.after(() => worker.kill());
  assert.equal(pool.statistics().active, 17);
  for (const i of [0, 1, 2, 5]) assert.equal(blocks[i]!.u32[0], i + 100);
  throwsCode('ERR_DMAPOOL_NOT_ALLOCATED', () => {
    pool.free(blocks[9]!);
  });
  await refusedWith('ERR_DMAPOOL_NOT_OWNER', worker.call('free', [0]));
  assert.deepEqual(
    range(0, 3).map(() => pool.allocIndex()),
    [4, 9, 3],
  );
  // Half a magazine moved here at once; its idle part is flushed when the other side requests blocks.
  assert.equal((await worker.call('alloc', 64)).length, 44);
  for (const block of blocks) pool.free(block);
  assert.equal(pool.statistics().active, 44);
});

for (const trimmed of [false, true]) {
  test(`a limit inside a page holds after sharing${trimmed ? ' a trimmed pool' : ''}`, async (t) => {
    const { pool } = makePool(40);
    const blocks = range(0, 40).map(() => pool.alloc());
    if (trimmed) {
      for (const block of blocks.slice(16, 32)) pool.free(block);
      assert.equal(pool.trim(), 1);
    }
    const out = pool.statistics().active;
    const worker = await attachedWorker(sharePool(pool).handle);
    t.after(() => worker.kill());
    const taken = await worker.call('alloc', 64);
    assert.equal(taken.length, 40 - out);
    assert.equal(pool.tryAlloc(), null);
    assert.equal(pool.statistics().active, 40);
  });
}

test('sharing again gives a handle of the same pool', async (t) => {
  const { pool, workers } = await sharedPool(t);
  const worker = await attachedWorker(sharePool(pool).handle);
  workers.push(worker);
  const [index] = await worker.call('accept', [sharePool(pool).transfer(pool.alloc())]);
  await refusedWith('ERR_DMAPOOL_NOT_OWNER', workers[0]!.call('free', [index!]));
  await worker.call('free', [index!]);
});

// ---- the limit

test('at most maxBlocks are allocated, and all of them can be', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 3, maxBlocks: 50, magazine: 4 });
  const taken = (await Promise.all(workers.map((worker) => worker.call('alloc', 50)))).flat();
  for (let block = pool.tryAllocIndex(); block >= 0; block = pool.tryAllocIndex()) taken.push(block);
  assert.equal(taken.length, 50);
  assert.equal(new Set(taken).size, 50);
  throwsCode('ERR_DMAPOOL_LIMIT', () => pool.alloc());
  assert.equal(pool.statistics().active, 50);
  assert.equal(pool.statistics().pages, 4);
});

test('at the limit the other workers flush their idle blocks', async (t) => {
  const { workers } = await sharedPool(t, { workers: 2, maxBlocks: 32, magazine: 16 });
  const [a, b] = workers;
  await a!.call('alloc', 1);
  assert.equal((await b!.call('alloc', 64)).length, 31);
});

test('a refusal at the limit names the idle blocks in each magazine', async (t) => {
  const { pool, handle } = await sharedPool(t, { workers: 0, maxBlocks: 32, magazine: 16 });
  // Both sides are in one thread, so that the other one cannot flush during the call.
  const other = attachPool(handle).pool;
  const one = other.allocIndex();
  let taken = 0;
  while (pool.tryAllocIndex() >= 0) taken++;
  assert.equal(taken, 24);
  assert.match(throwsCode('ERR_DMAPOOL_LIMIT', () => pool.alloc()).message, /idle in magazines: 7 in worker 2;/);
  other.freeIndex(one);
  assert.match(throwsCode('ERR_DMAPOOL_LIMIT', () => pool.alloc()).message, /idle in magazines: 8 in worker 2;/);
  other.destroy();
});

// ---- statistics

test('the block count includes a page that another worker opens during the count', () => {
  const { pool } = makePool(64);
  const { handle } = sharePool(pool);
  const there = attachPool(handle).pool;
  const held = range(0, 20).map(() => there.allocIndex());
  const control = new Int32Array(handle.control);
  // An old value that this thread may read.
  const pages = control[H_PAGES]!;
  control[H_PAGES] = 0;
  const { active, blocks, pages: counted } = pool.statistics();
  control[H_PAGES] = pages;
  assert.deepEqual([active, blocks, counted], [20, 32, 2]);
  assert.deepEqual(indicesOf(there), held);
});

test('the counts of a pool remain after it is shared', () => {
  const { pool } = makePool(16);
  const taken = range(0, 16).map(() => pool.allocIndex());
  assert.equal(pool.tryAllocIndex(), -1);
  for (const index of taken) pool.freeIndex(index);
  const before = pool.statistics();
  sharePool(pool);
  assert.deepEqual(pool.statistics(), before);
  assert.equal(before.failures, 1);
  assert.equal(before.highWater, 16);
  pool.destroy();
});

test('statistics and the pools text describe the whole pool, in every worker', async (t) => {
  const { pool, device, workers } = await sharedPool(t, { workers: 2, magazine: 16 });
  const [a, b] = workers;
  const theirs = await a!.call('alloc', 5);
  await a!.call('free', theirs.slice(0, 2));
  const more = await b!.call('alloc', 4);
  const mine = [pool.alloc(), pool.alloc()];
  pool.free(mine[0]!);
  // A transfer is neither an allocation nor a free.
  await b!.call('accept', await a!.call('transfer', [theirs[4]!]));
  await new Promise((resolve) => setTimeout(resolve, 250));
  const seen = pool.statistics();
  const { active, allocations, frees, failures, pages, blocks } = seen;
  assert.deepEqual(
    { active, allocations, frees, failures, pages, blocks },
    { active: 8, allocations: 11, frees: 3, failures: 0, pages: 2, blocks: 32 },
  );
  for (const worker of workers) {
    assert.deepEqual(await worker.call('statistics'), seen);
    assert.equal(await worker.call('attribute'), device.readAttribute('pools'));
  }
  assert.equal(more.length, 4);
});

test('statistics stay consistent when a worker dies', async (t) => {
  const { pool, workers } = await sharedPool(t, { magazine: 16 });
  await workers[0]!.call('alloc', 6);
  await workers[0]!.kill();
  const before = pool.statistics();
  assert.equal(before.active, 6);
  assert.equal(before.allocations - before.frees, 6);
  assert.ok(before.frees >= 0, `frees ${String(before.frees)}`);
  assert.equal(sharePool(pool).reclaim(), 6);
  const after = pool.statistics();
  assert.equal(after.active, 0);
  assert.equal(after.allocations, before.allocations);
});
