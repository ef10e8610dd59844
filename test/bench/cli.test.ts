import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Command } from 'commander';

import { KERNEL_GEOMETRIES } from '../../src/bench/geometries.ts';
import type { BenchReport } from '../../src/bench/run.ts';
import { registerBench } from '../../src/cli/bench.ts';
import type { CliIo, CliStream } from '../../src/cli/io.ts';

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
  const report = JSON.parse(stdout) as BenchReport;
  assert.deepEqual(Object.keys(report), ['node', 'results']);
  assert.deepEqual(
    report.results.map(({ size, align, boundary }) => ({ size, align, boundary })),
    KERNEL_GEOMETRIES,
  );
});

test('dmapool bench prints a table for people', async () => {
  const { stdout } = await bench('--rounds', '1', '--repetitions', '2');
  for (const geometry of ['16/16/0', '4096/4096/0', '68/32/4096'])
    assert.match(stdout, new RegExp(`^${geometry} +\\d`, 'm'));
});

test('dmapool bench --workers prints the document and the table of shared pools', async () => {
  const flags = ['--workers', '2', '--rounds', '1', '--repetitions', '1'];
  const { stdout, stderr } = await bench(...flags, '--json');
  assert.equal(stderr, '');
  assert.deepEqual(Object.keys(JSON.parse(stdout) as object), ['node', 'workers', 'results', 'pipeline']);
  assert.match((await bench(...flags)).stdout, /2 workers on one shared pool/);
});

test('dmapool bench refuses numbers out of range', async () => {
  await assert.rejects(bench('--rounds', '0'), { code: 'commander.invalidArgument' });
  await assert.rejects(bench('--workers', '61'), { code: 'commander.invalidArgument' });
  await assert.rejects(bench('--repetitions', 'many'), { code: 'commander.invalidArgument' });
});
