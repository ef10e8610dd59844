/** Blocks in transit: listed, counted, and recalled by their giver. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { Device, DmaPool, HeapMemory } from 'dmapool';
import { attachPool, sharePool, type WorkerExit } from 'dmapool/shared';
import { throwsCode } from '../support/errors.ts';
import { RecordingLog } from '../support/log.ts';
import { indicesOf } from '../support/pools.ts';
import { until } from '../support/until.ts';
import { sharedPool } from './fixture.ts';

function makeShared(options: { readonly debug?: boolean } = {}) {
  const device = new Device({ name: 'nic', memory: new HeapMemory(), log: new RecordingLog() });
  const pool = DmaPool.create('rx', device, { size: 256, maxBlocks: 64, ...options });
  return { pool, shared: sharePool(pool), log: device };
}

test('blocks in transit are listed and counted, and can be recalled singly, in bulk or all', () => {
  const { pool, shared } = makeShared();
  const blocks = Array.from({ length: 4 }, () => pool.alloc());
  const tickets = blocks.map((block) => shared.transfer(block));
  assert.deepEqual(
    shared.inTransit(),
    blocks.map(({ index }, i) => ({ ticket: tickets[i], index })),
  );
  assert.equal(pool.statistics().inTransit, 4);
  assert.equal(pool.statistics().active, 4);
  throwsCode('ERR_DMAPOOL_NOT_OWNER', () => {
    pool.free(blocks[0]!);
  });

  assert.deepEqual(shared.recall([tickets[2]!]), [blocks[2]]);
  assert.deepEqual(shared.recallIndex([tickets[0]!, tickets[2]!]), [blocks[0]!.index], 'a ticket can be recalled once');
  throwsCode('ERR_DMAPOOL_BAD_TICKET', () => shared.accept(tickets[0]!));
  assert.deepEqual(shared.recall(), [blocks[1], blocks[3]]);
  assert.deepEqual(shared.recall(), []);
  assert.deepEqual(shared.inTransit(), []);
  for (const block of blocks) pool.free(block);
  const { active, inTransit, frees, allocations } = pool.statistics();
  assert.deepEqual([active, inTransit, frees, allocations], [0, 0, 4, 4]);
});

test('recall refuses an accepted block and a block of another giver', async (t) => {
  const { pool, workers } = await sharedPool(t);
  const worker = workers[0]!;
  const shared = sharePool(pool);
  const [first, second] = [pool.alloc(), pool.alloc()];
  const tickets = [shared.transfer(first), shared.transfer(second)];
  await worker.call('accept', [tickets[0]!]);
  const [theirs] = await worker.call('alloc', 1);
  const [foreign] = await worker.call('transfer', [theirs!]);
  assert.deepEqual(shared.recall([...tickets, foreign!]), [second]);
  assert.equal(pool.statistics().inTransit, 1, 'the other worker’s block is still in transit');
  assert.deepEqual(await worker.call('recall'), [theirs]);
  throwsCode('ERR_DMAPOOL_BAD_TICKET', () => shared.accept(foreign!));
});

test('a recalled block has a new handle in debug mode, and keeps its bytes', () => {
  const { pool, shared } = makeShared({ debug: true });
  const before = pool.alloc();
  before.u32[0] = 7;
  const [after] = shared.recall([shared.transfer(before)]);
  assert.equal(after!.u32[0], 7);
  throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => {
    pool.free(before);
  });
  pool.free(after!);
});

test('an invalid ticket is refused, and nothing is recalled', () => {
  const { pool, shared } = makeShared();
  const ticket = shared.transfer(pool.alloc());
  for (const wrong of [-1, 0.5, NaN, '1', null, 2 ** 53]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => shared.recall([ticket, wrong as number]));
  }
  for (const wrong of [null, 1, 'x', {}]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => shared.recall(wrong as unknown as number[]));
  }
  assert.deepEqual(shared.recall([0, 2 ** 53 - 1]), [], 'a ticket that was never issued');
  assert.equal(shared.inTransit().length, 1);
  assert.equal(shared.recall([ticket, ticket]).length, 1);
});

test('blocks in transit of a destroyed pool can be recalled and freed', () => {
  const { pool, shared } = makeShared();
  shared.transfer(pool.alloc());
  pool.destroy();
  for (const block of shared.recall()) pool.free(block);
  assert.deepEqual(shared.recall(), []);
  assert.equal(pool.statistics().pages, 0);
});

test('sharePool on a shared pool returns the same shared pool, in an attached worker too', () => {
  const { pool, shared } = makeShared();
  assert.equal(sharePool(pool), shared);
  const attached = attachPool(shared.handle);
  assert.equal(sharePool(attached.pool), attached);
  assert.deepEqual([shared.worker, attached.worker], [1, 2]);
  attached.pool.destroy();
});

test('a shared pool refuses to be trimmed', () => {
  const { pool } = makeShared();
  pool.free(pool.alloc());
  const { message } = throwsCode('ERR_DMAPOOL_NOT_TRIMMABLE', () => pool.trim());
  assert.match(message, /other workers/);
});

// A consumer that is killed at a given step while it takes a ticket from a ring.
const CONSUMER = `
  import { workerData } from 'node:worker_threads';
  import { attachPool } from ${JSON.stringify(import.meta.resolve('dmapool/shared'))};
  const { handle, tickets, ends, step } = workerData;
  const shared = attachPool(handle);
  const stop = () => { Atomics.store(ends, 2, 1); for (;;) Atomics.wait(ends, 3, 0); };
  const head = Atomics.load(ends, 0);
  if (step === 'before') stop();
  const index = shared.acceptIndex(tickets[head]);
  if (step === 'between') stop();
  Atomics.store(ends, 0, head + 1);
  stop();
`;

for (const step of ['before', 'between', 'after']) {
  test(`recall after the death of a ring consumer that was killed ${step} accepting and advancing the head`, async () => {
    const { pool, shared } = makeShared();
    const exits: WorkerExit[] = [];
    shared.onWorkerExit((exit) => exits.push(exit));
    const given = Array.from({ length: 8 }, () => pool.allocIndex());
    const tickets = new Float64Array(new SharedArrayBuffer(8 * 8));
    const ends = new Int32Array(new SharedArrayBuffer(16));
    shared.transferIndexBulk(Int32Array.from(given), tickets);
    Atomics.store(ends, 1, given.length);
    const source = new URL(`data:text/javascript,${encodeURIComponent(CONSUMER)}`);
    const worker = new Worker(source, { workerData: { handle: shared.handle, tickets, ends, step } });
    await once(worker, 'online');
    await until('the consumer reaches the step', () => Atomics.load(ends, 2) === 1);
    await worker.terminate();
    await until('its exit is handled', () => exits.length === 1);

    const accepted = step === 'before' ? [] : [given[0]!];
    assert.deepEqual(exits[0]!.out, accepted);
    const head = Atomics.load(ends, 0);
    const recalled = shared.recallIndex([...tickets.subarray(head)]);
    assert.deepEqual(
      recalled.sort((a, b) => a - b),
      given.slice(accepted.length),
      'all blocks that were not accepted',
    );
    pool.freeIndexBulk(Int32Array.from(recalled));
    assert.equal(shared.reclaim(), accepted.length);
    assert.deepEqual(indicesOf(pool), []);
    assert.equal(pool.statistics().active, 0);
    pool.allocIndexBulk(new Int32Array(64));
  });
}
