import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Device, DmaPool, type DmaReleaseError, HeapMemory } from 'dmapool';
import { countsOf } from '../support/pools.ts';
import { throwsCode } from '../support/errors.ts';
import { FaultyMemory } from '../support/faulty-memory.ts';
import { RecordingLog } from '../support/log.ts';

function setUp(): { device: Device; memory: HeapMemory; log: RecordingLog; pool: DmaPool<'ring'> } {
  const memory = new HeapMemory();
  const log = new RecordingLog();
  const device = new Device({ name: 'nic', memory, log });
  return { device, memory, log, pool: DmaPool.create('ring', device, { size: 2048 }) };
}

test('a busy destroy logs the blocks, keeps their memory, and accepts late frees', () => {
  const { device, memory, log, pool } = setUp();
  const blocks = Array.from({ length: 5 }, () => pool.alloc());
  pool.free(blocks[4]!);
  pool.destroy();
  assert.equal(log.lines.length, 1);
  assert.match(log.lines[0]!, /^error nic: ring busy: 4 still out: block 0 at 0x1000, block 1 at 0x1800, /);
  assert.equal(device.readAttribute('pools'), undefined);
  assert.equal(memory.bytesInUse, 8192, 'the page without allocated blocks was freed at once');
  throwsCode('ERR_DMAPOOL_DESTROYED', () => pool.alloc());
  throwsCode('ERR_DMAPOOL_DESTROYED', () => pool.tryAlloc());
  throwsCode('ERR_DMAPOOL_DESTROYED', () => {
    pool.reserve(1);
  });
  blocks[0]!.bytes.fill(1);
  for (const block of blocks.slice(0, 3)) pool.free(block);
  assert.equal(memory.bytesInUse, 8192);
  throwsCode('ERR_DMAPOOL_NOT_ALLOCATED', () => {
    pool.free(blocks[0]!);
  });
  pool.free(blocks[3]!);
  assert.equal(memory.bytesInUse, 0);
  assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
  throwsCode('ERR_DMAPOOL_DESTROYED', () => {
    pool.free(blocks[3]!);
  });
  throwsCode('ERR_DMAPOOL_DESTROYED', () => {
    pool.freeAt(0x1000);
  });
  throwsCode('ERR_DMAPOOL_DESTROYED', () => {
    pool.freeIndex(0);
  });
  pool.destroy();
  assert.equal(device.reclaim(), 0);
});

test('reclaim after a device reset takes back the remaining blocks', () => {
  const { device, memory, pool } = setUp();
  const block = pool.alloc();
  const living = DmaPool.create('living', device, { size: 64 });
  living.alloc();
  assert.equal(device.reclaim(), 0, 'a live pool keeps its memory');
  pool.destroy();
  assert.equal(device.reclaim(), 1);
  assert.equal(memory.bytesInUse, 4096);
  assert.equal(pool.statistics().active, 0);
  throwsCode('ERR_DMAPOOL_DESTROYED', () => {
    pool.free(block);
  });
  assert.equal(device.reclaim(), 0);
});

test('the pools attribute has Linux’s format, newest pool first', () => {
  const { device, pool } = setUp();
  pool.alloc();
  pool.alloc();
  pool.alloc();
  const long = DmaPool.create('a name of more than thirty-one bytes', device, { size: 16 });
  DmaPool.create('größe', device, { size: 147456 }).alloc();
  assert.equal(
    device.readAttribute('pools'),
    'poolinfo - 0.1\n' +
      'größe               1    1 147456  1\n'.replace('größe  ', 'größe') +
      'a name of more than thirty-one     0    0   16  0\n' +
      'ring                3    4 2048  2\n',
  );
  long.destroy();
  pool.destroy();
  assert.deepEqual(device.attributeNames(), ['pools']);
});

test('the attribute is cut at 4095 bytes, as a sysfs file is', () => {
  const { device } = setUp();
  for (let i = 0; i < 200; i++) DmaPool.create(`pool-${String(i)}`, device, { size: 64 });
  const text = device.readAttribute('pools')!;
  assert.equal(text.length, 4095);
  assert.match(text, /^poolinfo - 0\.1\npool-199 /);
});

test('names are cut by bytes, never inside a character', () => {
  const { device } = setUp();
  DmaPool.create('ä'.repeat(20), device, { size: 64 });
  assert.match(device.readAttribute('pools')!, /\nä{15} {4}0 /);
});

test('the attribute is removed with the last pool, but not an attribute of the same name that the user added', () => {
  const { device, pool } = setUp();
  device.removeAttribute('pools');
  device.addAttribute('pools', () => 'mine');
  pool.destroy();
  assert.equal(device.readAttribute('pools'), 'mine');
});

test('reclaim frees all it can when the source throws', () => {
  const memory = new FaultyMemory();
  const device = new Device({ name: 'nic', memory, log: new RecordingLog() });
  for (const name of ['a', 'b', 'c']) {
    const pool = DmaPool.create(name, device, { size: 64 });
    pool.alloc();
    pool.destroy();
  }
  memory.onFree = () => 'throw';
  const error = throwsCode('ERR_DMAPOOL_RELEASE', () => device.reclaim());
  assert.equal((error as DmaReleaseError).errors.length, 3);
  assert.equal(memory.live.size, 0);
});
