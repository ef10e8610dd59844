import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { type DmaBlock, DmaPool } from 'dmapool';
import { type PoolRecorder, recordPool } from 'dmapool/observe';
import { sharePool } from 'dmapool/shared';
import { decodeTrace, replayTrace } from 'dmapool/trace';
import { throwsCode } from '../support/errors.ts';
import { Random } from '../support/random.ts';
import { quietDevice } from './fixture.ts';
import { root, startProgram } from './program.ts';

/** Replays a recording; fails at any difference. Returns how many calls it had. */
async function replays(recorder: PoolRecorder): Promise<number> {
  const trace = await decodeTrace(new TextEncoder().encode(recorder.trace()));
  const { events, failures, mismatches } = replayTrace(trace, { repeat: 1 });
  assert.deepEqual({ failures, mismatches }, { failures: 0, mismatches: [] });
  return events;
}

test('a recording has every operation, in order, of every form of a call', async () => {
  for (const debug of [false, true]) {
    const pool = DmaPool.create('forms', quietDevice(), { size: 64, debug, maxBlocks: 100 });
    using recorder = recordPool(pool);
    const block = pool.alloc();
    const index = pool.allocIndex({ zero: true });
    const bulk = new Int32Array(3);
    pool.allocIndexBulk(bulk);
    const blocks: DmaBlock<'forms'>[] = [];
    pool.allocBulk(blocks, 2);
    pool.free(block);
    pool.freeIndex(index);
    pool.freeIndexBulk(bulk);
    pool.freeBulk(blocks);
    const waited = await pool.allocWait();
    pool.freeAt(waited.dma);
    const expected = [
      ['alloc', block.index],
      ['alloc', index],
      ...Array.from(bulk, (each) => ['alloc', each]),
      ...blocks.map((each) => ['alloc', each.index]),
      ['free', block.index],
      ['free', index],
      ...Array.from(bulk, (each) => ['free', each]),
      ...blocks.map((each) => ['free', each.index]),
      ['alloc', waited.index],
      ['free', waited.index],
    ];
    assert.deepEqual(
      recorder.operations().map(({ kind, index: at }) => [kind, at]),
      expected,
    );
    assert.equal(await replays(recorder), expected.length + 1);
  }
});

test('recording changes no result, and ends without a trace', () => {
  const figures = [false, true].map((recorded) => {
    const random = new Random(7);
    const pool = DmaPool.create('same', quietDevice(), { size: 96, align: 32, maxBlocks: 50 });
    const recorder = recorded ? recordPool(pool, { limit: 64 }) : null;
    const held: number[] = [];
    const order: number[] = [];
    for (let i = 0; i < 3000; i++) {
      if (i === 2000) recorder?.stop();
      if (random.below(100) < 52) {
        const index = pool.tryAllocIndex();
        order.push(index);
        if (index >= 0) held.push(index);
      } else if (held.length > 0) {
        pool.freeIndex(held.splice(random.below(held.length), 1)[0]!);
      }
    }
    return { order, statistics: pool.statistics() };
  });
  assert.deepEqual(figures[0], figures[1]);
});

test('a ring that went around replays too: what was allocated before comes first', async () => {
  const random = new Random(11);
  for (const share of [false, true]) {
    const pool = DmaPool.create('around', quietDevice(), { size: 200, maxBlocks: 300 });
    if (share) sharePool(pool, { magazine: 16 });
    const held: number[] = [];
    const step = (): void => {
      if (held.length < 10 || (held.length < 290 && random.chance(0.5))) held.push(pool.allocIndex());
      else pool.freeIndex(held.splice(random.below(held.length), 1)[0]!);
    };
    for (let i = 0; i < 500; i++) step();
    using recorder = recordPool(pool, { limit: 1024 });
    for (let i = 0; i < 5000; i++) step();
    assert.equal(recorder.total, 5000);
    assert.equal(recorder.operations().length, 1024);
    // At the end as many are allocated as in the pool.
    const trace = await decodeTrace(new TextEncoder().encode(recorder.trace()));
    assert.equal(trace.counts.allocs - trace.counts.frees, pool.statistics().active);
    await replays(recorder);
  }
});

