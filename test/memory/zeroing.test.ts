/** Zeroing and poison: exactly the block's bytes, in both kinds of buffer. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Device, DmaPool, type DmaPoolOptions } from 'dmapool';
import { ZonedMemory } from '../../src/memory/zoned-memory.ts';

const PAGE = 16_384;
const REGION = 16 * PAGE;

/** Multiples of 8 and others, below and above 4096, the limit of a pattern that is copied at once. */
const SIZES = [16, 17, 20, 64, 100, 1001, 4095, 4096, 4097, 8000, 8192, 9001];

function poolOn(Buffer: new (length: number) => ArrayBuffer | SharedArrayBuffer, options: DmaPoolOptions): DmaPool {
  const zone = { dma: PAGE, size: REGION, buffer: new Buffer(REGION), byteOffset: 0 };
  const memory = new ZonedMemory({ name: 'zone', pageSize: PAGE, zones: [zone] });
  return DmaPool.create('p', new Device({ name: 'd', memory }), options);
}

for (const Buffer of [ArrayBuffer, SharedArrayBuffer]) {
  test(`zero clears the bytes of its block and no others, of any size, in memory of type ${Buffer.name}`, () => {
    for (const size of SIZES) {
      const pool = poolOn(Buffer, { size });
      const blocks = Array.from({ length: 3 * pool.geometry.blocksPerPage }, () => pool.alloc());
      for (const { bytes } of blocks) bytes.fill(0x55);
      for (const [i, block] of blocks.entries()) {
        if (i % 2 === 0) continue;
        pool.free(block);
        assert.equal(pool.alloc({ zero: true }), block);
      }
      for (const [i, { bytes }] of blocks.entries()) {
        const expected = i % 2 === 0 ? 0x55 : 0;
        assert.ok(
          bytes.every((byte) => byte === expected),
          `block ${i} of ${size} bytes`,
        );
      }
    }
  });

  test(`debug mode poisons the bytes of its block and no others, of any size, in memory of type ${Buffer.name}`, () => {
    for (const size of SIZES) {
      const pool = poolOn(Buffer, { size, debug: { sites: false } });
      const indices = Array.from({ length: 2 * pool.geometry.blocksPerPage }, () => pool.allocIndex());
      for (const index of indices) assert.ok(pool.bytesOf(index).every((byte) => byte === 0xa9));
      for (const index of indices) if (index % 2 === 0) pool.freeIndex(index);
      for (const index of indices) {
        const expected = index % 2 === 0 ? 0xa7 : 0xa9;
        assert.ok(
          pool.bytesOf(index).every((byte) => byte === expected),
          `block ${index} of ${size} bytes`,
        );
      }
    }
  });
}

test('zeroing is correct in a pool whose pages have buffers of both kinds', () => {
  const zones = [ArrayBuffer, SharedArrayBuffer].map((Buffer, i) => ({
    dma: (i + 1) * PAGE,
    size: PAGE,
    buffer: new Buffer(PAGE),
    byteOffset: 0,
  }));
  const memory = new ZonedMemory({ name: 'zones', pageSize: PAGE, zones });
  const pool = DmaPool.create('p', new Device({ name: 'd', memory }), { size: 512 });
  const blocks = Array.from({ length: 2 * pool.geometry.blocksPerPage }, () => pool.alloc());
  for (const { bytes } of blocks) bytes.fill(0x55);
  for (const block of blocks) pool.free(block);
  for (let i = blocks.length - 1; i >= 0; i--) {
    assert.ok(pool.alloc({ zero: true }).bytes.every((byte) => byte === 0));
    if (i > 0) assert.ok(blocks[i - 1]!.bytes.every((byte) => byte === 0x55));
  }
});
