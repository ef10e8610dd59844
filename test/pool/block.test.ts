/** Blocks: lookup by address, views of any width, the device's view, `using`, iteration. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Device, dmaBitMask, DmaPool, HeapMemory } from 'dmapool';
import { indicesOf } from '../support/pools.ts';
import { throwsCode } from '../support/errors.ts';
import { makeDevice } from './fixture.ts';

test('a block is found by any address inside it', () => {
  const pool = DmaPool.create('p', makeDevice(), { size: 96, align: 32 });
  const blocks = Array.from({ length: 100 }, () => pool.alloc());
  for (const block of blocks) {
    assert.equal(pool.blockAt(block.dma), block);
    assert.equal(pool.blockAt(block.dma + 95), block);
  }
  // The page's tail belongs to no block, nor does an address outside all pages.
  assert.equal(pool.blockAt(blocks[0]!.dma + 42 * 96), null);
  assert.equal(pool.blockAt(Number.MAX_SAFE_INTEGER), null);
  pool.free(blocks[5]!);
  assert.equal(pool.blockAt(blocks[5]!.dma), null);
  assert.equal(pool.indexAt(blocks[6]!.dma), 6);
  for (const dma of [-1, 0.5, NaN, '0', 1n])
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => pool.blockAt(dma as number));
});

test('a block has views of any width', () => {
  const pool = DmaPool.create('p', makeDevice(), { size: 64, align: 64 });
  const block = pool.alloc();
  assert.equal(block.size, 64);
  assert.equal(block.pool, pool);
  assert.equal(block.generation, 0);
  block.view.setUint32(0, 0x0403_0201, true);
  assert.deepEqual([...block.bytes.subarray(0, 4)], [1, 2, 3, 4]);
  assert.equal(block.u32[0], 0x0403_0201);
  assert.equal(block.u16[1], 0x0403);
  block.i32[1] = -1;
  assert.equal(block.u32[1], 0xffff_ffff);
  assert.equal(block.bytes, block.bytes);
  assert.equal(block.view, block.view);
  assert.equal(block.u16, block.u16);
  assert.equal(block.u32, block.u32);
  assert.equal(block.i32, block.i32);
  const odd = DmaPool.create('odd', makeDevice(), { size: 17 });
  odd.alloc();
  const crooked = odd.alloc();
  assert.match(throwsCode('ERR_DMAPOOL_UNALIGNED', () => crooked.u32).message, /not aligned to 4 bytes/);
  throwsCode('ERR_DMAPOOL_UNALIGNED', () => crooked.u16);
  assert.equal(crooked.view.byteLength, 17);
});

test('the device sees writes of the CPU, and the CPU sees writes of the device', () => {
  const memory = new HeapMemory();
  const device = new Device({ name: 'x', memory, dmaMask: dmaBitMask(64) });
  const pool = DmaPool.create('p', device, { size: 64 });
  const block = pool.alloc();
  block.bytes.set([1, 2, 3]);
  assert.deepEqual([...memory.translate(device, block.dma, 3)], [1, 2, 3]);
  memory.write(device, block.dma, Uint8Array.of(9));
  assert.equal(block.bytes[0], 9);
  const { dma } = block;
  pool.free(block);
  pool.destroy();
  throwsCode('ERR_DMAPOOL_IOMMU_FAULT', () => memory.translate(device, dma, 1));
});

test('using frees blocks, pools and devices', () => {
  const memory = new HeapMemory();
  {
    using device = new Device({ name: 'x', memory });
    using pool = DmaPool.createManaged('p', device, { size: 64 });
    {
      using block = pool.alloc();
      assert.equal(pool.statistics().active, 1);
      block.bytes[0] = 1;
    }
    {
      using early = pool.alloc();
      early.free();
    }
    assert.equal(pool.statistics().active, 0);
    assert.equal(memory.bytesInUse, 4096);
  }
  assert.equal(memory.bytesInUse, 0);
});

test('iteration lists the allocated blocks and allows to free them', () => {
  const pool = DmaPool.create('p', makeDevice(), { size: 64 });
  const blocks = Array.from({ length: 70 }, () => pool.alloc());
  pool.freeIndex(3);
  assert.deepEqual(
    [...indicesOf(pool)],
    [...blocks.keys()].filter((index) => index !== 3),
  );
  for (const block of pool.allocated()) pool.free(block);
  assert.equal(pool.statistics().active, 0);
});
