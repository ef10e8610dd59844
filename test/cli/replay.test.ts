import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bytesOf, packed, replaced, SMALL, SMALL_POOLS, tracePath } from '../trace/hand-made.ts';
import { runCli, withFiles } from './run-cli.ts';

const FILES = { 'small.trace.gz': packed(SMALL), 'small.pools.txt': bytesOf(SMALL_POOLS) };

test('the JSON document has exactly these fields in this order', async () => {
  await withFiles(FILES, async (path) => {
    const { code, out, err } = await runCli(['replay', '--json', path('small.trace.gz')]);
    assert.deepEqual([code, err], [0, '']);
    assert.equal(out.indexOf('\n'), out.length - 1);
    const document = JSON.parse(out) as { elapsedNs: number; nsPerEvent: number };
    const { elapsedNs, nsPerEvent } = document;
    assert.ok(Number.isInteger(elapsedNs) && elapsedNs > 0);
    assert.equal(nsPerEvent, elapsedNs / 6);
    const row = { device: '0000:00:02.0', name: 'prp list 256', active: 1, blocks: 16, size: 256, pages: 1 };
    // Compared as text, since the order of the fields is part of the interface.
    assert.equal(
      out,
      `${JSON.stringify({
        trace: path('small.trace.gz'),
        events: 6,
        allocs: 2,
        frees: 2,
        failures: 0,
        mismatches: [],
        elapsedNs,
        nsPerEvent,
        snapshots: [
          { label: 'mid', pools: [{ ...row, kernel: { active: 2, blocks: 16, size: 256, pages: 1 } }] },
          { label: 'end', pools: [{ ...row, kernel: { active: 1, blocks: 16, size: 256, pages: 1 } }] },
        ],
        pools: [
          {
            id: 0,
            device: '0000:00:02.0',
            name: 'prp list 256',
            size: 256,
            align: 256,
            boundary: 0,
            blockSize: 256,
            allocation: 4096,
            blocksPerPage: 16,
            maxActive: 2,
            pages: 1,
            allocs: 2,
            frees: 2,
          },
        ],
      })}\n`,
    );
  });
});

test('without expectations kernel is null', async () => {
  await withFiles({ 'small.trace': bytesOf(SMALL) }, async (path) => {
    const { code, out } = await runCli(['replay', '--json', '--repeat', '1', path('small.trace')]);
    const { snapshots } = JSON.parse(out) as { snapshots: { pools: { kernel: unknown }[] }[] };
    assert.equal(code, 0);
    assert.equal(snapshots[0]?.pools[0]?.kernel, null);
    const { out: text } = await runCli(['replay', '--repeat', '1', path('small.trace')]);
    assert.match(text, /no kernel output to compare with; see --expect/);
  });
});

test('expectations can be beside the trace, or elsewhere', async () => {
  const wrong = bytesOf(replaced(SMALL_POOLS, 5, '256        1', '256        9'));
  await withFiles(
    { ...FILES, 'other.txt': wrong, 'plain.trace': bytesOf(SMALL), 'plain.pools.txt': wrong },
    async (path) => {
      assert.equal((await runCli(['replay', path('small.trace.gz')])).code, 0);
      assert.equal((await runCli(['replay', '--expect', path('other.txt'), path('small.trace.gz')])).code, 1);
      assert.equal((await runCli(['replay', path('plain.trace')])).code, 1);
      assert.equal((await runCli(['replay', path('small.trace.gz'), path('plain.trace')])).code, 1);
    },
  );
});

