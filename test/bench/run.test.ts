import assert from 'node:assert/strict';
import { test } from 'node:test';

import { formatBench } from '../../src/bench/format.ts';
import { KERNEL_GEOMETRIES, benchBlocks } from '../../src/bench/geometries.ts';
import { type FormResult, runBench } from '../../src/bench/run.ts';

/** Rounds few enough for a test; repetitions enough for the engine to have compiled all before it counts. */
const TINY = { rounds: 2, warmup: 30, repetitions: 9 };

function assertTimes(times: FormResult, what: string): void {
  for (const [name, value] of Object.entries({ best: times.nsPerPairBest, median: times.nsPerPairMedian })) {
    assert.ok(Number.isFinite(value) && value > 0, `${what} ${name}: ${String(value)}`);
  }
  assert.ok(times.nsPerPairBest <= times.nsPerPairMedian, what);
}

test('the report has the six geometries with plausible figures', async () => {
  const { node, results } = await runBench(TINY);
  assert.equal(node, process.version);
  assert.deepEqual(
    results.map(({ size, align, boundary }) => ({ size, align, boundary })),
    KERNEL_GEOMETRIES,
  );
  assert.deepEqual(
    results.map(({ blocks, blocksPerPage }) => [blocks, blocksPerPage]),
    [
      [8192, 256],
      [8192, 64],
      [8192, 16],
      [2048, 4],
      [1024, 1],
      [8192, 42],
    ],
  );
  for (const result of results) {
    const name = String(result.size);
    assert.deepEqual(Object.keys(result), [
      'size',
      'align',
      'boundary',
      'blocks',
      'blocksPerPage',
      'nsPerPairMedian',
      'nsPerPairBest',
      'index',
      'bulk32',
      'garbageBytesPerPair',
      'heapBytesPerBlock',
    ]);
    assertTimes(result, `${name} object`);
    assertTimes(result.index, `${name} index`);
    assertTimes(result.bulk32, `${name} bulk32`);
    // No timings: these two hold on any machine, or the allocator got worse.
    assert.equal(result.garbageBytesPerPair, 0, `${name}: garbage`);
    const heap = result.heapBytesPerBlock;
    const limit = 64 + 128 / result.blocksPerPage;
    assert.ok(
      heap !== null && heap > 0 && heap <= limit,
      `${name}: ${String(heap)} bytes a block, at most ${String(limit)}`,
    );
  }
});

test('a budget that is spent ends the run early, with one repetition', async () => {
  const { results } = await runBench({ rounds: 1, warmup: 0, repetitions: 1_000_000, budgetMs: 0 });
  for (const { nsPerPairBest, nsPerPairMedian } of results) assert.equal(nsPerPairBest, nsPerPairMedian);
});

test('people get a table with a row for each geometry', () => {
  const times = { nsPerPairMedian: 8.25, nsPerPairBest: 7.5 };
  const text = formatBench({
    node: 'v20.0.0',
    results: KERNEL_GEOMETRIES.map((geometry) => ({
      ...geometry,
      blocks: benchBlocks(geometry.size),
      blocksPerPage: 1,
      ...times,
      index: times,
      bulk32: times,
      garbageBytesPerPair: 0,
      heapBytesPerBlock: null,
    })),
  });
  const lines = text.split('\n');
  assert.match(lines[2] ?? '', /^16\/16\/0 +8192 +1 +8\.3 +7\.5 +8\.3 +7\.5 +8\.3 +7\.5 +0 +\?$/);
  assert.match(lines[7] ?? '', /^68\/32\/4096 /);
  assert.match(text, /Node v20\.0\.0/);
});
