/** Wrong frees, and stale handles. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type DmaBlock, DmaPool } from 'dmapool';
import { owns } from '../support/pools.ts';
import { throwsCode } from '../support/errors.ts';
import { makeDevice } from './fixture.ts';

test('every wrong free is a typed error and changes nothing', () => {
  const device = makeDevice();
  const pool = DmaPool.create('p', device, { size: 64 });
  const other = DmaPool.create('q', device, { size: 64 });
  const block = pool.alloc();
  const foreign = other.alloc();
  const before = pool.statistics();
  const wrong: DmaPool = pool;
  assert.match(
    throwsCode('ERR_DMAPOOL_WRONG_POOL', () => {
      wrong.free(foreign);
    }).message,
    /pool p: block 0 belongs to .*pool q/,
  );
  for (const junk of [null, undefined, 5, 'block', {}, { index: 0 }, []]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      wrong.free(junk as unknown as DmaBlock);
    });
  }
  for (const index of [1, 63]) {
    throwsCode('ERR_DMAPOOL_NOT_ALLOCATED', () => {
      pool.freeIndex(index);
    });
  }
  for (const index of [64, -1, 0.5, NaN, Infinity, '0', 0n, null]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      pool.freeIndex(index as number);
    });
  }
  assert.match(
    throwsCode('ERR_DMAPOOL_BAD_ADDRESS', () => {
      pool.freeAt(block.dma + 16);
    }).message,
    /is in block 0 from 0x/,
  );
  throwsCode('ERR_DMAPOOL_BAD_ADDRESS', () => {
    pool.freeAt(0);
  });
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
    pool.freeAt(-1);
  });
  assert.deepEqual(pool.statistics(), before);
  pool.freeAt(block.dma);
  assert.match(
    throwsCode('ERR_DMAPOOL_NOT_ALLOCATED', () => {
      block.free();
    }).message,
    /block 0 at 0x[0-9a-f]+ is not allocated/,
  );
});

test('a handle is stale once its page was returned, even if the page number is used again', () => {
  const pool = DmaPool.create('p', makeDevice(), { size: 4096 });
  const old = pool.alloc();
  pool.free(old);
  assert.equal(pool.trim(), 1);
  throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => {
    pool.free(old);
  });
  throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => old.bytes);
  throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => old.dma);
  const fresh = pool.alloc();
  assert.equal(fresh.index, old.index);
  assert.notEqual(fresh, old);
  throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => {
    pool.free(old);
  });
  assert.equal(owns(pool, old), false);
  assert.equal(owns(pool, fresh), true);
});

test('a returned page makes the handles of all its blocks stale, and of no others', () => {
  const pool = DmaPool.create('p', makeDevice(), { size: 16 });
  const { blocksPerPage } = pool.geometry;
  const blocks = Array.from({ length: 3 * blocksPerPage }, () => pool.alloc());
  const [first, going, last] = [0, 1, 2].map((page) => blocks.slice(page * blocksPerPage, (page + 1) * blocksPerPage));
  for (const block of going!) pool.free(block);
  assert.equal(pool.trim(), 1);
  for (const block of going!) throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => block.dma);
  for (const block of [...first!, ...last!]) assert.equal(pool.blockAt(block.dma), block);
});

for (const [options, count] of [
  [{ size: 16 }, 20_000],
  [{ size: 68, align: 32, boundary: 4096 }, 3000],
  [{ size: 4096 }, 300],
] as const) {
  test(`${String(count)} blocks of ${String(options.size)} bytes keep their objects while the tables grow`, () => {
    const pool = DmaPool.create('p', makeDevice(), options);
    const blocks: DmaBlock<'p'>[] = [];
    for (let i = 0; i < count; i++) blocks.push(pool.alloc());
    assert.equal(new Set(blocks).size, count);
    for (const [i, block] of blocks.entries()) {
      assert.equal(block.index, i);
      assert.equal(pool.blockAt(block.dma), block);
    }
    for (const block of blocks) pool.free(block);
    // The block freed last comes first.
    for (let i = count - 1; i >= 0; i--) assert.equal(pool.alloc(), blocks[i]);
  });
}
