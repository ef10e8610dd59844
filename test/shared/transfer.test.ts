/** Transferring and accepting blocks between workers. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sharePool } from 'dmapool/shared';
import { owns } from '../support/pools.ts';
import { throwsCode } from '../support/errors.ts';
import { attachedWorker, sharedPool } from './fixture.ts';
import { refusedWith } from './remote.ts';

test('the giver cannot use a block that is in transit or accepted', async (t) => {
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

test('a ticket is valid once, in any worker including the giver', async (t) => {
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

test('bulk transfer and bulk accept move all blocks or none', async (t) => {
  const { pool, workers } = await sharedPool(t, { workers: 2 });
  const [a, b] = workers;
  const taken = await a!.call('allocBulk', 20);
  for (const index of taken) await a!.call('write', index, index * 3);
  const tickets = await a!.call('transferBulk', taken);
  assert.deepEqual(await b!.call('acceptBulk', tickets), taken);
  for (const index of taken) assert.equal(await b!.call('read', index), index * 3);
  // One block is not in transit: none is accepted.
  const again = await b!.call('transferBulk', taken.slice(1));
  await refusedWith('ERR_DMAPOOL_BAD_TICKET', a!.call('acceptBulk', [...again, tickets[0]!]));
  await refusedWith('ERR_DMAPOOL_NOT_OWNER', a!.call('free', [taken[1]!]));
  assert.deepEqual(await a!.call('acceptBulk', again), taken.slice(1));
  // One block has another owner: none is transferred.
  await refusedWith('ERR_DMAPOOL_NOT_OWNER', a!.call('transferBulk', [...taken.slice(1), taken[0]!]));
  await a!.call('free', taken.slice(1));
  await b!.call('free', [taken[0]!]);
  assert.equal(pool.statistics().active, 0);
});

test('a bulk accept with the same ticket twice accepts no block', async (t) => {
  const { pool, workers } = await sharedPool(t);
  const ticket = sharePool(pool).transfer(pool.alloc());
  await refusedWith('ERR_DMAPOOL_BAD_TICKET', workers[0]!.call('acceptBulk', [ticket, ticket]));
  assert.equal((await workers[0]!.call('acceptBulk', [ticket])).length, 1);
});

test('the ticket of a dead giver is void, even if another worker has taken its slot', async (t) => {
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
