import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { test } from 'node:test';
import { withoutQemu } from '../../qemu/qemu.ts';
import { checkoutPath } from '../../trace/hand-made.ts';
import { runCli } from '../../cli/run-cli.ts';

function leftFiles(): string[] {
  return readdirSync(tmpdir()).filter((name) => name.startsWith('dmapool-demo-'));
}

test('dmapool demo ehci: a disk read and written in full equals its image', { skip: withoutQemu }, async () => {
  const before = leftFiles();
  const { code, out, err } = await runCli(['demo', 'ehci'], { tty: true, env: { NO_COLOR: '1' } });
  assert.equal(code, 0, err);
  assert.match(out, /EHCI 1\.0, 6 root ports/);
  assert.match(out, /read +16\.0 MiB in .* MiB\/s, SHA-256 [0-9a-f]{16}\.\.\. as in the image\n/);
  assert.match(out, /write +16\.0 MiB in .* MiB\/s, SHA-256 [0-9a-f]{16}\.\.\. as in the image\n/);
  assert.match(out, /^poolinfo - 0\.1\nusb_data +0 +\d+ 4096 +\d+\nehci_qh +4 +42 +96 +1\nehci_qtd +3 +42 +96 +1\n$/m);
  assert.match(err, /write \[#+-*\] +\d+%/);
  assert.deepEqual(leftFiles(), before);
});

test('dmapool demo names the missing package in one line, and lists the demos', async () => {
  // An empty PATH: QEMU cannot be found.
  const { status, stdout, stderr } = spawnSync(process.execPath, [checkoutPath('bin/dmapool.js'), 'demo', 'ehci'], {
    encoding: 'utf8',
    env: { ...process.env, PATH: '/nonexistent' },
  });
  assert.deepEqual([status, stdout], [1, '']);
  assert.match(stderr, /^dmapool: QEMU: can't start .*apt-get install .*qemu-system-x86\n$/);
  const { code, err } = await runCli(['demo', 'nothing']);
  assert.equal(code, 2);
  assert.match(err, /Allowed choices are .*ehci/);
});
