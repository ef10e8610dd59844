import assert from 'node:assert/strict';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { test } from 'node:test';
import { DmaPool } from 'dmapool';
import type { ChannelMessages } from 'dmapool/observe';
import { sharePool } from 'dmapool/shared';
import { quietDevice } from './fixture.ts';

/** The messages on a channel while `action` runs. */
function messages<K extends keyof ChannelMessages>(name: K, action: () => void): ChannelMessages[K][] {
  const received: ChannelMessages[K][] = [];
  const listener = (message: unknown): void => void received.push(message as ChannelMessages[K]);
  subscribe(`dmapool:${name}`, listener);
  try {
    action();
  } finally {
    unsubscribe(`dmapool:${name}`, listener);
  }
  return received;
}

test('page: each page that is taken or returned', () => {
  const pool = DmaPool.create('pages', quietDevice(), { size: 2048 });
  const came = messages('page', () => {
    pool.reserve(4);
  });
  assert.deepEqual(came, [
    { pool, opened: true, page: 0 },
    { pool, opened: true, page: 1 },
  ]);
  const went = messages('page', () => {
    pool.trim();
  });
  assert.deepEqual(went.map(({ opened, page }) => [opened, page]).sort(), [
    [false, 0],
    [false, 1],
  ]);
});

test('exhausted: the reason', () => {
  const pool = DmaPool.create('empty', quietDevice(), { size: 2048, maxBlocks: 1 });
  const reasons = messages('exhausted', () => {
    pool.tryAlloc({ grow: false });
    pool.alloc();
    pool.tryAlloc();
  }).map(({ reason }) => reason);
  assert.deepEqual(reasons, ['no-free-block', 'limit']);
});

test('corrupted: index and address', () => {
  const pool = DmaPool.create('late', quietDevice(), { size: 64, debug: true });
  const block = pool.alloc();
  const { bytes, dma, index } = block;
  block.free();
  bytes[0] = 1;
  const received = messages('corrupted', () => {
    pool.alloc();
  });
  assert.deepEqual(received, [{ pool, index, dma }]);
});

test('leak: the number of blocks at destroy, also of a shared pool', () => {
  for (const share of [false, true]) {
    const pool = DmaPool.create('leaky', quietDevice(), { size: 64, maxBlocks: 8 });
    if (share) sharePool(pool);
    pool.allocIndexBulk(new Int32Array(3));
    const received = messages('leak', () => {
      pool.destroy();
    });
    assert.deepEqual(received, [{ pool, blocks: 3 }]);
  }
});

test('a subscriber may call the pool, at any event', () => {
  const pool = DmaPool.create('again', quietDevice(), { size: 2048, maxBlocks: 4 });
  const held: number[] = [];
  const came = messages('page', () => {
    const listener = (): void => void held.push(pool.tryAllocIndex());
    subscribe('dmapool:page', listener);
    try {
      held.push(pool.allocIndex());
    } finally {
      unsubscribe('dmapool:page', listener);
    }
  });
  assert.ok(came.length > 0);
  assert.deepEqual(new Set(held).size, held.length, 'no block twice');
  for (const index of held) pool.freeIndex(index);
  assert.equal(pool.statistics().active, 0);
});
