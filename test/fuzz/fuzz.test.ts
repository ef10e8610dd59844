/** Tests of the fuzzer: it finds every kind of failure of a case, prints its seed, and replays it. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { allMutants, misplaced } from './all-mutants.ts';

const CLI = fileURLToPath(new URL('cli.js', import.meta.url));

function fuzz(...args: string[]): { status: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, ...args], { encoding: 'utf8' });
  return { status, output: stdout + stderr };
}

test('a run without a failure exits with 0 and prints its counts', () => {
  const { status, output } = fuzz('--target', 'probe', '--seed', '100', '--seconds', '1');
  assert.equal(status, 0, output);
  assert.match(output, /ok: \d+ cases, \d+ operations, \d+\.\d s/);
});

/** Seconds for a case. The parent measures wall-clock time, which includes the load of other processes. */
const BOUND = ['--bound', '3'];

const failures: [string, number, RegExp][] = [
  ['a case that throws', 10, /probe: a wrong result/],
  ['a case that never returns', 20, /does not end within 3 s/],
  ['a case that ends the process', 30, /the process ended with code 7/],
  ['an unhandled rejection', 40, /unhandledRejection.*probe: rejected/s],
  ['an error thrown outside any call', 50, /uncaughtException.*thrown outside any call/s],
  ['a case that waits forever', 60, /does not end within 3 s|the process ended with code/],
];

for (const [title, seed, message] of failures) {
  test(`${title} is found, and its seed replays it`, () => {
    const found = fuzz('--target', 'probe', '--seed', String(seed - 2), '--seconds', '60', ...BOUND);
    assert.equal(found.status, 1, found.output);
    assert.match(found.output, message);
    assert.match(found.output, new RegExp(`FAILED seed ${String(seed)}:`));
    assert.match(found.output, new RegExp(`smallest form: probe: seed ${String(seed)} alone`));
    const replayed = fuzz('--target', 'probe', '--seed', String(seed), '--cases', '1', '--no-shrink', ...BOUND);
    assert.equal(replayed.status, 1, replayed.output);
    assert.match(replayed.output, message);
  });
}

test('--keep-going prints each kind of failure once', () => {
  const { status, output } = fuzz(
    '--target',
    'probe',
    '--seed',
    '8',
    '--cases',
    '40',
    '--seconds',
    '120',
    '--keep-going',
    ...BOUND,
  );
  assert.equal(status, 1, output);
  assert.deepEqual(
    [...output.matchAll(/FAILED seed (\d+)/g)].map(([, seed]) => seed),
    ['10', '20', '30', '40'],
  );
});

for (const args of [
  [],
  ['--target', 'nothing'],
  ['--target', 'probe', '--seconds', '-1'],
  ['--target', 'probe', '--seed', 'x'],
  ['--what'],
]) {
  test(`usage: ${args.join(' ') || 'no arguments'}`, () => {
    const { status, output } = fuzz(...args);
    assert.equal(status, 2, output);
    assert.match(output, /Usage: npm run fuzz/);
  });
}

test('each mutant’s line is found exactly once in its file', () => {
  assert.deepEqual(misplaced(allMutants), []);
});
