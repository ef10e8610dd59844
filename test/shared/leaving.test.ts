/** The end of a shared pool, and the departure of one worker. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sharePool } from 'dmapool/shared';
import { indicesOf } from '../support/pools.ts';
import { throwsCode } from '../support/errors.ts';
import { range, sharedPool, until } from './fixture.ts';
import { refusedWith } from './remote.ts';

test('destroy with blocks held by workers accepts late frees and returns the memory at the end', async (t) => {
  const { pool, memory, log, workers } = await sharedPool(t, { workers: 2 });
  const [a, b] = workers;
  const theirs = await a!.call('alloc', 3);
  const others = await b!.call('alloc', 1);
  pool.destroy();
  assert.match(
    log.text,
    /rx busy: 4 blocks are still out:\n {2}3 with worker 2 \(thread \d+\): .*\n {2}1 with worker 3/,
  );
  throwsCode('ERR_DMAPOOL_DESTROYED', () => pool.alloc());
  assert.ok(memory.bytesInUse > 0, 'hardware may still write there');
  await a!.call('free', theirs);
  await a!.call('destroy');
  await b!.call('free', others);
  assert.ok(memory.bytesInUse > 0, 'a worker is still attached');
  await b!.call('destroy');
  await until('the memory is returned', () => memory.bytesInUse === 0);
  assert.equal(pool.statistics().pages, 0);
});

test('destroy returns the memory when the workers just end', async (t) => {
  const { pool, memory, workers } = await sharedPool(t, { workers: 2 });
  await workers[0]!.call('alloc', 3);
  pool.destroy();
  for (const worker of workers) await worker.kill();
  assert.equal(pool.statistics().active, 3);
  assert.ok(memory.bytesInUse > 0);
  assert.equal(sharePool(pool).reclaim(), 3);
  assert.equal(memory.bytesInUse, 0);
});

test('reclaim after a device reset takes all blocks of a destroyed pool, the creator’s own too', async (t) => {
  const { pool, memory, device } = await sharedPool(t, { workers: 0 });
  pool.alloc();
  pool.destroy();
  assert.ok(memory.bytesInUse > 0);
  assert.equal(device.reclaim(), 4);
  assert.equal(memory.bytesInUse, 0);
});

test('destroy in an attached worker detaches that worker', async (t) => {
  const { pool, memory, log, handle, workers } = await sharedPool(t);
  const [a] = workers;
  await a!.call('free', await a!.call('alloc', 20));
  await a!.call('destroy');
  await refusedWith('ERR_DMAPOOL_DESTROYED', a!.call('allocOne'));
  await refusedWith('ERR_DMAPOOL_DESTROYED', a!.call('wait'));
  assert.equal(
    new Set(range(0, 64).map(() => pool.allocIndex())).size,
    64,
    'no idle block remains with the worker that left',
  );
  for (const index of [...indicesOf(pool)]) pool.freeIndex(index);
  // The same with an allocated block: the block is kept and reported at once.
  assert.equal((await a!.call('attach', handle)).worker, 2, 'the number is free again');
  await a!.call('alloc', 1);
  await a!.call('destroy');
  assert.match(await a!.call('logged'), /rx busy: 1 block is still out/);
  assert.equal(pool.statistics().active, 1);
  await a!.kill();
  assert.doesNotMatch(log.text, /died/, 'the worker left with the block and did not die with it');
  assert.equal(sharePool(pool).reclaim(), 1);
  pool.destroy();
  assert.equal(memory.bytesInUse, 0);
});

test('leaving with blocks out does not touch a lock that another worker holds', async (t) => {
  const { pool, handle, workers } = await sharedPool(t, { workers: 1, magazine: 2 });
  const [a] = workers;
  for (let round = 0; round < 40; round++) {
    const leaving = a!.call('alloc', 8).then(() => a!.call('destroy'));
    let gone = false;
    void leaving.then(() => {
      gone = true;
    });
    while (!gone) {
      const taken = new Set(range(0, 20).map(() => pool.allocIndex()));
      assert.equal(taken.size, 20);
      for (const index of taken) pool.freeIndex(index);
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.equal(sharePool(pool).reclaim(), 8);
    await a!.call('attach', handle);
  }
});
