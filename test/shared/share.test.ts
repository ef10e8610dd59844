import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Device, DmaPool, HeapMemory } from 'dmapool';
import { attachPool, type SharedPoolHandle, sharePool } from 'dmapool/shared';
import { H_PAGES } from '../../src/shared/layout.ts';
import { countsOf, indicesOf, owns } from '../support/pools.ts';
import { rejectsCode, throwsCode } from '../support/errors.ts';
import { FaultyMemory } from '../support/faulty-memory.ts';
import { RecordingLog } from '../support/log.ts';
import { attachedWorker, range, sharedPool, until } from './fixture.ts';
import { refusedWith } from './remote.ts';

function makePool(maxBlocks = 64): { memory: HeapMemory; device: Device; pool: DmaPool<'rx'> } {
  const memory = new HeapMemory();
  const device = new Device({ name: 'nic', memory, log: new RecordingLog() });
  return { memory, device, pool: DmaPool.create('rx', device, { size: 256, maxBlocks }) };
}

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
  assert.equal(sharePool(pool).accept(ticket!), block, 'the object of a block is the same one when it comes back');
  pool.free(block);
});

test('blocks of a fresh page ascend, and the last one freed is the next one out, in each worker', async (t) => {
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

test('a bulk allocation in a worker gives distinct blocks, larger than a magazine too', async (t) => {
  const { pool, workers } = await sharedPool(t, { magazine: 4 });
  const taken = await workers[0]!.call('allocBulk', 60);
  assert.equal(new Set(taken).size, 60);
  await refusedWith('ERR_DMAPOOL_LIMIT', workers[0]!.call('allocBulk', 5));
  assert.equal(pool.statistics().active, 60);
  await workers[0]!.call('free', taken);
  assert.equal(pool.statistics().active, 0);
});

// ---- transfer and accept

test('a block on its way or accepted is no longer the giver’s', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 2 });
  const [a, b] = workers;
  const block = pool.alloc();
  const ticket = sharePool(pool).transfer(block);
  assert.ok(Number.isSafeInteger(ticket));
  assert.match(
    throwsCode('ERR_DMAPOOL_NOT_OWNER', () => {
      pool.free(block);
    }).message,
    /in transit from worker 1/,
  );
  throwsCode('ERR_DMAPOOL_NOT_OWNER', () => sharePool(pool).transfer(block));
  await a!.call('accept', [ticket]);
  assert.match(
    throwsCode('ERR_DMAPOOL_NOT_OWNER', () => {
      pool.free(block);
    }).message,
    /belongs to worker 2 \(thread \d+\)/,
  );
  assert.equal(owns(pool, block), false);
  await refusedWith('ERR_DMAPOOL_NOT_OWNER', b!.call('free', [block.index]));
  await refusedWith('ERR_DMAPOOL_NOT_OWNER', b!.call('transfer', [block.index]));
  await a!.call('free', [block.index]);
  await refusedWith('ERR_DMAPOOL_NOT_ALLOCATED', a!.call('free', [block.index]));
  throwsCode('ERR_DMAPOOL_NOT_ALLOCATED', () => {
    pool.free(block);
  });
});

test('a ticket is good once, and in any worker, the giver too', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 2 });
  const [a, b] = workers;
  const ticket = sharePool(pool).transfer(pool.alloc());
  const [index] = await b!.call('accept', [ticket]);
  await refusedWith('ERR_DMAPOOL_BAD_TICKET', a!.call('accept', [ticket]));
  await refusedWith('ERR_DMAPOOL_BAD_TICKET', b!.call('accept', [ticket]));
  const [own] = await b!.call('transfer', [index!]);
  assert.deepEqual(await b!.call('accept', [own!]), [index]);
  await b!.call('free', [index!]);
  for (const ticket of [0, 1, 2 ** 40, Number.MAX_SAFE_INTEGER]) {
    throwsCode('ERR_DMAPOOL_BAD_TICKET', () => sharePool(pool).accept(ticket));
  }
  for (const ticket of [-1, 0.5, NaN, '1', null]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => sharePool(pool).accept(ticket as number));
  }
});