test('all workers of a shared pool record in one order', async () => {
  const pool = DmaPool.create('threads', quietDevice(), { size: 64, maxBlocks: 512, debug: false });
  const shared = sharePool(pool, { magazine: 8 });
  using recorder = recordPool(pool, { limit: 2 ** 18 });
  const source = `
    import { attachPool } from 'dmapool/shared';
    import { recordPool } from 'dmapool/observe';
    import { parentPort, workerData } from 'node:worker_threads';
    const { pool } = attachPool(workerData.handle);
    const recorder = recordPool(pool, { join: workerData.join });
    // A worker that starts after the exit of another one would reuse its number.
    Atomics.add(workerData.attached, 0, 1);
    while (Atomics.load(workerData.attached, 0) < 3) Atomics.wait(workerData.attached, 1, 0, 1);
    const held = [];
    for (let i = 0; i < 20_000; i++) {
      if (held.length < 100 && (i * 7919) % 13 < 7) { const index = pool.tryAllocIndex(); if (index >= 0) held.push(index); }
      else if (held.length > 0) pool.freeIndex(held.pop());
    }
    for (const index of held) pool.freeIndex(index);
    recorder.stop();
    pool.destroy();
    parentPort.postMessage(recorder.operations().length > 0);
  `;
  const attached = new Int32Array(new SharedArrayBuffer(8));
  const workerData = { handle: shared.handle, join: recorder.handle, attached };
  const workers = Array.from({ length: 3 }, () => new Worker(source, { eval: true, workerData }));
  await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('exit', resolve))));
  const operations = recorder.operations();
  assert.deepEqual(new Set(operations.map(({ worker }) => worker)), new Set([2, 3, 4]));
  // In the order of the recording no block is allocated twice, nor freed twice.
  const out = new Set<number>();
  for (const { kind, index } of operations) {
    assert.equal(out.has(index), kind === 'free', `${kind} of ${String(index)}`);
    if (kind === 'alloc') out.add(index);
    else out.delete(index);
  }
  assert.equal(out.size, 0);
  await replays(recorder);
});

test('wrong arguments are refused, and a second recorder', () => {
  const pool = DmaPool.create('refused', quietDevice(), { size: 64 });
  for (const limit of [0, 63, 1.5, 2 ** 25])
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => recordPool(pool, { limit }));
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => recordPool({} as DmaPool));
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => recordPool(pool, { size: 5 } as object));
  const recorder = recordPool(pool);
  throwsCode('ERR_DMAPOOL_EXISTS', () => recordPool(pool));
  recorder.stop();
  recorder.stop();
  recordPool(pool).stop();
});

test('dmapool record writes a trace of a running program that replays, and advise reads both', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'dmapool-record-'));
  const program = await startProgram(`
    import { sharePool } from 'dmapool/shared';
    const rx = DmaPool.create('rx', device, { size: 1500, maxBlocks: 20 });
    const common = DmaPool.create('common', device, { size: 64, maxBlocks: 640 });
    sharePool(common);
    const held = [];
    for (let i = 0; i < 19; i++) rx.alloc();
    const last = rx.alloc();
    rx.tryAlloc(); rx.tryAlloc();
    last.free();
    setInterval(() => {
      for (let i = 0; i < 50; i++) held.push(common.alloc());
      while (held.length > 0) held.pop().free();
      rx.alloc().free();
    }, 5);
    console.log('up');
  `);
  const run = (...args: readonly string[]): string => {
    const env = { ...process.env, XDG_RUNTIME_DIR: program.folder };
    const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'bin', 'dmapool.js'), ...args], {
      encoding: 'utf8',
      env,
    });
    assert.deepEqual([status, stderr], [0, ''], args.join(' '));
    return stdout;
  };
  try {
    const file = join(folder, 'x.trace.gz');
    const pid = String(program.pid);
    const document = JSON.parse(run('record', pid, '-o', file, '--seconds', '1', '--json')) as Record<string, number>;
    assert.equal(document['pools'], 2);
    assert.ok(document['allocations']! > 100);
    assert.match(run('replay', file), /1 trace: no error\./);
    assert.match(run('advise', file), /0000:00:09.0 common/);
    const advised = run('advise', pid, '--seconds', '1');
    assert.match(advised, /rx(.|\n)*a page holds|rx(.|\n)*would fit 3 to a page/);
    assert.match(advised, /common(.|\n)*at most 50 allocations in a row/);
  } finally {
    await program.stop();
    rmSync(folder, { recursive: true });
  }
});
