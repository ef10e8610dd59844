import assert from 'node:assert/strict';
import { execFile, execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { checkoutPath, packed, SMALL, tracePath } from '../trace/hand-made.ts';
import { runCli, withFiles } from './run-cli.ts';

test('help is printed to stdout', async () => {
  for (const argv of [['--help'], ['-h'], ['help']]) {
    const { code, out, err } = await runCli(argv);
    assert.deepEqual([code, err], [0, '']);
    for (const word of ['Usage: dmapool', 'replay', 'layout', 'Exit status']) assert.ok(out.includes(word), word);
  }
  for (const [command, option] of [
    ['replay', '--expect'],
    ['layout', '--boundary'],
  ] as const) {
    const { code, out } = await runCli([command, '--help']);
    assert.equal(code, 0);
    assert.ok(out.startsWith(`Usage: dmapool ${command}`) && out.includes(option));
  }
});

test('the version is that of the package', async () => {
  const { version } = JSON.parse(readFileSync(checkoutPath('package.json'), 'utf8')) as { version: string };
  for (const option of ['--version', '-V']) {
    assert.deepEqual(await runCli([option]), { code: 0, out: `${version}\n`, err: '' });
  }
});

const misuse: readonly (readonly [argv: readonly string[], message: RegExp])[] = [
  [[], /^Usage: dmapool/],
  [['frobnicate'], /^dmapool: unknown command 'frobnicate'\n/],
  [['--frobnicate'], /^dmapool: unknown option '--frobnicate'\n/],
  [['replay', '--frob', 'x'], /^dmapool: unknown option '--frob'\n/],
  [['replay', '--repeat', '0', 'x'], /'--repeat <n>' argument '0' is invalid\. Not a whole number from 1/],
  [['replay', '--repeat', '1.5', 'x'], /'1\.5' is invalid/],
  [['replay', '--repeat', 'x', 'x'], /'x' is invalid/],
  [['replay', '--expect', 'a', 'b', 'c'], /^dmapool: --expect requires exactly one trace\n/],
  [['replay', '/nonexistent/x.trace.gz'], /^dmapool: \/nonexistent\/x\.trace\.gz: no such file or directory\n$/],
  [['replay', '/'], /^dmapool: \/: illegal operation on a directory\n$/],
  [
    ['replay', '--expect', '/nonexistent/p', tracePath('6.1/e100.trace.gz')],
    /^dmapool: \/nonexistent\/p: no such file/,
  ],
  [
    ['replay', checkoutPath('package.json')],
    /^dmapool: \S*package\.json:1: expected .*separated by tabs; found "\{"\n$/,
  ],
  [
    ['replay', '--expect', checkoutPath('package.json'), tracePath('6.1/e100.trace.gz')],
    /package\.json:1: expected ## snapshot/,
  ],
  [['layout'], /^dmapool: required option '--size <bytes>' not specified\n/],
  [['layout', '--size', 'x'], /'x' is invalid\. Not a byte count/],
  [['layout', '--size', '-1'], /dmapool: .*--size/],
  [['layout', '--size', '0'], /^dmapool: layout: --size is 0; accepted: a whole number from 1 to 2147483647\n$/],
  [['layout', '--size', '2G'], /^dmapool: layout: --size is 2147483648/],
  [['layout', '--size', '96', '--align', '33'], /^dmapool: layout: --align is 33; accepted: a power of two/],
  [
    ['layout', '--size', '96', '--boundary', '64'],
    /^dmapool: layout: --boundary is 64; accepted: a power of two from 96/,
  ],
  [['layout', '--size', '96', 'more'], /^dmapool: too many arguments/],
];

for (const [argv, message] of misuse) {
  test(`usage error: dmapool ${argv.join(' ')}`, async () => {
    const { code, out, err } = await runCli(argv);
    assert.equal(code, 2);
    assert.equal(out, '');
    assert.match(err, message);
    assert.ok(!/^\s+at /m.test(err), err);
  });
}

test('a bad file does not keep the other files from being replayed', async () => {
  const { code, out, err } = await runCli([
    'replay',
    '--json',
    '--repeat',
    '1',
    '/nonexistent',
    tracePath('6.1/e100.trace.gz'),
  ]);
  assert.equal(code, 2);
  assert.match(err, /no such file/);
  assert.equal(out.split('\n').length, 2);
});

test('a truncated trace is a usage error, with a message', async () => {
  await withFiles({ 'x.trace.gz': packed(SMALL).subarray(0, 100) }, async (path) => {
    const { code, err } = await runCli(['replay', path('x.trace.gz')]);
    assert.equal(code, 2);
    assert.match(err, /x\.trace\.gz:\d+: expected whole gzip data; found it damaged or cut short/);
  });
});

const BIN = checkoutPath('bin/dmapool.js');

test('the executable prints the version and exits with the status of the command', () => {
  assert.match(execFileSync(process.execPath, [BIN, '--version'], { encoding: 'utf8' }), /^\d+\.\d+\.\d+\n$/);
  assert.throws(
    () => execFileSync(process.execPath, [BIN, 'layout'], { stdio: 'pipe' }),
    (error: Error & { status?: number }) => error.status === 2,
  );
});

test('the command exits silently when the reader closes the pipe', async () => {
  const command = `'${process.execPath}' '${BIN}' replay --snapshots --repeat 1 '${tracePath('6.1/xhci.trace.gz')}' '${tracePath('6.1/e100.trace.gz')}' | head -n 1`;
  const { stdout: out, stderr: err } = await promisify(execFile)('sh', ['-c', command]);
  assert.match(out, /xhci\.trace\.gz\n$/);
  assert.equal(err, '');
});

test('a full disk is one line of error, without a stack trace', { skip: !existsSync('/dev/full') }, () => {
  const { status, stderr } = spawnSync('sh', ['-c', `'${process.execPath}' '${BIN}' layout --size 64 > /dev/full`]);
  assert.equal(status, 1);
  assert.equal(String(stderr), 'dmapool: write error: no space left on device\n');
});

test('without a build the command names the step to run', async () => {
  await withFiles({ 'package.json': '{ "type": "module" }' }, (path) => {
    mkdirSync(path('bin'));
    copyFileSync(BIN, path('bin/dmapool.js'));
    assert.throws(
      () => execFileSync(process.execPath, [path('bin/dmapool.js')], { stdio: 'pipe' }),
      (error: Error & { status?: number; stderr?: Buffer }) =>
        error.status === 2 && String(error.stderr).includes('npm run build'),
    );
    return Promise.resolve();
  });
});