test('transfer and accept in bulk: all of them or none', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 2 });
  const [a, b] = workers;
  const taken = await a!.call('allocBulk', 20);
  for (const index of taken) await a!.call('write', index, index * 3);
  const tickets = await a!.call('transferBulk', taken);
  assert.deepEqual(await b!.call('acceptBulk', tickets), taken);
  for (const index of taken) assert.equal(await b!.call('read', index), index * 3);
  // One that is not on its way: none of them arrives.
  const again = await b!.call('transferBulk', taken.slice(1));
  await refusedWith('ERR_DMAPOOL_BAD_TICKET', a!.call('acceptBulk', [...again, tickets[0]!]));
  await refusedWith('ERR_DMAPOOL_NOT_OWNER', a!.call('free', [taken[1]!]));
  assert.deepEqual(await a!.call('acceptBulk', again), taken.slice(1));
  // One that is not its own: all of them stay.
  await refusedWith('ERR_DMAPOOL_NOT_OWNER', a!.call('transferBulk', [...taken.slice(1), taken[0]!]));
  await a!.call('free', taken.slice(1));
  await b!.call('free', [taken[0]!]);
  assert.equal(pool.statistics().active, 0);
});

test('the same ticket twice in one bulk: none is accepted', async (t) => {
  const { pool, workers } = await sharedPool(t);
  const ticket = sharePool(pool).transfer(pool.alloc());
  await refusedWith('ERR_DMAPOOL_BAD_TICKET', workers[0]!.call('acceptBulk', [ticket, ticket]));
  assert.equal((await workers[0]!.call('acceptBulk', [ticket])).length, 1);
});

test('a ticket of a giver that died is void, also when another worker took its place', async (t) => {
  const { pool, handle, workers } = await sharedPool(t);
  const [a] = workers;
  const taken = await a!.call('alloc', 1);
  const [ticket] = await a!.call('transfer', taken);
  await a!.kill();
  throwsCode('ERR_DMAPOOL_BAD_TICKET', () => sharePool(pool).accept(ticket!));
  assert.equal(pool.statistics().active, 1);
  assert.equal(sharePool(pool).reclaim(), 1);
  throwsCode('ERR_DMAPOOL_BAD_TICKET', () => sharePool(pool).accept(ticket!));
  const next = await attachedWorker(handle);
  workers.push(next);
  const all = await next.call('alloc', 64);
  assert.ok(all.includes(taken[0]!));
  const [fresh] = await next.call('transfer', taken);
  assert.notEqual(fresh, ticket);
  throwsCode('ERR_DMAPOOL_BAD_TICKET', () => sharePool(pool).accept(ticket!));
  assert.equal(sharePool(pool).accept(fresh!).index, taken[0]);
});

// ---- sharing what is in use

test('sharing keeps the blocks that are out and the free list in its order', async (t) => {
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
  // Half a magazine came here at once; what idles of it is given up when the other one asks.
  assert.equal((await worker.call('alloc', 64)).length, 44);
  for (const block of blocks) pool.free(block);
  assert.equal(pool.statistics().active, 44);
});

for (const trimmed of [false, true]) {
  test(`a limit inside a page holds after sharing${trimmed ? ' a pool with pages given back' : ''}`, async (t) => {
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

test('share again gives a handle of the same pool', async (t) => {
  const { pool, workers } = await sharedPool(t);
  const worker = await attachedWorker(sharePool(pool).handle);
  workers.push(worker);
  const [index] = await worker.call('accept', [sharePool(pool).transfer(pool.alloc())]);
  await refusedWith('ERR_DMAPOOL_NOT_OWNER', workers[0]!.call('free', [index!]));
  await worker.call('free', [index!]);
});

// ---- the limit

test('never more than maxBlocks are out, and all of them can be', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 3, maxBlocks: 50, magazine: 4 });
  const taken = (await Promise.all(workers.map((worker) => worker.call('alloc', 50)))).flat();
  for (let block = pool.tryAllocIndex(); block >= 0; block = pool.tryAllocIndex()) taken.push(block);
  assert.equal(taken.length, 50);
  assert.equal(new Set(taken).size, 50);
  throwsCode('ERR_DMAPOOL_LIMIT', () => pool.alloc());
  assert.equal(pool.statistics().active, 50);
  assert.equal(pool.statistics().pages, 4);
});

test('at the limit the others give up what idles with them', async (t) => {
  const { workers } = await sharedPool(t, { workers: 2, maxBlocks: 32, magazine: 16 });
  const [a, b] = workers;
  await a!.call('alloc', 1);
  assert.equal((await b!.call('alloc', 64)).length, 31);
});

