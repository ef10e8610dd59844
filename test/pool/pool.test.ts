/** Allocation: the order of blocks, zeroing, limits, bulk calls. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type AllocOptions, Device, type DmaBlock, DmaPool } from 'dmapool';
import { countsOf, tryAllocBulk } from '../support/pools.ts';
import { throwsCode } from '../support/errors.ts';
import { FaultyMemory } from '../support/faulty-memory.ts';
import { makeDevice } from './fixture.ts';

test('a fresh page gives ascending addresses, and a freed block is the next one allocated', () => {
  const pool = DmaPool.create('ehci_qtd', makeDevice(), { size: 96, align: 32, boundary: 4096 });
  const blocks = Array.from({ length: 43 }, () => pool.alloc());
  const base = blocks[0]!.dma;
  assert.equal(base % 4096, 0);
  for (let i = 0; i < 42; i++) assert.equal(blocks[i]!.dma, base + i * 96);
  assert.equal(blocks[42]!.dma % 4096, 0);
  assert.equal(pool.statistics().pages, 2);
  pool.free(blocks[7]!);
  pool.free(blocks[3]!);
  assert.equal(pool.alloc(), blocks[3]);
  assert.equal(pool.alloc(), blocks[7]);
});

test('zero: true clears the bytes of the last holder, alloc without it does not', () => {
  const pool = DmaPool.create('p', makeDevice(), { size: 64 });
  const block = pool.alloc();
  block.bytes.fill(0x55);
  pool.free(block);
  assert.equal(pool.alloc().bytes[63], 0x55);
  pool.free(block);
  assert.ok(pool.alloc({ zero: true }).bytes.every((byte) => byte === 0));
  block.bytes.fill(0x55);
  pool.free(block);
  assert.ok(pool.tryAlloc({ zero: true })!.bytes.every((byte) => byte === 0));
  block.bytes.fill(0x55);
  pool.free(block);
  const index = pool.tryAllocIndex({ zero: true });
  assert.ok(pool.bytesOf(index).every((byte) => byte === 0));
});

test('initOnAlloc clears a block at allocation, initOnFree at free', () => {
  const onAlloc = DmaPool.create('a', makeDevice(), { size: 64, initOnAlloc: true });
  const a = onAlloc.alloc();
  a.bytes.fill(1);
  a.free();
  assert.equal(a.bytes[0], 1);
  assert.equal(onAlloc.alloc(), a);
  assert.equal(a.bytes[0], 0);
  const onFree = DmaPool.create('f', makeDevice(), { size: 64, initOnFree: true });
  const f = onFree.alloc();
  f.bytes.fill(1);
  f.free();
  assert.ok(f.bytes.every((byte) => byte === 0));
  f.bytes.fill(2);
  assert.equal(onFree.alloc().bytes[0], 2);
});

test('without memory alloc throws with the reason, tryAlloc returns null, and the pool stays usable', () => {
  const pool = DmaPool.create('p', makeDevice(8192), { size: 4096 });
  const blocks = [pool.alloc(), pool.alloc()];
  assert.match(
    throwsCode('ERR_DMAPOOL_NO_MEMORY', () => pool.alloc()).message,
    /pool p: a block would need 4096 bytes of heap below 0x/,
  );
  assert.equal(pool.tryAlloc(), null);
  assert.equal(pool.tryAlloc({ zero: true }), null);
  assert.equal(pool.tryAllocIndex(), -1);
  assert.equal(pool.tryAllocIndex({ zero: true }), -1);
  throwsCode('ERR_DMAPOOL_NO_MEMORY', () => pool.alloc({ zero: true }));
  assert.equal(pool.statistics().failures, 6);
  pool.free(blocks[0]!);
  assert.equal(pool.alloc(), blocks[0]);
});

test('a limit on blocks applies within a page too', () => {
  const pool = DmaPool.create('p', makeDevice(), { size: 64, maxBlocks: 3 });
  const blocks = [pool.alloc(), pool.alloc(), pool.alloc()];
  assert.match(throwsCode('ERR_DMAPOOL_LIMIT', () => pool.alloc()).message, /a block would exceed maxBlocks 3/);
  assert.equal(pool.tryAlloc(), null);
  throwsCode('ERR_DMAPOOL_LIMIT', () => {
    pool.reserve(1);
  });
  pool.free(blocks[1]!);
  assert.equal(pool.alloc(), blocks[1]);
  assert.equal(pool.statistics().highWater, 3);
});

test('grow: false opens no page; reserve opens pages beforehand', () => {
  const memory = new FaultyMemory();
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 1024 });
  throwsCode('ERR_DMAPOOL_NO_FREE_BLOCK', () => pool.alloc({ grow: false }));
  assert.equal(pool.tryAllocIndex({ grow: false }), -1);
  assert.equal(memory.calls, 0);
  pool.reserve(5);
  assert.equal(memory.calls, 2);
  pool.reserve(5);
  assert.equal(memory.calls, 2);
  for (let i = 0; i < 8; i++) pool.alloc({ grow: false });
  throwsCode('ERR_DMAPOOL_NO_FREE_BLOCK', () => pool.allocIndex({ grow: false }));
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => pool.alloc('GFP_ATOMIC' as unknown as AllocOptions));
});

test('bulk calls are all or nothing, and allocate the same blocks as single calls', () => {
  const bulk = DmaPool.create('bulk', makeDevice(), { size: 256 });
  const single = DmaPool.create('single', makeDevice(), { size: 256 });
  const blocks: DmaBlock<'bulk'>[] = [];
  bulk.allocBulk(blocks, 20);
  const singles = Array.from({ length: 20 }, () => single.alloc());
  assert.deepEqual(
    blocks.map((block) => block.dma - blocks[0]!.dma),
    singles.map((block) => block.dma - singles[0]!.dma),
  );
  bulk.freeBulk(blocks);
  for (const block of singles) single.free(block);
  assert.equal(bulk.alloc().index, single.alloc().index);
  const small = DmaPool.create('small', makeDevice(8192), { size: 2048 });
  const into = new Int32Array(8);
  throwsCode('ERR_DMAPOOL_NO_MEMORY', () => {
    small.allocIndexBulk(into, 5);
  });
  assert.equal(tryAllocBulk(small, [], 5), false);
  assert.equal(small.statistics().active, 0);
  small.allocIndexBulk(into, 4);
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
    small.freeIndexBulk(into, 9);
  });
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
    small.allocIndexBulk([1, 2] as unknown as Int32Array);
  });
  for (const count of [-1, 1.5, NaN, '1']) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      small.allocIndexBulk(into, count as number);
    });
  }
  into[3] = 99;
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
    small.freeIndexBulk(into, 4);
  });
  assert.equal(small.statistics().active, 4);
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
    bulk.freeBulk(blocks, 21);
  });
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
    bulk.freeBulk([undefined as unknown as DmaBlock<'bulk'>]);
  });
});

test('the cost per block does not grow with the pool', () => {
  // 373,959 blocks of 128 bytes is the demand of one real SAS driver. The test has no time limit: quadratic work would
  // exceed that of the runner.
  const pool = DmaPool.create('sas', makeDevice(2 ** 26), { size: 128, align: 128 });
  const indices = new Int32Array(373_959);
  for (let i = 0; i < indices.length; i++) indices[i] = pool.allocIndex();
  assert.equal(new Set(indices).size, indices.length);
  for (const index of indices) pool.freeIndex(index);
  assert.deepEqual(countsOf(pool), { active: 0, blocks: 373_984, pages: 11_687 });
  assert.equal(pool.trim(), 11_687);
});
