import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';

import { formatWorkerComparison } from '../../bench/format-workers.ts';
import { compareWorkers } from '../../bench/compare-workers.ts';
import { Crew } from '../../src/bench/crew.ts';
import { formatWorkersBench } from '../../src/bench/format-workers.ts';
import { KERNEL_GEOMETRIES, benchBlocks } from '../../src/bench/geometries.ts';
import { Meeting } from '../../src/bench/meeting.ts';
import { runWorkersBench, toWorkersJson } from '../../src/bench/run-workers.ts';
import { createRing, RING_CAPACITY, RingReader, RingWriter } from '../../src/bench/ticket-ring.ts';

const TINY = { rounds: 2, warmup: 1, repetitions: 2 };

for (const workers of [1, 2, 3]) {
  test(`the JSON document with ${String(workers)} of the crew has just what it should`, async () => {
    const report = await runWorkersBench({ ...TINY, workers });
    const json = toWorkersJson(report) as { results: object[]; pipeline: object[] };
    assert.deepEqual(Object.keys(json), ['node', 'workers', 'results', 'pipeline']);
    assert.equal(report.node, process.version);
    assert.equal(report.workers, workers);
    assert.deepEqual(
      report.results.map(({ size, align, boundary }) => ({ size, align, boundary })),
      KERNEL_GEOMETRIES,
    );
    for (const [i, result] of report.results.entries()) {
      assert.deepEqual(Object.keys(json.results[i]!), [
        'size',
        'align',
        'boundary',
        'blocks',
        'nsPerPairMedian',
        'nsPerPairBest',
        'nsPerPairPerWorker',
        'nsPerPairUnshared',
      ]);
      assert.equal(result.blocks, Math.floor(benchBlocks(result.size) / workers) * workers);
      assert.ok(result.nsPerPairBest > 0 && result.nsPerPairBest <= result.nsPerPairMedian);
      assert.ok(result.nsPerPairUnsharedBest > 0 && result.nsPerPairUnsharedBest <= result.nsPerPairUnshared);
      assert.ok(result.nsPerPairPerWorker > 0);
    }
    assert.deepEqual(
      report.pipeline.map(({ batch }) => batch),
      [1, 32],
    );
    assert.deepEqual(Object.keys(json.pipeline[0]!), ['batch', 'nsPerBlock']);
    for (const { nsPerBlock, nsPerBlockBest } of report.pipeline)
      assert.ok(nsPerBlockBest > 0 && nsPerBlockBest <= nsPerBlock);
    const text = formatWorkersBench(report);
    for (const geometry of ['16/16/0', '4096/4096/0', '68/32/4096'])
      assert.match(text, new RegExp(`^${geometry} +\\d`, 'm'));
    assert.match(text, /^32 at a time +\d/m);
  });
}

test('a thread that fails ends the benchmark, though another waits for it', { timeout: 60_000 }, async () => {
  const data = { shared: null, shares: [32], meeting: Meeting.createBuffer() };
  await using crew = new Crew([data, data]);
  const job = { kind: 'rounds', blocks: 8, rounds: 1, complete: 2, counts: true } as const;
  const waiting = crew.do(0, { ...job, pool: 0 });
  const failing = crew.do(1, { ...job, pool: 99 });
  await assert.rejects(failing, TypeError);
  await assert.rejects(waiting, TypeError);
});

test('the C peer with as many threads stands beside', () => {
  const turns: number[] = [];
  const comparison = compareWorkers({
    ...TINY,
    workers: 2,
    processes: 2,
    runtimes: [process.execPath],
    onTurn: (turn) => turns.push(turn),
  });
  assert.deepEqual(turns, [1, 2]);
  const [runtime] = comparison.runtimes;
  assert.equal(runtime!.runtime, `Node ${process.version}`);
  assert.equal(runtime!.results.length, 6);
  for (const { peer, shared, unshared, fasterBest, scalesBest } of runtime!.results) {
    assert.equal(peer === null, comparison.peerMissing !== null);
    assert.equal(shared.processes.length, 2);
    if (peer !== null) assert.equal(fasterBest, peer.best / shared.best);
    assert.equal(scalesBest, unshared.best / shared.best);
  }
  const text = formatWorkerComparison(comparison);
  assert.match(text, /^16\/16\/0 +8192 /m);
  assert.match(text, /32 at a time: best \d+ ns a block/);
  assert.match(formatWorkerComparison({ ...comparison, peerMissing: 'no C compiler' }), /^no C compiler$/m);
});

test('tickets come out of the ring as they went in, round and round', () => {
  const buffer = createRing();
  const writer = new RingWriter(buffer);
  const reader = new RingReader(buffer);
  const batch = new Float64Array(32);
  for (let n = 0; n < RING_CAPACITY * 3; n += 32) {
    for (let i = 0; i < 32; i++) batch[i] = 2 ** 40 + n + i;
    writer.write(batch, 32);
    batch.fill(0);
    reader.read(batch, 1);
    assert.equal(batch[0], 2 ** 40 + n);
    reader.read(batch, 31);
    assert.equal(batch[30], 2 ** 40 + n + 31);
  }
});

test('nobody leaves a meeting before all are there', async () => {
  const buffer = Meeting.createBuffer();
  const url = new URL('../../src/bench/meeting.js', import.meta.url).href;
  const code = `
    const { workerData, parentPort } = require('node:worker_threads');
    import(workerData.url).then(({ Meeting }) => {
      new Meeting(workerData.buffer).attend(2);
      parentPort.postMessage('left');
    });`;
  const workers = [0, 1].map(() => new Worker(code, { eval: true, workerData: { url, buffer } }));
  const answers = await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('message', resolve))));
  assert.deepEqual(answers, ['left', 'left']);
});
