import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Device, dmaBitMask, type DmaBlock, DmaPool, HeapMemory } from 'dmapool';
import { type BlockDemand, BlockOracle, type BlockRule } from '../../src/trace/oracle.ts';

const DEMAND: BlockDemand = { size: 256, align: 64, boundary: 4096 };

function setUp(): { oracle: BlockOracle; device: Device; block: DmaBlock; other: DmaBlock } {
  const oracle = new BlockOracle(new HeapMemory());
  const device = new Device({ name: '0000:00:02.0', memory: oracle, dmaMask: dmaBitMask(64) });
  const pool = DmaPool.create('test', device, DEMAND);
  return { oracle, device, block: pool.alloc(), other: pool.alloc() };
}

/** A block with wrong properties, as of a faulty pool. */
function fake(block: DmaBlock, dma: number, bytes: Uint8Array = block.bytes): DmaBlock {
  return Object.create(block, { dma: { value: dma }, bytes: { value: bytes } }) as DmaBlock;
}

test('valid blocks break no rule', () => {
  const { oracle, device, block, other } = setUp();
  assert.deepEqual(oracle.taken(0, block, DEMAND, true, device), []);
  assert.deepEqual(oracle.taken(1, other, DEMAND, true, device), []);
  assert.deepEqual(oracle.given(0, block), []);
  assert.deepEqual(oracle.taken(2, block, DEMAND, false, device), []);
});

function rules(check: (set: ReturnType<typeof setUp>) => readonly { rule: BlockRule }[]): BlockRule[] {
  return check(setUp()).map(({ rule }) => rule);
}

test('each broken rule is found', () => {
  const far = 4096 * 4096;
  assert.deepEqual(
    rules(({ oracle, block, device }) => oracle.taken(0, block, { ...DEMAND, align: far * 4096 }, false, device)),
    ['align'],
  );
  assert.deepEqual(
    rules(({ oracle, block, other, device }) => {
      // Bytes 128 to 383 of the page, with a boundary at 256.
      const { buffer, byteOffset } = block.bytes;
      const between = fake(other, block.dma + 128, new Uint8Array(buffer, byteOffset + 128, 256));
      return oracle.taken(0, between, { ...DEMAND, boundary: 256 }, false, device);
    }),
    ['boundary'],
  );
  assert.deepEqual(
    rules(({ oracle, block, device }) => oracle.taken(0, fake(block, block.dma + far), DEMAND, false, device)),
    ['contained'],
  );
  assert.deepEqual(
    rules(({ oracle, block, device }) => oracle.taken(0, fake(block, block.dma + 3904), DEMAND, false, device)),
    ['boundary', 'contained'],
  );
  assert.deepEqual(
    rules(({ oracle, block, other, device }) => oracle.taken(0, fake(block, other.dma), DEMAND, false, device)),
    ['contained'],
  );
  assert.deepEqual(
    rules(({ oracle, block, device }) => {
      oracle.taken(0, block, DEMAND, false, device);
      return oracle.taken(1, block, DEMAND, false, device);
    }),
    ['overlap'],
  );
  assert.deepEqual(
    rules(({ oracle, block, device }) => {
      block.bytes[255] = 1;
      return oracle.taken(0, block, DEMAND, true, device);
    }),
    ['zero'],
  );
  assert.deepEqual(
    rules(({ oracle, block, device }) => {
      oracle.taken(0, block, DEMAND, true, device);
      block.bytes[255]! ^= 1;
      return oracle.given(0, block);
    }),
    ['kept'],
  );
  assert.deepEqual(
    rules(({ oracle, block, device }) => {
      const size = block.pool.geometry.blockSize;
      block.pool.free(block);
      const { dma } = block;
      const bytes = new Uint8Array(size);
      return oracle.taken(0, fake(block, dma, bytes), DEMAND, true, device);
    }),
    ['contained'],
  );
});
