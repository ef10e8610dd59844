import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { get } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { type DmaBlock, DmaPool } from 'dmapool';
import { type PoolRecorder, recordPool } from 'dmapool/observe';
import { sharePool } from 'dmapool/shared';
import { decodeTrace, readTrace, replayTrace, type TraceHeader } from 'dmapool/trace';
import { throwsCode } from '../support/errors.ts';
import { Random } from '../support/random.ts';
import { quietDevice } from './fixture.ts';
import { requestPath, root, startProgram } from './program.ts';

/** Replays a recording. Fails at any difference. Returns the number of calls. */
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

test('recording changes no result, and nothing remains after its end', () => {
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

test('a ring that has wrapped replays: earlier blocks are allocated first', async () => {
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
    // The replay ends with as many allocated blocks as the pool.
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
    // A worker that starts after the exit of another worker would reuse its number.
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
  // In the order of the recording, no block is allocated twice or freed twice.
  const out = new Set<number>();
  for (const { kind, index } of operations) {
    assert.equal(out.has(index), kind === 'free', `${kind} of ${String(index)}`);
    if (kind === 'alloc') out.add(index);
    else out.delete(index);
  }
  assert.equal(out.size, 0);
  await replays(recorder);
});

test('wrong arguments and a second recorder are refused', () => {
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

test('in debug mode, operations and trace have the sites of the calls', async () => {
  for (const share of [false, true]) {
    const pool = DmaPool.create('sites', quietDevice(), { size: 64, debug: true, maxBlocks: 8 });
    if (share) sharePool(pool);
    using recorder = recordPool(pool);
    const take = (): DmaBlock<'sites'> => pool.alloc();
    take().free();
    take();
    const operations = recorder.operations();
    assert.deepEqual(
      operations.map(({ kind }) => kind),
      ['alloc', 'free', 'alloc'],
    );
    for (const { site } of operations) assert.match(site!, /recorder\.test/);
    assert.match(operations[0]!.site!, /take/);
    assert.equal(operations[0]!.site, operations[2]!.site);
    assert.notEqual(operations[0]!.site, operations[1]!.site);
    const sites = [];
    let header: TraceHeader | undefined;
    for await (const event of readTrace(new TextEncoder().encode(recorder.trace()))) {
      if (event.type === 'header') header = event;
      if (event.type === 'alloc' || event.type === 'free') sites.push(header!.fields.get(`site ${String(event.site)}`));
    }
    assert.deepEqual(
      sites,
      operations.map(({ site }) => site),
    );
    await replays(recorder);
  }
});

test('without debug mode, operations have no site, and lines no field for it', () => {
  const pool = DmaPool.create('no sites', quietDevice(), { size: 64 });
  using recorder = recordPool(pool);
  pool.alloc();
  assert.equal(recorder.operations()[0]!.site, null);
  assert.equal(recorder.trace().trimEnd().split('\n').at(-1)!.split('\t').length, 13);
});

test('a trace with a malformed site is refused', async () => {
  const pool = DmaPool.create('bad site', quietDevice(), { size: 64, debug: true });
  using recorder = recordPool(pool);
  pool.alloc();
  const text = recorder.trace();
  for (const site of ['0', 'x', '1\t1']) {
    const bytes = new TextEncoder().encode(text.replace(/\t1\n$/, `\t${site}\n`));
    await assert.rejects(decodeTrace(bytes), { code: 'ERR_DMAPOOL_TRACE' }, site);
  }
});

test('a recording continues when the pool becomes shared', async () => {
  const pool = DmaPool.create('becomes shared', quietDevice(), { size: 64, maxBlocks: 16 });
  using recorder = recordPool(pool);
  const before = pool.allocIndex();
  sharePool(pool);
  const after = pool.allocIndex();
  pool.freeIndex(before);
  assert.deepEqual(
    recorder.operations().map(({ kind, worker, index }) => [kind, worker, index]),
    [
      ['alloc', 0, before],
      ['alloc', 1, after],
      ['free', 1, before],
    ],
  );
  await replays(recorder);
  recorder.stop();
  pool.freeIndex(after);
  assert.equal(recorder.total, 3);
});

/**
 * Records a program from outside. Sends it SIGUSR2 when the recording has begun. Fails unless the trace replays. Returns
 * the lines of the trace.
 */
async function recordProgram(source: string, query = '', seconds = 1): Promise<string[]> {
  const program = await startProgram(`process.on('SIGUSR2', () => {});${source}`);
  try {
    const answer = requestPath(program, `/trace?seconds=${String(seconds)}${query}`);
    await requestPath(program, '/metrics');
    program.child.kill('SIGUSR2');
    const { status, text } = await answer;
    assert.equal(status, 200, text);
    assert.equal(program.errors(), '');
    const trace = await decodeTrace(new TextEncoder().encode(text));
    const { failures, mismatches } = replayTrace(trace, { repeat: 1 });
    assert.deepEqual({ failures, mismatches }, { failures: 0, mismatches: [] });
    return text.trimEnd().split('\n');
  } finally {
    await program.stop();
  }
}

/** Events of the pool with this name. */
function eventsOf(lines: readonly string[], name: string): string[] {
  const events = lines.filter((each) => !each.startsWith('#')).map((each) => each.split('\t'));
  const numbers = events.filter((fields) => fields[2] === 'create' && fields[5] === name).map((fields) => fields[3]);
  assert.equal(numbers.length, 1, `one pool ${name}`);
  return events.filter((fields) => fields[3] === numbers[0]).map((fields) => fields[2]!);
}

/** Statements that run `body` in a new worker, and print `up` after it. */
const inWorker = (body: string): string =>
  `new Worker(${JSON.stringify(`
    import { Device, DmaPool } from 'dmapool';
    import { attachPool } from 'dmapool/shared';
    import { parentPort, workerData } from 'node:worker_threads';
    const log = { error() {}, warn() {}, info() {} };
    const device = new Device({ name: 'of-worker', log });
    ${body}
    parentPort.postMessage('up');
  `)}, { eval: true, workerData: handle }).once('message', () => console.log('up'));`;

test('a recording from outside includes pools of workers, pools created later and threads started later', async () => {
  const source = `
    import { sharePool } from 'dmapool/shared';
    import { Worker } from 'node:worker_threads';
    const common = DmaPool.create('common', device, { size: 64, maxBlocks: 64, debug: true });
    const { handle } = sharePool(common);
    ${inWorker(`
      const own = DmaPool.create('only in a worker', device, { size: 64 });
      setInterval(() => own.alloc().free(), 5);
      const { pool } = attachPool(workerData);
      setInterval(function fromWorker() { pool.alloc().free(); }, 5);
    `)}
    setInterval(function fromMain() { common.alloc().free(); }, 5);
    process.on('SIGUSR2', () => {
      const later = DmaPool.create('later', device, { size: 128 });
      setInterval(() => later.alloc().free(), 5);
      const gone = DmaPool.create('gone', device, { size: 128 });
      gone.alloc().free();
      gone.destroy();
      ${inWorker(`
        // Synchronous, before any message can arrive.
        const first = DmaPool.create('of a later worker', device, { size: 32 });
        const block = first.alloc();
        const { pool } = attachPool(workerData);
        pool.alloc().free();
        block.free();
      `)}
    });
  `;
  const lines = await recordProgram(source, '', 8);
  assert.equal(lines.filter((each) => each.includes('\tcreate\t')).length, 5);
  for (const name of ['only in a worker', 'later', 'common']) {
    assert.ok(eventsOf(lines, name).filter((event) => event === 'alloc').length > 3, name);
  }
  assert.deepEqual(eventsOf(lines, 'gone'), ['create', 'alloc', 'free', 'destroy']);
  assert.deepEqual(eventsOf(lines, 'of a later worker').slice(0, 3), ['create', 'alloc', 'free']);
  const workers = new Set(lines.filter((each) => each.includes('\talloc\t')).map((each) => each.split('\t')[1]));
  for (const worker of ['0', '1', '2', '3']) assert.ok(workers.has(worker), `worker ${worker}`);
  const sites = lines.filter((each) => each.startsWith('#site ')).join('\n');
  assert.match(sites, /fromMain/);
  assert.match(sites, /fromWorker/);
});

test('a recording of one pool includes all threads that share it', async () => {
  const source = `
    import { sharePool } from 'dmapool/shared';
    import { Worker } from 'node:worker_threads';
    const other = DmaPool.create('other', device, { size: 64 });
    const common = DmaPool.create('common', device, { size: 64, maxBlocks: 64 });
    const { handle } = sharePool(common);
    ${inWorker(`const { pool } = attachPool(workerData); setInterval(() => pool.alloc().free(), 5);`)}
    setInterval(() => { other.alloc().free(); common.alloc().free(); }, 5);
  `;
  // The device has number 1, and its pools 2 and 3.
  const lines = await recordProgram(source, '&pool=0.3');
  assert.equal(lines.filter((each) => each.includes('\tcreate\t')).length, 1);
  assert.ok(eventsOf(lines, 'common').length > 10);
  const workers = new Set(lines.filter((each) => each.includes('\talloc\t')).map((each) => each.split('\t')[1]));
  assert.deepEqual([...workers].sort(), ['1', '2']);
});

test('a program may record a pool that is recorded from outside', async () => {
  const source = `
    import { recordPool } from 'dmapool/observe';
    const pool = DmaPool.create('both', device, { size: 64 });
    setInterval(() => {
      const recorder = recordPool(pool, { limit: 64 });
      pool.alloc().free();
      recorder.stop();
      if (recorder.total !== 2) console.error('recorded', recorder.total);
      pool.alloc().free();
    }, 5);
    console.log('up');
  `;
  const lines = await recordProgram(source);
  const events = eventsOf(lines, 'both');
  assert.ok(events.length > 40, String(events.length));
});

test('a second recording of a process is refused, and a client that disconnects ends the first', async () => {
  const program = await startProgram(`
    const pool = DmaPool.create('one', device, { size: 64 });
    setInterval(() => pool.alloc().free(), 5);
    console.log('up');
  `);
  try {
    const first = get({ socketPath: program.socket, path: '/trace?seconds=60', agent: false });
    first.on('error', () => undefined);
    await requestPath(program, '/metrics');
    assert.equal((await requestPath(program, '/trace?seconds=1')).status, 409);
    first.destroy();
    let status = 409;
    for (const end = Date.now() + 20_000; status === 409 && Date.now() < end;) {
      ({ status } = await requestPath(program, '/trace?seconds=1'));
    }
    assert.equal(status, 200);
    assert.equal((await requestPath(program, '/trace?pool=0.99')).status, 404);
    assert.equal((await requestPath(program, '/trace?pool=x')).status, 400);
    assert.equal((await requestPath(program, '/trace?limit=1048577')).status, 400);
  } finally {
    await program.stop();
  }
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
