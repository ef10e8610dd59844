import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { Device, type DmaBlock, DmaPool, type DmaPoolOptions, HeapMemory } from 'dmapool';
import { tryAllocIndexBulk } from '../support/pools.ts';
import { throwsCode } from '../support/errors.ts';
import { RecordingLog } from '../support/log.ts';

function makePool(options: Partial<DmaPoolOptions> = {}): { pool: DmaPool<'qtd'>; log: RecordingLog; device: Device } {
  const log = new RecordingLog();
  const device = new Device({ name: 'hc', memory: new HeapMemory({ limit: 2 ** 20 }), log });
  return { pool: DmaPool.create('qtd', device, { size: 64, debug: true, ...options }), log, device };
}

const all = (block: DmaBlock, value: number): boolean => block.bytes.every((byte) => byte === value);

test('free blocks are filled with 0xa7, allocated ones with 0xa9 unless zeroed', () => {
  const { pool } = makePool();
  const block = pool.alloc();
  assert.ok(all(block, 0xa9));
  const bytes = pool.bytesOf(block.index);
  assert.ok(pool.bytesOf(63).every((byte) => byte === 0xa7));
  pool.free(block);
  assert.ok(bytes.every((byte) => byte === 0xa7));
  assert.ok(all(pool.alloc({ zero: true }), 0));
});

test('poison takes precedence over init-on-free, and init-on-alloc over poison', () => {
  const { pool } = makePool({ initOnFree: true, initOnAlloc: true });
  const block = pool.alloc();
  assert.ok(all(block, 0));
  const bytes = pool.bytesOf(block.index);
  pool.free(block);
  assert.ok(bytes.every((byte) => byte === 0xa7));
});

test('a change of any byte of a free block is detected, and the block goes to quarantine', () => {
  for (const offset of [0, 1, 15, 16, 40, 63]) {
    const { pool, log } = makePool();
    const block = pool.alloc();
    const { dma, index } = block;
    const bytes = pool.bytesOf(index);
    pool.free(block);
    bytes[offset] = 0x41;
    const next = pool.alloc();
    assert.notEqual(next.index, index);
    assert.equal(log.lines.length, 1);
    const report = log.lines[0]!;
    assert.match(
      report,
      new RegExp(`hc: qtd: block ${String(index)} at 0x${dma.toString(16)} was written to while free`),
    );
    assert.match(report, new RegExp(`1 bytes changed from offset ${String(offset)};`));
    assert.match(report, /freed at .*debug\.test/);
    assert.match(report, /; in quarantine\n/);
    assert.match(report, /00000000: .*\n/);
    assert.match(report, /A/);
    const { active, quarantined, blocks, allocations } = pool.statistics();
    assert.deepEqual([active, quarantined, blocks, allocations], [1, 1, 64, 2]);
    assert.match(
      throwsCode('ERR_DMAPOOL_NOT_ALLOCATED', () => {
        pool.freeIndex(index);
      }).message,
      /is in quarantine/,
    );
    pool.free(next);
    assert.equal(pool.trim(), 0, 'a page with a quarantined block is kept');
    pool.destroy();
    assert.doesNotMatch(log.text, /busy/);
    assert.equal((pool.device.memory as HeapMemory).bytesInUse, 0);
  }
});

test('without quarantine a corrupted block is reported and allocated nevertheless', () => {
  const { pool, log } = makePool({ debug: { quarantine: false } });
  const block = pool.alloc();
  const bytes = pool.bytesOf(block.index);
  pool.free(block);
  bytes[5] = 0;
  const next = pool.alloc();
  assert.equal(next.index, block.index);
  assert.ok(all(next, 0xa9));
  assert.equal(log.lines.length, 1);
  assert.equal(pool.statistics().quarantined, 0);
});