test('a refusal at the limit names what idles in whose magazines', async (t) => {
  const { pool, handle } = await sharedPool(t, { workers: 0, maxBlocks: 32, magazine: 16 });
  // In the same thread, so that it can't give anything up while this one asks.
  const other = attachPool(handle).pool;
  const one = other.allocIndex();
  let taken = 0;
  while (pool.tryAllocIndex() >= 0) taken++;
  assert.equal(taken, 24);
  assert.match(throwsCode('ERR_DMAPOOL_LIMIT', () => pool.alloc()).message, /idle in magazines: 7 in worker 2$/);
  other.freeIndex(one);
  assert.match(throwsCode('ERR_DMAPOOL_LIMIT', () => pool.alloc()).message, /idle in magazines: 8 in worker 2$/);
  other.destroy();
});

// ---- waiting

test('who waits gets what idles in other workers’ magazines', async (t) => {
  const { pool, workers } = await sharedPool(t, { maxBlocks: 16, magazine: 16 });
  await workers[0]!.call('free', await workers[0]!.call('alloc', 8));
  const mine = range(0, 8).map(() => pool.allocIndex());
  assert.equal(pool.tryAllocIndex(), -1);
  const waited = await Promise.all(range(0, 8).map(() => pool.allocWait({ timeout: 5000 })));
  assert.equal(new Set([...mine, ...waited.map((block) => block.index)]).size, 16);
});

test('waiting across workers: first come, first served', async (t) => {
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
    await until('it waits', () => pool.statistics().waiting === i + 1);
  }
  assert.deepEqual(await workers[0]!.call('alloc', 1), [], 'nobody gets a block while somebody waits');
  for (let i = 0; i < 6; i++) {
    pool.freeIndex(held[i]!);
    assert.equal(pool.tryAllocIndex(), -1, 'what was freed is for those who wait');
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
  await until('both wait', () => pool.statistics().waiting === 2);
  await workers[0]!.call('free', taken.slice(0, 1));
  assert.equal((await mine).index, taken[0]);
  await workers[0]!.call('free', taken.slice(1, 2));
  assert.equal(await theirs, taken[1]);
});

test('a wait ends with its signal or its time, and lets the next one on', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 3, maxBlocks: 2, magazine: 2 });
  const held = [pool.alloc(), pool.alloc()];
  const aborted = workers[0]!.call('waitUntilAborted', 30);
  await until('one waits', () => pool.statistics().waiting === 1);
  const timed = workers[1]!.call('wait', 60);
  await until('two wait', () => pool.statistics().waiting === 2);
  const patient = workers[2]!.call('wait');
  await until('three wait', () => pool.statistics().waiting === 3);
  assert.equal(await aborted, 'TimeoutError');
  assert.match(await refusedWith('ERR_DMAPOOL_TIMEOUT', timed), /within 60 ms/);
  assert.equal(pool.statistics().waiting, 1);
  pool.free(held[0]!);
  assert.equal(await patient, held[0]!.index);
  pool.free(held[1]!);
  assert.equal(pool.tryAlloc(), held[1], 'nobody waits any more');
});

test('those who gave up behind another one do not count as waiting', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 2, maxBlocks: 1, magazine: 2 });
  const held = pool.alloc();
  const patient = workers[0]!.call('wait');
  await until('one waits', () => pool.statistics().waiting === 1);
  await refusedWith('ERR_DMAPOOL_TIMEOUT', workers[1]!.call('wait', 20));
  assert.equal(pool.statistics().waiting, 1);
  pool.free(held);
  await patient;
});

test('a worker that waits and dies lets the next one on', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 2, maxBlocks: 2, magazine: 2 });
  const held = [pool.alloc(), pool.alloc()];
  const lost = assert.rejects(workers[0]!.call('wait'));
  await until('one waits', () => pool.statistics().waiting === 1);
  const patient = workers[1]!.call('wait');
  await until('two wait', () => pool.statistics().waiting === 2);
  await workers[0]!.kill();
  await lost;
  pool.free(held[0]!);
  assert.equal(await patient, held[0]!.index);
});

test('destroy ends every wait, in every worker', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 2, maxBlocks: 2, magazine: 2 });
  const held = [pool.alloc(), pool.alloc()];
  const waits = workers.map((worker) => worker.call('wait'));
  await until('both wait', () => pool.statistics().waiting === 2);
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

