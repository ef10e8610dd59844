import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PoolGeometry } from 'dmapool';
import { throwsCode } from '../support/errors.ts';

const INT_MAX = 2 ** 31 - 1;

/** The rule block by block, without optimization. */
function plainOffsets(blockSize: number, allocation: number, boundary: number): number[] {
  const offsets: number[] = [];
  let offset = 0;
  while (offset + blockSize <= allocation) {
    const next = (Math.floor(offset / boundary) + 1) * boundary;
    if (offset + blockSize > next) {
      offset = next;
    } else {
      offsets.push(offset);
      offset += blockSize;
    }
  }
  return offsets;
}

test('the layout follows the plain rule', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 20_000 }),
      fc.integer({ min: 0, max: 13 }),
      fc.option(fc.integer({ min: 4, max: 20 }), { nil: undefined }),
      fc.integer({ min: 12, max: 16 }),
      (size, alignBits, boundaryBits, pageBits) => {
        const align = alignBits === 13 ? 0 : 2 ** alignBits;
        const pageSize = 2 ** pageBits;
        const blockSize = Math.ceil(Math.max(size, 16) / Math.max(align, 1)) * Math.max(align, 1);
        const boundary = boundaryBits === undefined ? 0 : 2 ** boundaryBits;
        fc.pre(boundary === 0 || boundary >= blockSize);
        const geometry = new PoolGeometry({ size, align, boundary, pageSize });
        const allocation = Math.max(blockSize, pageSize);
        const effective = boundary === 0 ? allocation : Math.min(boundary, allocation);
        assert.equal(geometry.blockSize, blockSize);
        assert.equal(geometry.allocation, allocation);
        assert.equal(geometry.effectiveBoundary, effective);
        const offsets = plainOffsets(blockSize, allocation, effective);
        assert.equal(geometry.blocksPerPage, offsets.length);
        assert.equal(geometry.wastedBytes, allocation - offsets.length * blockSize);
        for (const [slot, offset] of offsets.entries()) {
          assert.equal(geometry.offsetOf(slot), offset);
          assert.equal(geometry.indexAt(offset), slot);
          assert.equal(geometry.indexAt(offset + blockSize - 1), slot);
          assert.equal(offset % Math.max(align, 1), 0);
          assert.equal(Math.floor(offset / effective), Math.floor((offset + blockSize - 1) / effective));
        }
        // Bytes between the blocks belong to no block.
        const inBlocks = new Set(offsets.flatMap((offset) => [offset, offset + blockSize - 1]));
        for (const offset of offsets) {
          const after = offset + blockSize;
          if (after < allocation && !inBlocks.has(after)) assert.equal(geometry.indexAt(after), -1);
        }
      },
    ),
    { numRuns: 2000 },
  );
});

test('the pools of real drivers have these block sizes, blocks per page and unused bytes', () => {
  const shape = (size: number, align: number, boundary: number): number[] => {
    const { blockSize, allocation, effectiveBoundary, blocksPerPage, wastedBytes } = new PoolGeometry({
      size,
      align,
      boundary,
    });
    return [blockSize, allocation, effectiveBoundary, blocksPerPage, wastedBytes];
  };
  assert.deepEqual(shape(96, 32, 4096), [96, 4096, 4096, 42, 64]); // ehci_qtd
  assert.deepEqual(shape(256, 256, 0), [256, 4096, 4096, 16, 0]); // prp list 256
  assert.deepEqual(shape(2112, 64, 4096), [2112, 4096, 4096, 1, 1984]); // xHCI contexts
  assert.deepEqual(shape(147456, 4, 0), [147456, 147456, 147456, 1, 0]); // e100
  assert.deepEqual(shape(68, 32, 4096), [96, 4096, 4096, 42, 64]); // dmapool_test
});

test('a block of exactly the boundary’s size does not cross it', () => {
  const geometry = new PoolGeometry({ size: 1024, boundary: 2048 });
  assert.deepEqual(
    [0, 1, 2, 3].map((slot) => geometry.offsetOf(slot)),
    [0, 1024, 2048, 3072],
  );
  assert.equal(geometry.blocksPerPage, 4);
});

test('sizes are raised to the minimum and rounded up', () => {
  assert.equal(new PoolGeometry({ size: 1 }).blockSize, 16);
  assert.equal(new PoolGeometry({ size: 17 }).blockSize, 17);
  assert.equal(new PoolGeometry({ size: 17, align: 8 }).blockSize, 24);
  assert.equal(new PoolGeometry({ size: 1, align: 8192 }).allocation, 8192);
  assert.equal(new PoolGeometry({ size: INT_MAX }).allocation, INT_MAX);
  assert.equal(new PoolGeometry({ size: 100, boundary: 2 ** 40 }).effectiveBoundary, 4096);
});

test('the error for a wrong geometry names the argument and the accepted values', () => {
  const notIntegers: unknown[] = [NaN, 1.5, Infinity, -1, '64', 64n, null, {}, [], true];
  for (const value of [...notIntegers, 0, 2 ** 31, undefined]) {
    const { message } = throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => new PoolGeometry({ size: value as number }));
    assert.match(message, /^size is .*; accepted: a whole number from 1 to 2147483647$/);
  }
  for (const value of [...notIntegers, 3, 48, 2 ** 32 + 1]) {
    const { message } = throwsCode(
      'ERR_DMAPOOL_INVALID_ARGUMENT',
      () => new PoolGeometry({ size: 64, align: value as number }),
    );
    assert.match(message, /^align is .*; accepted: a power of two/);
  }
  for (const value of [...notIntegers, 3, 48, 32, 6000, 2 ** 32 + 4096]) {
    const { message } = throwsCode(
      'ERR_DMAPOOL_INVALID_ARGUMENT',
      () => new PoolGeometry({ size: 64, boundary: value as number }),
    );
    assert.match(message, /^boundary is .*; accepted: a power of two from 64/);
  }
  // Above the limit only when rounded up.
  assert.match(
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => new PoolGeometry({ size: INT_MAX, align: 16 })).message,
    /^size is 2147483647; accepted: at most 2147483632/,
  );
  assert.match(
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => new PoolGeometry({ size: 16, align: 2 ** 32 })).message,
    /^align is 4294967296/,
  );
});