test('without quarantine a corrupted block counts against the limit while the log runs', () => {
  let taken = 0;
  const log = {
    error: () => {
      while (pool.tryAllocIndex() >= 0) taken++;
    },
    warn: () => undefined,
    info: () => undefined,
  };
  const device = new Device({ name: 'hc', memory: new HeapMemory(), log });
  const pool: DmaPool = DmaPool.create('qtd', device, { size: 64, maxBlocks: 2, debug: { quarantine: false } });
  const block = pool.alloc();
  const bytes = pool.bytesOf(block.index);
  pool.free(block);
  bytes[5] = 0;
  pool.alloc();
  assert.equal(taken, 1);
  const { active, quarantined, blocks } = pool.statistics();
  assert.deepEqual([active, quarantined, blocks], [2, 0, 64]);
  throwsCode('ERR_DMAPOOL_LIMIT', () => {
    pool.reserve(1);
  });
});

test('quarantined blocks do not count against the limit', () => {
  const { pool } = makePool({ maxBlocks: 2 });
  const first = pool.alloc();
  const bytes = pool.bytesOf(first.index);
  pool.free(first);
  bytes.fill(0);
  pool.alloc();
  pool.alloc();
  throwsCode('ERR_DMAPOOL_LIMIT', () => pool.alloc());
});

test('every allocation returns a new handle, and an old one is detected', () => {
  const { pool } = makePool();
  const old = pool.alloc();
  assert.equal(old.generation, 1);
  pool.free(old);
  const current = pool.alloc();
  assert.equal(current.index, old.index);
  assert.notEqual(current, old);
  assert.equal(current.generation, 2);
  const { message } = throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => {
    pool.free(old);
  });
  assert.match(message, /generation 1, now 2.*last allocated at .*debug\.test.*last freed at .*debug\.test/);
  old[Symbol.dispose]();
  assert.equal(pool.statistics().active, 1);
  throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => old.view);
});

test('the error of a double free names the site of the first free', () => {
  const { pool } = makePool();
  const block = pool.alloc();
  freeOnce(pool, block);
  const { message } = throwsCode('ERR_DMAPOOL_NOT_ALLOCATED', () => {
    pool.free(block);
  });
  assert.match(message, /last allocated at .*debug\.test.*; last freed at .*freeOnce.*debug\.test/);
});

function freeOnce(pool: DmaPool<'qtd'>, block: DmaBlock<'qtd'>): void {
  pool.free(block);
}

test('a busy destroy lists the allocated blocks by allocation site', () => {
  const { pool, log } = makePool();
  const leak = (): DmaBlock<'qtd'> => pool.alloc();
  for (let i = 0; i < 3; i++) leak();
  pool.alloc();
  pool.destroy();
  assert.equal(log.lines.length, 1);
  assert.match(
    log.lines[0]!,
    /^error hc: qtd busy: 4 still out:\n {2}3 allocated at .*leak.*debug\.test.*: block 0 at 0x/,
  );
  assert.match(log.lines[0]!, /\n {2}1 allocated at .*debug\.test/);
});

test('without sites nothing is recorded, and reports still name blocks', () => {
  const { pool, log } = makePool({ debug: { sites: false } });
  const block = pool.alloc();
  pool.destroy();
  assert.match(log.text, /qtd busy: 1 still out: block 0 at 0x/);
  pool.free(block);
});

test('bulk calls in debug mode allocate all blocks or none', () => {
  const { pool } = makePool();
  const blocks: DmaBlock<'qtd'>[] = [];
  pool.allocBulk(blocks, 5);
  throwsCode('ERR_DMAPOOL_NOT_ALLOCATED', () => {
    pool.freeBulk([...blocks, blocks[2]!]);
  });
  assert.ok(
    blocks.every((block) => all(block, 0xa9)),
    'no block was poisoned',
  );
  pool.freeBulk(blocks);
  assert.equal(pool.statistics().active, 0);
});