test('a signal that can’t be listened to loses no block and blocks nobody', async (t) => {
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

test('a worker on its event loop sees that the pool was destroyed, also within its magazine', async (t) => {
  const { pool, workers } = await sharedPool(t);
  const [worker] = workers;
  await worker!.call('free', await worker!.call('alloc', 2));
  const turning = worker!.call('turnUntilRefused', 1e9);
  await sleep(50);
  pool.destroy();
  await refusedWith('ERR_DMAPOOL_DESTROYED', turning);
});

test('an idle worker sees that the pool was destroyed', async (t) => {
  const { pool, workers } = await sharedPool(t);
  const [worker] = workers;
  await worker!.call('free', await worker!.call('alloc', 2));
  pool.destroy();
  await sleep(300);
  await refusedWith('ERR_DMAPOOL_DESTROYED', worker!.call('alloc', 1));
});

test('a slow call sees that the pool was destroyed, and no call after it gets a block', async (t) => {
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

test('a shared pool counts waits and failures as one of a single thread does', async (t) => {
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

// ---- figures

test('a page that another worker opens while the blocks are counted is counted too', () => {
  const { pool } = makePool(64);
  const { handle } = sharePool(pool);
  const there = attachPool(handle).pool;
  const held = range(0, 20).map(() => there.allocIndex());
  const control = new Int32Array(handle.control);
  // What this thread reads may be as old as this.
  const pages = control[H_PAGES]!;
  control[H_PAGES] = 0;
  const { active, blocks, pages: counted } = pool.statistics();
  control[H_PAGES] = pages;
  assert.deepEqual([active, blocks, counted], [20, 32, 2]);
  assert.deepEqual(indicesOf(there), held);
});

test('what a pool counted before it was shared stays counted', () => {
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

test('figures and the pools text are the whole pool’s, from every worker', async (t) => {
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

test('figures stay whole when a worker dies', async (t) => {
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

// ---- the end

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

// ---- handles, and where sharing is not possible

test('junk instead of a handle', async (t) => {
  const { handle } = await sharedPool(t, { workers: 0 });
  const junk: unknown[] = [
    undefined,
    null,
    1,
    'rx',
    {},
    { ...handle, control: undefined },
    { ...handle, control: new SharedArrayBuffer(8) },
    { ...handle, control: new SharedArrayBuffer(1 << 20) },
    { ...handle, control: new ArrayBuffer(1 << 20) },
    { ...handle, pages: [] },
    { ...handle, buffers: null },
    { ...handle, buffers: [] },
    { ...handle, pages: new Float64Array(3).fill(9) },
    { ...handle, device: null },
    { ...handle, magazine: 'x' },
    { ...handle, maxBlocks: -1 },
    { ...handle, dmapool: handle.dmapool + 1 },
  ];
  for (const [i, each] of junk.entries()) {
    await t.test(`number ${String(i)}`, () => {
      throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => attachPool(each as SharedPoolHandle).pool);
    });
  }
});

test('a handle of another version is refused, and says so', async (t) => {
  const { handle } = await sharedPool(t, { workers: 0 });
  const control = new SharedArrayBuffer(handle.control.byteLength);
  new Uint8Array(control).set(new Uint8Array(handle.control));
  const header = new Int32Array(control);
  header[0] = header[0]! + 1;
  const error = throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => attachPool({ ...handle, control }).pool);
  assert.match(error.message, /version/);
});

test('an attach that fails leaves nobody attached', async (t) => {
  const { pool, memory, handle } = await sharedPool(t, { workers: 0 });
  const device = new Device({ name: 'other' });
  device.addAttribute('pools', () => 'somebody else’s');
  throwsCode('ERR_DMAPOOL_EXISTS', () => attachPool(handle, { device }).pool);
  pool.destroy();
  assert.equal(memory.bytesInUse, 0);
});

test('an attach with wrong arguments takes no worker’s slot', async (t) => {
  const { pool, memory, handle } = await sharedPool(t, { workers: 0, debug: true });
  const wrong: [unknown, unknown][] = [
    [handle, { device: { name: 'eth0' } }],
    [handle, null],
    [{ ...handle, debug: {} }, {}],
    [{ ...handle, debug: { ...handle.debug, book: new SharedArrayBuffer(8) } }, {}],
    [{ ...handle, debug: undefined }, {}],
    [{ ...handle, name: undefined }, {}],
    [{ ...handle, node: 'x' }, {}],
    [{ ...handle, initOnFree: 1 }, {}],
    [{ ...handle, device: { ...handle.device, dmaMask: -1 } }, {}],
    [{ ...handle, control: handle.control.slice(0, handle.control.byteLength - 8) }, {}],
  ];
  for (let i = 0; i < 70; i++) {
    const [each, options] = wrong[i % wrong.length]!;
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => attachPool(each as SharedPoolHandle, options as object).pool);
  }
  attachPool(handle).pool.destroy();
  pool.destroy();
  assert.equal(memory.bytesInUse, 0);
});

test('62 workers and no more', async (t) => {
  const { pool, memory, handle } = await sharedPool(t, { workers: 0 });
  const attached: DmaPool[] = [];
  for (let i = 0; i < 61; i++) attached.push(attachPool(handle).pool);
  throwsCode('ERR_DMAPOOL_LIMIT', () => attachPool(handle).pool);
  attached.pop()!.destroy();
  attached.push(attachPool(handle).pool);
  for (const each of attached) each.destroy();
  pool.destroy();
  await until('the memory is back', () => memory.bytesInUse === 0);
});

test('pools that can’t be shared say why, and go on as before', async () => {
  const device = new Device({ name: 'nic', memory: new HeapMemory(), log: new RecordingLog() });
  for (const options of [{}, { maxBlocks: 2 ** 24 }]) {
    const pool = DmaPool.create('rx', device, { size: 64, ...options });
    const block = pool.alloc();
    throwsCode('ERR_DMAPOOL_NOT_SHAREABLE', () => sharePool(pool).handle);
    pool.free(block);
    assert.equal(pool.alloc().index, block.index);
  }
  const { pool } = makePool(1);
  const block = pool.alloc();
  const waiting = pool.allocWait();
  throwsCode('ERR_DMAPOOL_NOT_SHAREABLE', () => sharePool(pool).handle);
  pool.free(block);
  pool.free(await waiting);
  for (const magazine of [1, 0, -1, 0.5, 65_537, 'x']) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => sharePool(pool, { magazine: magazine as number }).handle);
  }
  pool.destroy();
  throwsCode('ERR_DMAPOOL_DESTROYED', () => sharePool(pool).handle);
});

test('sharing that finds too little memory, or a source that throws, changes nothing', () => {
  for (const fate of ['none', 'throw'] as const) {
    const memory = new FaultyMemory();
    const device = new Device({ name: 'nic', memory, log: new RecordingLog() });
    const pool = DmaPool.create('rx', device, { size: 256, maxBlocks: 64 });
    const block = pool.alloc();
    memory.onAlloc = (call) => (call >= 3 ? fate : 'ok');
    assert.throws(
      () => sharePool(pool).handle,
      fate === 'none' ? { code: 'ERR_DMAPOOL_NO_MEMORY' } : /the source broke/,
    );
    assert.equal(memory.live.size, 1);
    assert.deepEqual(countsOf(pool), { active: 1, blocks: 16, pages: 1 });
    memory.onAlloc = () => 'ok';
    sharePool(pool);
    pool.free(block);
    pool.destroy();
    assert.equal(memory.live.size, 0);
  }
});

// ---- workers of workers

test('a worker shares on to one of its own, and takes it along when it dies', async (t) => {
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

test('a worker whose maker left is not taken for a child of who comes next', async (t) => {
  const { pool, log, handle, workers } = await sharedPool(t);
  const [middle] = workers;
  await middle!.call('makeInner');
  const taken = (await middle!.call('callInner', 'alloc', [2])) as number[];
  await middle!.call('destroy');
  const next = await attachedWorker(handle);
  await next.kill();
  assert.equal(log.text, '', 'nobody died with blocks');
  const mine = range(0, 64).map(() => pool.tryAllocIndex());
  const theirs = (await middle!.call('callInner', 'alloc', [64])) as number[];
  assertDistinct([...mine, ...taken, ...theirs], 64);
});

test('a worker whose maker left dies with it all the same, also when another came in its place', async (t) => {
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

test('a handle that came from a sibling does not tie two lives together', async (t) => {
  const { pool, log, workers } = await sharedPool(t);
  const [a] = workers;
  const b = await attachedWorker(await a!.call('share'));
  workers.push(b);
  const taken = await b.call('alloc', 2);
  await a!.kill();
  assert.equal(log.text, '', 'nobody died with blocks');
  const mine = range(0, 64).map(() => pool.tryAllocIndex());
  assertDistinct([...mine, ...taken, ...(await b.call('alloc', 64))], 64);
});

/** Indices of `count` blocks, none of them twice; -1 stands for a refusal. */
function assertDistinct(indices: readonly number[], count: number): void {
  const taken = indices.filter((index) => index >= 0);
  assert.equal(taken.length, count);
  assert.equal(new Set(taken).size, count);
}
