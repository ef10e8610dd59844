/** A device's log that calls the pool during a call of the pool. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Device, type DmaBlock, DmaPool, type DmaPoolOptions, HeapMemory } from 'dmapool';
import { indicesOf } from '../support/pools.ts';
import { throwsCode } from '../support/errors.ts';

/** A debug pool with corrupted free blocks `corrupt`, whose log runs `onReport`. */
function corruptedPool(
  corrupt: readonly number[],
  onReport: (pool: DmaPool, device: Device) => void,
  options: Partial<DmaPoolOptions> = {},
): { pool: DmaPool; device: Device; memory: HeapMemory } {
  const memory = new HeapMemory();
  let armed = false;
  const device = new Device({
    name: 'hc',
    memory,
    log: {
      error: () => {
        if (!armed) return;
        armed = false;
        onReport(pool, device);
      },
      warn: () => undefined,
      info: () => undefined,
    },
  });
  const pool: DmaPool = DmaPool.create('qtd', device, { size: 64, debug: true, ...options });
  const indices = new Int32Array(16);
  pool.allocIndexBulk(indices);
  const views = corrupt.map((index) => pool.bytesOf(index));
  pool.freeIndexBulk(indices.reverse());
  for (const view of views) view[8] = 0;
  armed = true;
  return { pool, device, memory };
}

test('a log that allocates in bulk during a bulk allocation gets other blocks', () => {
  const inner: DmaBlock[] = [];
  const { pool } = corruptedPool([2], (each) => {
    each.allocBulk(inner, 4);
  });
  const outer: DmaBlock[] = [];
  pool.allocBulk(outer, 6);
  assert.equal(new Set([...outer, ...inner]).size, 10);
  assert.equal(pool.statistics().active, 10);
});

test('a log that frees every allocated block frees no block that is being checked', () => {
  const { pool } = corruptedPool([0], (each) => {
    for (const index of indicesOf(each)) each.freeIndex(index);
  });
  const out = Array.from({ length: 15 }, () => pool.allocIndex());
  assert.equal(new Set(out).size, 15);
  assert.ok(!out.includes(0));
  assert.equal(pool.statistics().quarantined, 1);
});

for (const quarantine of [true, false]) {
  test(`a log can destroy the pool, ${quarantine ? 'with' : 'without'} quarantine`, () => {
    const { pool, memory } = corruptedPool(
      [0],
      (each) => {
        each.destroy();
      },
      { debug: { quarantine } },
    );
    throwsCode('ERR_DMAPOOL_DESTROYED', () => pool.alloc());
    assert.equal(pool.statistics().active, 0);
    assert.equal(memory.bytesInUse, 0);
  });

  test(`a log can destroy the pool and reclaim, ${quarantine ? 'with' : 'without'} quarantine`, () => {
    const { pool, memory } = corruptedPool(
      [0],
      (each, device) => {
        each.destroy();
        device.reclaim();
      },
      { debug: { quarantine } },
    );
    throwsCode('ERR_DMAPOOL_DESTROYED', () => pool.alloc());
    const { active, frees, allocations, quarantined } = pool.statistics();
    assert.deepEqual([active, quarantined, frees], [0, 0, allocations]);
    assert.equal(memory.bytesInUse, 0);
  });
}

test('corruption is counted, with quarantine and without', () => {
  for (const quarantine of [true, false]) {
    const { pool } = corruptedPool([0, 3], () => undefined, { debug: { quarantine } });
    for (let i = 0; i < 6; i++) pool.alloc();
    const { corrupted, quarantined, active } = pool.statistics();
    assert.deepEqual([corrupted, quarantined, active], [2, quarantine ? 2 : 0, 6]);
  }
});

test('a log that frees every allocated block frees no block that a running bulk call has taken', () => {
  const { pool } = corruptedPool([3], (each) => {
    for (const index of indicesOf(each)) each.freeIndex(index);
  });
  const into = new Int32Array(8);
  pool.allocIndexBulk(into);
  assert.equal(new Set(into).size, 8);
  assert.deepEqual(
    [...indicesOf(pool)],
    [...into].sort((a, b) => a - b),
  );
  assert.equal(pool.statistics().active, 8);
});

test('a log that destroys the pool and reclaims during a bulk call loses nothing', () => {
  const { pool, memory } = corruptedPool([3], (each, device) => {
    each.destroy();
    device.reclaim();
  });
  throwsCode('ERR_DMAPOOL_DESTROYED', () => {
    pool.allocIndexBulk(new Int32Array(8));
  });
  const { active, frees, allocations } = pool.statistics();
  assert.deepEqual([active, frees], [0, allocations]);
  assert.equal(memory.bytesInUse, 0);
});
