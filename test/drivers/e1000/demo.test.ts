/** `dmapool demo e1000`. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { runCli } from '../../cli/run-cli.ts';
import { withoutQemu } from '../../qemu/qemu.ts';

test(
  'dmapool demo e1000 sends both ways, loses packets without pacing, forwards, and prints the pools',
  {
    skip: withoutQemu,
    timeout: 120_000,
  },
  async () => {
    const { code, out, err } = await runCli(['demo', 'e1000']);
    assert.equal(code, 0, err);
    assert.match(out, /^0000:00:02\.0 {2}82540EM {2}52:54:00:12:34:56 {2}1000 Mb\/s, full duplex$/m);
    assert.match(out, /^both ways at once, paced +400,000 sent, 0 lost, 0 changed; [\d,]+ packets\/s, [\d,]+ Mb\/s$/m);
    assert.match(out, /^one way, without pacing +50,000 sent, [1-9][\d,]* lost, 0 changed; found by sequence number$/m);
    assert.match(out, /^forwarded without a copy +100,000 sent, 0 lost, 0 changed; [\d,]+ packets\/s, [\d,]+ Mb\/s$/m);
    assert.match(out, /^0000:00:03\.0 {2}300001 sent, \d+ received, 0 dropped, MPC [1-9]\d*, RNBC [1-9]\d*$/m);
    assert.match(out, /^0000:00:03\.0\npoolinfo - 0\.1\ne1000 packets +512 +\d+ 2048 +\d+$/m);
    assert.match(out, /all buffers are free\.\n$/);
    assert.equal(err, '', 'the progress bar appears on a terminal only');
  },
);

test('dmapool demo e1000 shows its progress on a terminal', { skip: withoutQemu, timeout: 120_000 }, async () => {
  const { code, err } = await runCli(['demo', 'e1000'], { tty: true });
  assert.equal(code, 0);
  for (const label of ['both ways', 'without pacing', 'there and back']) {
    assert.match(err, new RegExp(`${label} \\[#+-*\\] +\\d+%`));
  }
});

test('dmapool demo e1000 without QEMU names the package to install, in one line', async () => {
  const path = process.env['PATH'];
  process.env['PATH'] = '/nowhere';
  try {
    const { code, out, err } = await runCli(['demo', 'e1000']);
    assert.equal(code, 1);
    assert.equal(out, '');
    assert.match(err, /^dmapool: .*apt-get install .*qemu-system-x86\n$/);
  } finally {
    process.env['PATH'] = path;
  }
});

test('the documentation lists each error code of the driver', () => {
  const read = (path: string): string => readFileSync(new URL(`../../../../${path}`, import.meta.url), 'utf8');
  const declared = [...read('drivers/e1000/errors.ts').matchAll(/^ {2}\| '(ERR_DMAPOOL_E1000_\w+)'/gm)].map(
    ([, code]) => code,
  );
  const documented = [...read('docs/drivers-e1000.md').matchAll(/^\| `(ERR_DMAPOOL_E1000_\w+)`/gm)].map(
    ([, code]) => code,
  );
  assert.ok(declared.length > 0);
  assert.deepEqual(documented.sort(), declared.sort());
});
