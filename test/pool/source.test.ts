/** The memory that a pool allocates from its source and returns to it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Device, DmaPool, HeapMemory } from 'dmapool';
import { countsOf, indicesOf } from '../support/pools.ts';
import { throwsCode } from '../support/errors.ts';
import { FaultyMemory } from '../support/faulty-memory.ts';

test('a pool takes no page before the first block and returns none before destroy', () => {
  const memory = new HeapMemory();
  const device = new Device({ name: 'x', memory });
  const pool = DmaPool.create('p', device, { size: 2048 });
  assert.equal(memory.bytesInUse, 0);
  const blocks = [pool.alloc(), pool.alloc(), pool.alloc()];
  for (const block of blocks) block.free();
  assert.equal(memory.bytesInUse, 8192);
  pool.destroy();
  assert.equal(memory.bytesInUse, 0);
  pool.destroy();
});

test('a source that throws loses no block and no page', () => {
  const memory = new FaultyMemory();
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 1024 });
  memory.onAlloc = (call) => (call % 2 === 0 ? 'throw' : 'ok');
  for (const call of [() => pool.alloc(), () => pool.tryAlloc()]) {
    memory.calls = 0;
    assert.throws(call, /the source broke/);
    assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
  }
  // The second page of a bulk call fails: the first one is returned.
  memory.calls = 1;
  assert.throws(() => {
    pool.allocIndexBulk(new Int32Array(8));
  }, /the source broke/);
  assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
  pool.allocIndexBulk(new Int32Array(4));
  pool.freeIndexBulk(Int32Array.from(indicesOf(pool)));
  memory.onFree = () => 'throw';
  assert.throws(() => pool.trim(), /the source broke while freeing/);
  assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
  assert.equal(memory.live.size, 0);
});

test('a source that calls the pool finds it in a consistent state', () => {
  const memory = new FaultyMemory();
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  let depth = 0;
  memory.onAlloc = () => {
    if (depth++ === 0) pool.free(pool.alloc());
    return 'ok';
  };
  pool.alloc();
  assert.equal(pool.statistics().active, 1);
  memory.onAlloc = () => {
    pool.destroy();
    return 'ok';
  };
  const held = [...pool.allocated()];
  pool.alloc();
  throwsCode('ERR_DMAPOOL_DESTROYED', () => pool.alloc());
  for (const block of held) pool.free(block);
  for (const block of [...pool.allocated()]) pool.free(block);
  assert.equal(memory.live.size, 0);
});

test('trim returns only idle pages, and the pool can take new ones', () => {
  const memory = new FaultyMemory();
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 2048 });
  const blocks = Array.from({ length: 6 }, () => pool.alloc());
  pool.free(blocks[0]!);
  pool.free(blocks[2]!);
  pool.free(blocks[3]!);
  assert.equal(pool.trim(), 1);
  assert.deepEqual(countsOf(pool), { active: 3, blocks: 4, pages: 2 });
  assert.equal(pool.trim(), 0);
  assert.equal(pool.alloc().index, 0);
  assert.equal(pool.alloc().index, 2);
  assert.equal(pool.statistics().pages, 3);
  assert.equal(pool.statistics().highWater, 6);
});

test('an out-of-memory error names the pools of the same source that have idle pages', () => {
  const memory = new HeapMemory({ limit: 8 * 4096 });
  const [nic, disk] = ['nic', 'disk'].map((name) => new Device({ name, memory }));
  const idle = DmaPool.create('rx', nic!, { size: 2048 });
  const busy = DmaPool.create('cq', disk!, { size: 4096 });
  const elsewhere = DmaPool.create('far', new Device({ name: 'far', memory: new HeapMemory() }), { size: 64 });
  elsewhere.reserve(1);
  idle.reserve(6);
  idle.alloc();
  for (let i = 0; i < 5; i++) busy.alloc();
  const pool = DmaPool.create('sq', disk!, { size: 4096 });
  const { message } = throwsCode('ERR_DMAPOOL_NO_MEMORY', () => pool.alloc());
  assert.match(message, /pool rx of nic holds 2 idle pages/);
  assert.doesNotMatch(message, /cq|far/);
  assert.equal(idle.trim(), 2);
  pool.alloc();
  idle.destroy();
});
