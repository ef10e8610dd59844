/** The end of a shared pool, and of one worker’s part in it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sharePool } from 'dmapool/shared';
import { indicesOf } from '../support/pools.ts';
import { throwsCode } from '../support/errors.ts';
import { range, sharedPool, until } from './fixture.ts';
import { refusedWith } from './remote.ts';

test('destroy with blocks out in workers: late frees, and the memory is back at the end', async (t) => {
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
  assert.ok(memory.bytesInUse > 0, 'a worker is attached still');
  await b!.call('destroy');
  await until('the memory is back', () => memory.bytesInUse === 0);
  assert.equal(pool.statistics().pages, 0);
});

test('destroy, and workers that just end: the memory is back', async (t) => {
  const { pool, memory, workers } = await sharedPool(t, { workers: 2 });
  await workers[0]!.call('alloc', 3);
  pool.destroy();
  for (const worker of workers) await worker.kill();
  assert.equal(pool.statistics().active, 3);
  assert.ok(memory.bytesInUse > 0);
  assert.equal(sharePool(pool).reclaim(), 3);
  assert.equal(memory.bytesInUse, 0);
});

test('a reset of the device takes back what is out of a destroyed pool, the creator’s own too', async (t) => {
  const { pool, memory, device } = await sharedPool(t, { workers: 0 });
  pool.alloc();
  pool.destroy();
  assert.ok(memory.bytesInUse > 0);
  assert.equal(device.reclaim(), 4);
  assert.equal(memory.bytesInUse, 0);
});

test('destroy in a worker that attached is leaving', async (t) => {
  const { pool, memory, log, handle, workers } = await sharedPool(t);
  const [a] = workers;
  await a!.call('free', await a!.call('alloc', 20));
  await a!.call('destroy');
  await refusedWith('ERR_DMAPOOL_DESTROYED', a!.call('allocOne'));
  await refusedWith('ERR_DMAPOOL_DESTROYED', a!.call('wait'));
  assert.equal(new Set(range(0, 64).map(() => pool.allocIndex())).size, 64, 'nothing idles with one who left');
  for (const index of [...indicesOf(pool)]) pool.freeIndex(index);
  // Again, with a block out: it is kept, and reported there and then.
  assert.equal((await a!.call('attach', handle)).worker, 2, 'the number is free again');
  await a!.call('alloc', 1);
  await a!.call('destroy');
  assert.match(await a!.call('logged'), /rx busy: 1 block is still out/);
  assert.equal(pool.statistics().active, 1);
  await a!.kill();
  assert.doesNotMatch(log.text, /died/, 'it did not die with a block, it left one');
  assert.equal(sharePool(pool).reclaim(), 1);
  pool.destroy();
  assert.equal(memory.bytesInUse, 0);
});

test('leaving with blocks out while others work leaves their lock alone', async (t) => {
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
