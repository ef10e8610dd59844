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
