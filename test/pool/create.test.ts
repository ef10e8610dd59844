/** Creation of pools: refused options, and the resulting geometry. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Device, DmaPool, HeapMemory, PoolGeometry } from 'dmapool';
import { throwsCode } from '../support/errors.ts';
import { makeDevice } from './fixture.ts';

test('create refuses wrong options and leaves nothing behind', () => {
  const device = makeDevice();
  const create = (name: unknown, on: unknown, options: unknown) => () =>
    DmaPool.create(name as string, on as Device, options as { size: number });
  for (const name of ['', 'a\nb', 'a\0b', 5, null, undefined]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', create(name, device, { size: 64 }));
  }
  for (const on of [null, undefined, {}, 'device']) {
    assert.match(throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', create('p', on, { size: 64 })).message, /^device is /);
  }
  for (const options of [null, undefined, 64, {}]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', create('p', device, options));
  }
  for (const extra of [
    { maxBlocks: 0 },
    { maxBlocks: 2 ** 31 },
    { maxBlocks: 1.5 },
    { node: -2 },
    { node: '0' },
    { debug: 1 },
    { debug: null },
    { debug: { sites: 1 } },
    { debug: { quarantine: 'no' } },
    { initOnAlloc: 1 },
    { initOnFree: 'yes' },
  ]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', create('p', device, { size: 64, ...extra }));
  }
  assert.deepEqual(device.attributeNames(), []);
  device.addAttribute('pools', () => 'mine');
  throwsCode('ERR_DMAPOOL_EXISTS', create('p', device, { size: 64 }));
  assert.equal(device.readAttribute('pools'), 'mine');
  device.removeAttribute('pools');
  DmaPool.create('p', device, { size: 64 });
  assert.deepEqual(device.attributeNames(), ['pools']);
});

test('a pool takes its page size from the memory source', () => {
  const memory = new HeapMemory({ pageSize: 65536, limit: 2 ** 20 });
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 96, align: 32, boundary: 4096 });
  const alone = new PoolGeometry({ size: 96, align: 32, boundary: 4096, pageSize: 65536 });
  assert.deepEqual(pool.geometry, alone);
  assert.equal(alone.blocksPerPage, 672);
  const blocks = Array.from({ length: 672 }, () => pool.alloc());
  assert.equal(pool.statistics().pages, 1);
  assert.equal(blocks[42]!.dma, blocks[0]!.dma + 4096);
  assert.equal(blocks[671]!.dma, blocks[0]!.dma + 15 * 4096 + 41 * 96);
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => pool.dmaOf(672));
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => pool.bytesOf(-1));
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => pool.dmaOf(0.5));
});
