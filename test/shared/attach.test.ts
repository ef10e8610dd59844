/** Invalid handles, and pools that cannot be shared or attached to. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Device, DmaPool, HeapMemory } from 'dmapool';
import { attachPool, type SharedPoolHandle, sharePool } from 'dmapool/shared';
import { countsOf } from '../support/pools.ts';
import { throwsCode } from '../support/errors.ts';
import { FaultyMemory } from '../support/faulty-memory.ts';
import { RecordingLog } from '../support/log.ts';
import { makePool, sharedPool, until } from './fixture.ts';

test('an invalid value as a handle', async (t) => {
  const { handle } = await sharedPool(t, { workers: 0 });
  const junk: unknown[] = [
    undefined,
    null,
    1,
    'rx',
    {},
    { ...handle, control: undefined },
    { ...handle, control: new SharedArrayBuffer(8) },
    { ...handle, control: new SharedArrayBuffer(1 << 20) },
    { ...handle, control: new ArrayBuffer(1 << 20) },
    { ...handle, pages: [] },
    { ...handle, buffers: null },
    { ...handle, buffers: [] },
    { ...handle, pages: new Float64Array(3).fill(9) },
    { ...handle, device: null },
    { ...handle, magazine: 'x' },
    { ...handle, maxBlocks: -1 },
    { ...handle, dmapool: handle.dmapool + 1 },
  ];
  for (const [i, each] of junk.entries()) {
    await t.test(`number ${String(i)}`, () => {
      throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => attachPool(each as SharedPoolHandle).pool);
    });
  }
});

test('attachPool refuses a handle of another version and names both versions', async (t) => {
  const { handle } = await sharedPool(t, { workers: 0 });
  const control = new SharedArrayBuffer(handle.control.byteLength);
  new Uint8Array(control).set(new Uint8Array(handle.control));
  const header = new Int32Array(control);
  header[0] = header[0]! + 1;
  const error = throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => attachPool({ ...handle, control }).pool);
  assert.match(error.message, /version/);
});

test('a failed attach leaves no worker attached', async (t) => {
  const { pool, memory, handle } = await sharedPool(t, { workers: 0 });
  const device = new Device({ name: 'other' });
  device.addAttribute('pools', () => 'another device');
  throwsCode('ERR_DMAPOOL_EXISTS', () => attachPool(handle, { device }).pool);
  pool.destroy();
  assert.equal(memory.bytesInUse, 0);
});

test('an attach with wrong arguments takes no worker slot', async (t) => {
  const { pool, memory, handle } = await sharedPool(t, { workers: 0, debug: true });
  const wrong: [unknown, unknown][] = [
    [handle, { device: { name: 'eth0' } }],
    [handle, null],
    [{ ...handle, debug: {} }, {}],
    [{ ...handle, debug: { ...handle.debug, book: new SharedArrayBuffer(8) } }, {}],
    [{ ...handle, debug: undefined }, {}],
    [{ ...handle, name: undefined }, {}],
    [{ ...handle, node: 'x' }, {}],
    [{ ...handle, initOnFree: 1 }, {}],
    [{ ...handle, device: { ...handle.device, dmaMask: -1 } }, {}],
    [{ ...handle, control: handle.control.slice(0, handle.control.byteLength - 8) }, {}],
  ];
  for (let i = 0; i < 70; i++) {
    const [each, options] = wrong[i % wrong.length]!;
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => attachPool(each as SharedPoolHandle, options as object).pool);
  }
  attachPool(handle).pool.destroy();
  pool.destroy();
  assert.equal(memory.bytesInUse, 0);
});

test('a pool accepts 62 attached workers and no more', async (t) => {
  const { pool, memory, handle } = await sharedPool(t, { workers: 0 });
  const attached: DmaPool[] = [];
  for (let i = 0; i < 61; i++) attached.push(attachPool(handle).pool);
  throwsCode('ERR_DMAPOOL_LIMIT', () => attachPool(handle).pool);
  attached.pop()!.destroy();
  attached.push(attachPool(handle).pool);
  for (const each of attached) each.destroy();
  pool.destroy();
  await until('the memory is returned', () => memory.bytesInUse === 0);
});

test('a pool that cannot be shared reports the reason and stays usable', async () => {
  const device = new Device({ name: 'nic', memory: new HeapMemory(), log: new RecordingLog() });
  for (const options of [{}, { maxBlocks: 2 ** 24 }]) {
    const pool = DmaPool.create('rx', device, { size: 64, ...options });
    const block = pool.alloc();
    throwsCode('ERR_DMAPOOL_NOT_SHAREABLE', () => sharePool(pool).handle);
    pool.free(block);
    assert.equal(pool.alloc().index, block.index);
  }
  const { pool } = makePool(1);
  const block = pool.alloc();
  const waiting = pool.allocWait();
  throwsCode('ERR_DMAPOOL_NOT_SHAREABLE', () => sharePool(pool).handle);
  pool.free(block);
  pool.free(await waiting);
  for (const magazine of [1, 0, -1, 0.5, 65_537, 'x']) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => sharePool(pool, { magazine: magazine as number }).handle);
  }
  pool.destroy();
  throwsCode('ERR_DMAPOOL_DESTROYED', () => sharePool(pool).handle);
});

test('sharing changes nothing when the source has too little memory or throws', () => {
  for (const fate of ['none', 'throw'] as const) {
    const memory = new FaultyMemory();
    const device = new Device({ name: 'nic', memory, log: new RecordingLog() });
    const pool = DmaPool.create('rx', device, { size: 256, maxBlocks: 64 });
    const block = pool.alloc();
    memory.onAlloc = (call) => (call >= 3 ? fate : 'ok');
    assert.throws(
      () => sharePool(pool).handle,
      fate === 'none' ? { code: 'ERR_DMAPOOL_NO_MEMORY' } : /the source broke/,
    );
    assert.equal(memory.live.size, 1);
    assert.deepEqual(countsOf(pool), { active: 1, blocks: 16, pages: 1 });
    memory.onAlloc = () => 'ok';
    sharePool(pool);
    pool.free(block);
    pool.destroy();
    assert.equal(memory.live.size, 0);
  }
});
