import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

import { compareWorkers, formatWorkerComparison } from '../../bench/compare-workers.ts';
import { ThreadGroup } from '../../bench/ours/thread-group.ts';
import { Barrier } from '../../bench/ours/barrier.ts';
import { createRing, RING_CAPACITY, RingReader, RingWriter } from '../../bench/ours/pipeline.ts';
import type { WorkersLine } from '../../bench/ours/workers.ts';
import { runJsonLines, settingArguments } from '../../bench/processes.ts';
import { blocksOf, KERNEL_GEOMETRIES, type Sample } from '../../src/cli/speed.ts';

const TINY = { rounds: 2, warmup: 1, repetitions: 2 };
const PROGRAM = fileURLToPath(new URL('../../bench/ours/workers.js', import.meta.url));

function assertTimes({ nsPerPairBest, nsPerPairMedian }: Sample): void {
  assert.ok(nsPerPairBest > 0 && nsPerPairBest <= nsPerPairMedian);
}

for (const workers of [1, 2, 3]) {
  test(`the line of ${String(workers)} workers has exactly its columns`, () => {
    const command = [process.execPath, PROGRAM, ...settingArguments({ ...TINY, workers })];
    const [line] = runJsonLines([], command) as [WorkersLine];
    assert.deepEqual(Object.keys(line), ['runtime', 'undisturbed', 'results', 'pipeline']);
    assert.equal(line.runtime, `Node ${process.version}`);
    assert.ok(line.undisturbed >= 0 && line.undisturbed <= 1);
    assert.deepEqual(
      line.results.map(({ size, align, boundary }) => ({ size, align, boundary })),
      KERNEL_GEOMETRIES,
    );
    for (const result of line.results) {
      assert.deepEqual(Object.keys(result), [
        'size',
        'align',
        'boundary',
        'blocks',
        'shared',
        'unshared',
        'apart',
        'nsPerPairPerWorker',
        'garbageBytesPerPair',
      ]);
      assert.equal(result.blocks, Math.floor(blocksOf(result.size) / workers) * workers);
      for (const times of [result.shared, result.unshared, result.apart]) assertTimes(times);
      assert.ok(result.nsPerPairPerWorker > 0);
    }
    assert.deepEqual(
      line.pipeline.map(({ batch }) => batch),
      [1, 32],
    );
    assert.deepEqual(Object.keys(line.pipeline[0]!), ['batch', 'block', 'garbageBytesPerBlock']);
    for (const { block } of line.pipeline) assertTimes(block);
  });
}

test('a thread that fails ends the benchmark, even if another one waits for it', { timeout: 60_000 }, async () => {
  const data = { shared: null, shares: [32], barrier: Barrier.createBuffer() };
  await using group = new ThreadGroup([data, data]);
  const job = { kind: 'rounds', blocks: 8, rounds: 1, complete: 2, counts: true } as const;
  const waiting = group.do(0, { ...job, pool: 0 });
  const failing = group.do(1, { ...job, pool: 99 });
  await assert.rejects(failing, TypeError);
  await assert.rejects(waiting, TypeError);
});

test('the C peer has a line with the same number of threads', () => {
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

test('tickets come out of the ring in order, round after round', () => {
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

test('no thread leaves a barrier before all have arrived', async () => {
  const buffer = Barrier.createBuffer();
  const url = new URL('../../bench/ours/barrier.js', import.meta.url).href;
  const code = `
    const { workerData, parentPort } = require('node:worker_threads');
    import(workerData.url).then(({ Barrier }) => {
      new Barrier(workerData.buffer).wait(2);
      parentPort.postMessage('left');
    });`;
  const workers = [0, 1].map(() => new Worker(code, { eval: true, workerData: { url, buffer } }));
  const answers = await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('message', resolve))));
  assert.deepEqual(answers, ['left', 'left']);
});
