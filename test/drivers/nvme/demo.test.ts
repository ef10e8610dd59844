/** `dmapool demo nvme`. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runCli } from '../../cli/run-cli.ts';
import { withoutQemu } from '../../qemu/qemu.ts';

void test(
  'dmapool demo nvme runs the driver, compares with the image, and prints the pools',
  { skip: withoutQemu },
  async () => {
    const { code, out, err } = await runCli(['demo', 'nvme']);
    assert.equal(code, 0, err);
    assert.match(out, /^0000:00:02\.0 +QEMU NVMe Ctrl, NVMe 1\.\d\.0, 2 queue pairs of 64 commands, on QEMU$/m);
    assert.match(out, /^read +[\d,]+ MiB\/s, SHA-256 [0-9a-f]{16}\.\.\. as in the image$/m);
    assert.match(out, /^write +[\d,]+ MiB\/s, SHA-256 [0-9a-f]{16}\.\.\. as in the image$/m);
    assert.match(out, /^random read +[\d,]+ a second of 4096 bytes, 32 at a time, all correct$/m);
    assert.match(
      out,
      /^poolinfo - 0\.1\nnvme data +0 +\d+ 4096 +\d+\nprp list 256 .*\nprp list page +0 +\d+ 4096 +\d+\n$/m,
    );
    assert.equal(err, '', 'the progress bar appears on a terminal only');
  },
);

void test('dmapool demo nvme without QEMU names the package to install, in one line', async () => {
  const path = process.env['PATH'];
  process.env['PATH'] = '/nowhere';
  try {
    const { code, out, err } = await runCli(['demo', 'nvme']);
    assert.equal(code, 1);
    assert.equal(out, '');
    assert.match(err, /^dmapool: .*apt-get install .*qemu-system-x86\n$/);
  } finally {
    process.env['PATH'] = path;
  }
});