test('a bulk allocation that fails because of quarantine returns everything', () => {
  const { pool } = makePool({ maxBlocks: 4, size: 1024 });
  const limited = DmaPool.create(
    'tight',
    new Device({ name: 't', memory: new HeapMemory({ limit: 4096 }), log: new RecordingLog() }),
    {
      size: 1024,
      debug: true,
    },
  );
  const indices = new Int32Array(4);
  limited.allocIndexBulk(indices);
  const bytes = limited.bytesOf(indices[1]!);
  limited.freeIndexBulk(indices);
  bytes[9] = 1;
  assert.equal(tryAllocIndexBulk(limited, indices), false);
  const { active, quarantined, allocations, frees } = limited.statistics();
  assert.deepEqual([active, quarantined, allocations, frees], [0, 1, 4, 4]);
  assert.equal(pool.statistics().active, 0);
  // In the order of the list before the call.
  const left = Array.from({ length: 3 }, () => limited.allocIndex());
  assert.deepEqual(left, [indices[3], indices[2], indices[0]]);
});

test('DMAPOOL_DEBUG=1 turns debug mode on and reports blocks that are allocated at process exit', () => {
  const program = `
    import { Device, DmaPool } from 'dmapool';
    const device = new Device({ name: 'hc' });
    const pool = DmaPool.create('qtd', device, { size: 64 });
    const quiet = DmaPool.create('quiet', device, { size: 64, debug: false });
    quiet.alloc();
    const clean = DmaPool.create('clean', device, { size: 64 });
    clean.free(clean.alloc());
    function submit() { return pool.alloc(); }
    console.log(submit().bytes[0].toString(16));
  `;
  const run = (value: string | undefined): { stdout: string; stderr: string } => {
    const env = { ...process.env };
    delete env['DMAPOOL_DEBUG'];
    const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
      env: value === undefined ? env : { ...env, DMAPOOL_DEBUG: value },
      encoding: 'utf8',
    });
    assert.equal(status, 0, stderr);
    return { stdout, stderr };
  };
  const on = run('1');
  assert.equal(on.stdout, 'a9\n');
  assert.match(on.stderr, /dmapool hc: qtd: at exit 1 still out:\n {2}1 allocated at submit/);
  assert.doesNotMatch(on.stderr, /quiet|clean/);
  for (const value of [undefined, '0', '']) {
    const off = run(value);
    assert.equal(off.stdout, '0\n');
    assert.equal(off.stderr, '');
  }
});

test('a new page with an old page number is poisoned at its own address', () => {
  const { pool, device } = makePool();
  pool.free(pool.alloc());
  assert.equal(pool.trim(), 1);
  const other = device.allocCoherent(4096);
  const block = pool.alloc();
  assert.equal(block.index, 0);
  assert.ok(all(block, 0xa9));
  assert.ok(new Uint8Array(other!.buffer, other!.byteOffset, 4096).every((byte) => byte === 0));
});

test('the gauges of a destroyed pool are 0', () => {
  const { pool } = makePool();
  const block = pool.alloc();
  const bytes = pool.bytesOf(block.index);
  pool.free(block);
  bytes.fill(1);
  pool.free(pool.alloc());
  pool.destroy();
  const { active, blocks, pages, quarantined, corrupted } = pool.statistics();
  assert.deepEqual([active, blocks, pages, quarantined, corrupted], [0, 0, 0, 0, 1]);
});

test('the error for an old handle names quarantine or a returned page as the reason', () => {
  const { pool } = makePool();
  const block = pool.alloc();
  const { bytes } = block;
  pool.free(block);
  bytes[3] = 0;
  const other = pool.alloc();
  const quarantined = throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => {
    pool.free(block);
  });
  assert.match(quarantined.message, /was freed; in quarantine/);
  assert.doesNotMatch(quarantined.message, /generation 1, now 1/);
  pool.free(other);

  const { pool: idle } = makePool();
  const old = idle.alloc();
  idle.free(old);
  idle.trim();
  const trimmed = throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => {
    idle.free(old);
  });
  assert.match(trimmed.message, /its page was returned/);
  assert.doesNotMatch(trimmed.message, /generation 1, now 1/);
});
