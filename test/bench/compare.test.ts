import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { compare, type Comparison, formatComparison } from '../../bench/compare-one-thread.ts';
import { compileIntrusivePool, compileMempool } from '../../bench/peers/compile.ts';
import { runJsonLines, summarize } from '../../bench/processes.ts';
import { blocksOf, KERNEL_GEOMETRIES } from '../../src/cli/speed.ts';

test('every contender runs in turns, and the figures and ratios are plausible', () => {
  const turns: number[] = [];
  const comparison = compare({
    processes: 2,
    runtimes: [process.execPath],
    rounds: 1,
    repetitions: 2,
    warmup: 1,
    manyBlocks: 10_000,
    onTurn: (turn) => turns.push(turn),
  });
  assert.deepEqual(turns, [1, 2]);
  assert.equal(comparison.processes, 2);
  assert.equal(comparison.runtimes.length, 1);
  const runtime = comparison.runtimes[0]!;
  assert.equal(runtime.runtime, `Node ${process.version}`);
  assert.deepEqual(
    runtime.results.map(({ size, align, boundary }) => ({ size, align, boundary })),
    KERNEL_GEOMETRIES,
  );
  for (const row of runtime.results) {
    assert.equal(row.blocks, blocksOf(row.size));
    assert.equal(row.peer === null, comparison.peerMissing !== null);
    for (const rival of [row.object, row.index, row.bulk32, row.floor]) {
      assert.equal(rival.processes.length, 2);
      assert.ok(rival.best > 0 && rival.best <= rival.median && rival.median <= rival.slowest);
      if (row.peer !== null) assert.equal(rival.fasterBest, row.peer.best / rival.best);
    }
  }
  assert.equal(comparison.mempool === null, comparison.mempoolMissing !== null);
  for (const { single, bulk32 } of comparison.mempool ?? []) {
    for (const { best, median, processes } of [single, bulk32]) {
      assert.equal(processes.length, 2);
      assert.ok(best > 0 && best <= median);
    }
  }
  assert.deepEqual(
    runtime.manyBlocks.map(({ form, blocks }) => [form, blocks]),
    [
      ['object', 10_000],
      ['index', 10_000],
    ],
  );
  for (const { ratioBest, ratioMedian } of runtime.manyBlocks) assert.ok(ratioBest > 0 && ratioMedian > 0);
  const text = formatComparison(comparison);
  for (const heading of ['best', 'median', 'slowest process'])
    assert.ok(text.includes(`Node ${process.version}: ${heading}`));
  assert.match(text, /^16\/16\/0 +0 +\d+\.\d$/m);
  assert.match(text, /10,000 blocks of 128 bytes, index/);
});

test('without the C peers the other rows are complete', () => {
  const sample = summarize([{ nsPerPairMedian: 8, nsPerPairBest: 7 }]);
  const rival = { ...sample, fasterBest: null, fasterMedian: null };
  const comparison: Comparison = {
    processes: 1,
    pinning: null,
    peerMissing: 'no C compiler',
    mempool: null,
    mempoolMissing: 'no DPDK',
    lockedExchangeNs: null,
    lockUnlockNs: null,
    runtimes: [
      {
        runtime: 'Node v20',
        results: KERNEL_GEOMETRIES.map((geometry) => ({
          ...geometry,
          blocks: blocksOf(geometry.size),
          peer: null,
          object: rival,
          index: rival,
          bulk32: rival,
          floor: rival,
          garbagePerPair: 0,
          heapPerBlock: null,
        })),
        manyBlocks: [],
      },
    ],
  };
  const text = formatComparison(comparison);
  assert.match(text, /^no C compiler$/m);
  assert.match(text, /^no DPDK$/m);
  assert.match(text, /^16\/16\/0 +- +7\.0 +- /m);
  assert.match(text, /^16\/16\/0 +0 +\?$/m);
});

test('a summary has the least, the middle and the slowest of its processes', () => {
  const summary = summarize([
    { nsPerPairMedian: 8, nsPerPairBest: 7 },
    { nsPerPairMedian: 15, nsPerPairBest: 6 },
    { nsPerPairMedian: 9, nsPerPairBest: 8 },
  ]);
  assert.equal(summary.best, 6);
  assert.equal(summary.median, 9);
  assert.equal(summary.slowest, 15);
});

test('the C peer prints the cost of a lock and a line for each geometry, on one thread and on two', (t) => {
  const compiled = compileIntrusivePool();
  if (typeof compiled === 'string') {
    t.skip(compiled);
    return;
  }
  {
    using peer = compiled;
    for (const threads of [1, 2]) {
      const settings = ['--rounds', '1', '--repetitions', '2', '--warmup', '1', '--threads', String(threads)];
      const [locks, ...lines] = runJsonLines([], [peer.path, ...settings]) as Record<string, number>[];
      assert.ok(locks!['lockedExchangeNs']! > 0 && locks!['lockUnlockNs']! > 0);
      assert.equal(locks!['threads'], threads);
      assert.deepEqual(
        lines.map(({ size, align, boundary }) => ({ size, align, boundary })),
        KERNEL_GEOMETRIES,
      );
      for (const line of lines) {
        assert.equal(line['blocks'], blocksOf(line['size']!));
        assert.ok(line['nsPerPairBest']! > 0 && line['nsPerPairBest']! <= line['nsPerPairMedian']!);
      }
      assert.deepEqual(
        lines.map((line) => line['blocksPerPage']),
        [256, 64, 16, 4, 1, 42],
      );
    }
  }
  assert.ok(!existsSync(compiled.path), 'the temporary folder is removed');
});

test('a missing compiler or library is one line, and a failure where tools are required', () => {
  const saved = { CC: process.env['CC'], DMAPOOL_REQUIRE_TOOLS: process.env['DMAPOOL_REQUIRE_TOOLS'] };
  try {
    process.env['CC'] = '/nonexistent/cc';
    delete process.env['DMAPOOL_REQUIRE_TOOLS'];
    const message = compileIntrusivePool();
    assert.ok(typeof message === 'string' && message.includes('/nonexistent/cc') && !message.includes('\n'));
    const mempoolMessage = compileMempool();
    assert.ok(typeof mempoolMessage === 'string' && mempoolMessage.includes('apt install'));
    process.env['DMAPOOL_REQUIRE_TOOLS'] = '1';
    assert.throws(() => compileIntrusivePool(), { message });
    assert.throws(() => compileMempool(), { message: mempoolMessage });
  } finally {
    for (const [name, value] of Object.entries(saved)) {
      if (value === undefined) Reflect.deleteProperty(process.env, name);
      else process.env[name] = value;
    }
  }
});

test('compare.js refuses unknown options with exit code 2 and no stack trace', () => {
  const script = fileURLToPath(new URL('../../bench/compare.js', import.meta.url));
  for (const bad of [['--processes', '0'], ['--processes', 'x'], ['--workers', '99'], ['--unknown']]) {
    const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...bad], { encoding: 'utf8' });
    assert.equal(status, 2);
    assert.equal(stdout, '');
    assert.match(stderr, /usage: npm run bench/);
    assert.doesNotMatch(stderr, /^ +at /m);
  }
});