test('a difference is reported in JSON and in words', async () => {
  const pools = bytesOf(replaced(SMALL_POOLS, 5, '256        1', '256        9'));
  await withFiles({ ...FILES, 'small.pools.txt': pools }, async (path) => {
    const json = await runCli(['replay', '--json', path('small.trace.gz')]);
    assert.equal(json.code, 1);
    assert.ok(
      json.out.includes(
        '"mismatches":[{"snapshot":"end","device":"0000:00:02.0","pool":"prp list 256","field":"active","ours":1,"kernel":9}]',
      ),
    );
    const { code, out } = await runCli(['replay', path('small.trace.gz')]);
    assert.equal(code, 1);
    assert.match(out, /prp list 256 {8}1 {3}16 {2}256 {2}1 +! prp list 256 {8}9/);
    assert.match(out, /0 errors, 1 difference\n/);
    assert.match(out, /end 0000:00:02\.0 prp list 256: active: 1, the kernel's 9/);
  });
});

test('an error at a call is reported with its line', async () => {
  const lines = SMALL.toSpliced(10, 0, SMALL[9]!);
  await withFiles({ 'small.trace.gz': packed(lines) }, async (path) => {
    const { code, out } = await runCli(['replay', path('small.trace.gz')]);
    assert.equal(code, 1);
    assert.match(out, /1 error, 0 differences\n/);
    assert.match(out, /0000:00:02\.0 prp list 256: free: line 11: the block is not allocated/);
    const json = await runCli(['replay', '--json', path('small.trace.gz')]);
    assert.match(json.out, /"failures":1,"mismatches":\[\{"snapshot":null,/);
  });
});

test('the report on a recorded trace has its counts and explains each difference', async () => {
  const { code, out, err } = await runCli([
    'replay',
    '--snapshots',
    '--repeat',
    '3',
    tracePath('6.1/megasas.trace.gz'),
  ]);
  assert.deepEqual([code, err], [0, '']);
  for (const text of [
    'loaded  0000:00:02.0',
    'reload  0000:00:03.0',
    'megasas frame pool  999 1000 1024 250 < megasas frame pool  999 1332 1024 333',
    '16,064 calls: 8 creates, 8,024 allocs, 8,024 frees, 8 destroys',
    'no error on any block, no difference to the kernel',
    'the best of 3 replays; median ',
    '1,132 pages at most, the kernel 1,470',
    'megasas frame pool: 250 for 333 (2 times); Linux 6.1 cuts 3 blocks from a page where 4 fit',
  ]) {
    assert.ok(out.includes(text), text);
  }
  assert.ok(!out.includes('\u001b'));
});

test('a line a trace, and what the lines mean', async () => {
  const files = [tracePath('6.1/e100.trace.gz'), tracePath('6.1/nvme.trace.gz'), tracePath('6.12/ohci.trace.gz')];
  const { code, out } = await runCli(['replay', '--repeat', '1', ...files]);
  assert.equal(code, 0);
  assert.match(out, /^trace +calls +blocks checked +differences +pages +the kernel's\n/);
  assert.match(out, /\nall +67,776 +33,876 +0 +129 +131\n\n3 traces: no error, no difference\.\n/);
  assert.match(out, /\nPage and offset of 2,092 blocks of Linux 6\.4 and later: the same as the kernel's/);
  assert.match(out, /nvme\.trace\.gz: 16 for 14: Linux 6\.1 cuts 15 blocks from a page where 16 fit/);
  assert.doesNotMatch(out, /poolinfo|ns a call/);
  const json = await runCli(['replay', '--json', '--repeat', '1', ...files]);
  assert.equal(json.out.trimEnd().split('\n').length, 3);
});

test('times of a few calls are not shown', async () => {
  const { out } = await runCli(['replay', '--snapshots', tracePath('6.12/e100.trace.gz')]);
  assert.match(out, /\n {2}40 calls: /);
  assert.doesNotMatch(out, /ns a call/);
});

test('without a file, a trace that comes with the package', async () => {
  const { code, out } = await runCli(['replay', '--repeat', '1']);
  assert.equal(code, 0);
  assert.match(out, /xhci\.trace\.gz +2,304 +1,140 +0 +149 +149\n\n1 trace: no error, no difference\.\n/);
});

test('--debug changes no number except times', async () => {
  await withFiles(FILES, async (path) => {
    const timeless = (text: string): string =>
      text.replace(/"elapsedNs":.*?"snapshots"/, '').replace(/.* ns a call.*/, '');
    for (const json of [[], ['--json']]) {
      const argv = ['replay', ...json, path('small.trace.gz')];
      const plain = await runCli(argv);
      const debug = await runCli([...argv, '--debug']);
      assert.equal(debug.code, 0);
      assert.equal(timeless(debug.out), timeless(plain.out));
    }
  });
});

test('colours and a progress bar appear on a terminal only', async () => {
  await withFiles(FILES, async (path) => {
    const argv = ['replay', path('small.trace.gz')];
    const terminal = await runCli(argv, { tty: true });
    assert.ok(terminal.out.includes('\u001b[1m') && terminal.out.includes('\u001b[32m'));
    assert.match(terminal.err, /\[#+\] 100%/);
    // The bar is removed at the end.
    assert.ok(terminal.err.endsWith('\r\u001b[K'));
    const plain = await runCli(argv, { tty: true, env: { NO_COLOR: '1' } });
    assert.ok(!plain.out.includes('\u001b'));
    assert.ok((await runCli(argv, { tty: true, env: { NO_COLOR: '' } })).out.includes('\u001b'));
  });
});

test('a header that unpacks to more than the limit is a usage error, with a message', async () => {
  const bomb = packed([SMALL[0]!, ...Array.from({ length: 40 }, (_, i) => `#k${String(i)}\t${'v'.repeat(60_000)}`)]);
  assert.ok(bomb.length < 5000);
  await withFiles({ 'bomb.trace.gz': bomb }, async (path) => {
    const { code, out, err } = await runCli(['replay', path('bomb.trace.gz')]);
    assert.deepEqual([code, out], [2, '']);
    assert.match(err, /bomb\.trace\.gz:\d+: expected a header of at most 1048576 characters; found more\n$/);
  });
});
