import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Command } from 'commander';

import { formatSpeed, registerBench } from '../../src/cli/bench.ts';
import type { CliIo, CliStream } from '../../src/cli/io.ts';
import {
  blocksOf,
  KERNEL_GEOMETRIES,
  measureSpeed,
  median,
  type Sample,
  type SpeedReport,
} from '../../src/cli/speed.ts';

class Capture implements CliStream {
  readonly isTTY = false;
  text = '';

  write(text: string): void {
    this.text += text;
  }
}

async function bench(...flags: string[]): Promise<{ stdout: string; stderr: string }> {
  const stdout = new Capture();
  const stderr = new Capture();
  const io: CliIo = { stdout, stderr, env: {} };
  const program = new Command('dmapool').exitOverride().configureOutput({
    writeErr: (text) => {
      stderr.write(text);
    },
  });
  registerBench(program, io);
  await program.parseAsync(['bench', ...flags], { from: 'user' });
  return { stdout: stdout.text, stderr: stderr.text };
}

test('dmapool bench --json prints one document with the six geometries', async () => {
  const { stdout, stderr } = await bench('--json', '--rounds', '1', '--repetitions', '2');
  assert.equal(stderr, '');
  assert.ok(stdout.endsWith('}\n') && stdout.indexOf('\n') === stdout.length - 1);
  const report = JSON.parse(stdout) as SpeedReport;
  assert.deepEqual(Object.keys(report), ['node', 'results']);
  assert.deepEqual(
    report.results.map(({ size, align, boundary }) => ({ size, align, boundary })),
    KERNEL_GEOMETRIES,
  );
});

test('dmapool bench prints a readable table', async () => {
  const { stdout } = await bench('--rounds', '1', '--repetitions', '2');
  for (const geometry of ['16/16/0', '4096/4096/0', '68/32/4096'])
    assert.match(stdout, new RegExp(`^${geometry} +\\d`, 'm'));
});

test('dmapool bench refuses numbers out of range', async () => {
  await assert.rejects(bench('--rounds', '0'), { code: 'commander.invalidArgument' });
  await assert.rejects(bench('--rounds', '10001'), { code: 'commander.invalidArgument' });
  await assert.rejects(bench('--repetitions', 'many'), { code: 'commander.invalidArgument' });
});

/** Few rounds, to be fast; enough repetitions for the engine to compile everything before it counts. */
const TINY = { rounds: 2, warmup: 30, repetitions: 9 };

function assertTimes(times: Sample, what: string): void {
  for (const [name, value] of Object.entries({ best: times.nsPerPairBest, median: times.nsPerPairMedian })) {
    assert.ok(Number.isFinite(value) && value > 0, `${what} ${name}: ${String(value)}`);
  }
  assert.ok(times.nsPerPairBest <= times.nsPerPairMedian, what);
}

test('the report has the six geometries with plausible figures', async () => {
  const { node, results } = await measureSpeed(TINY);
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
    ]);
    assertTimes(result, `${name} object`);
    assertTimes(result.index, `${name} index`);
    assertTimes(result.bulk32, `${name} bulk32`);
  }
});

test('a run ends early, with one repetition, when its budget is used up', async () => {
  const { results } = await measureSpeed({ rounds: 1, warmup: 0, repetitions: 1_000_000, budgetMs: 0 });
  for (const { nsPerPairBest, nsPerPairMedian } of results) assert.equal(nsPerPairBest, nsPerPairMedian);
});

test('the readable table has a row for each geometry', () => {
  const times = { nsPerPairMedian: 8.25, nsPerPairBest: 7.5 };
  const text = formatSpeed({
    node: 'v20.0.0',
    results: KERNEL_GEOMETRIES.map((geometry) => ({
      ...geometry,
      blocks: blocksOf(geometry.size),
      blocksPerPage: 1,
      ...times,
      index: times,
      bulk32: times,
    })),
  });
  const lines = text.split('\n');
  assert.match(lines[2] ?? '', /^16\/16\/0 +8192 +1 +8\.3 +7\.5 +8\.3 +7\.5 +8\.3 +7\.5$/);
  assert.match(lines[7] ?? '', /^68\/32\/4096 /);
  assert.match(text, /Node v20\.0\.0/);
});

test('median is the middle value, or the mean of the two middle ones', () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 3, 2]), 2.5);
});
