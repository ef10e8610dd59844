import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  loadAcquire16,
  loadAcquire32,
  lower32Bits,
  readAddress64,
  storeRelease16,
  storeRelease32,
  upper32Bits,
  writeAddress64,
} from 'dmapool';
import { throwsCode } from '../support/errors.ts';

test('addresses survive a round trip through a descriptor, little-endian', () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), fc.nat(8), (address, offset) => {
      const view = new DataView(new ArrayBuffer(16));
      writeAddress64(view, offset, address);
      assert.equal(view.getBigUint64(offset, true), BigInt(address));
      assert.equal(readAddress64(view, offset), address);
      assert.equal(upper32Bits(address) * 2 ** 32 + lower32Bits(address), address);
      assert.ok(lower32Bits(address) < 2 ** 32 && Number.isInteger(upper32Bits(address)));
    }),
  );
});

test('an invalid address is refused', () => {
  const view = new DataView(new ArrayBuffer(8));
  for (const address of [-1, 0.5, NaN, 2 ** 53, 1n, '1']) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      writeAddress64(view, 0, address as number);
    });
  }
  view.setBigUint64(0, 2n ** 53n, true);
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => readAddress64(view, 0));
});

test('store-release and load-acquire use little-endian unsigned words', () => {
  for (const words of [new Int32Array(2), new Uint32Array(2)]) {
    storeRelease32(words, 1, 0x8000_0001);
    assert.deepEqual([...new Uint8Array(words.buffer)], [0, 0, 0, 0, 1, 0, 0, 0x80]);
    assert.equal(loadAcquire32(words, 1), 0x8000_0001);
    for (const index of [2, -1, 0.5, NaN]) {
      throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
        storeRelease32(words, index, 0);
      });
      throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => loadAcquire32(words, index));
    }
  }
});

test('store-release and load-acquire of 16 bits change two bytes', () => {
  for (const words of [new Int16Array(3), new Uint16Array(3)]) {
    storeRelease16(words, 1, 0x18001);
    assert.deepEqual([...new Uint8Array(words.buffer)], [0, 0, 0x01, 0x80, 0, 0], 'the low 16 bits, little-endian');
    assert.equal(loadAcquire16(words, 1), 0x8001);
    storeRelease16(words, 2, -1);
    assert.deepEqual([loadAcquire16(words, 0), loadAcquire16(words, 2)], [0, 0xffff]);
    for (const index of [3, -1, 0.5, NaN]) {
      throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
        storeRelease16(words, index, 0);
      });
      throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => loadAcquire16(words, index));
    }
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      storeRelease16(words, 0, 1n as unknown as number);
    });
  }
  for (const wrong of [new Uint32Array(2), new Uint8Array(2), [0], null]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      storeRelease16(wrong as unknown as Uint16Array, 0, 0);
    });
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => loadAcquire16(wrong as unknown as Uint16Array, 0));
  }
});

test('the halves of an invalid address and places outside the view are refused', () => {
  for (const value of [-1, 2 ** 53, 5n]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => lower32Bits(value as number));
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => upper32Bits(value as number));
  }
  const view = new DataView(new ArrayBuffer(12));
  for (const offset of [-1, 5, 0.5]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      writeAddress64(view, offset, 0);
    });
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => readAddress64(view, offset));
  }
});
