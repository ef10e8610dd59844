/** `dmapool demo` without a driver: what it shows, and what it needs. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { checkoutPath } from '../trace/hand-made.ts';

const { status, stdout, stderr } = spawnSync(process.execPath, [checkoutPath('bin/dmapool.js'), 'demo'], {
  encoding: 'utf8',
  cwd: checkoutPath('.'),
  // Ten seconds are promised; no program is on the PATH.
  timeout: 10_000,
  env: { PATH: '/nowhere' },
});

test('it ends within ten seconds, without another program', () => {
  assert.deepEqual([status, stderr], [0, '']);
});

test('it shows a pool, and a device that the IOMMU stops outside its memory', () => {
  assert.match(stdout, /^1\. A pool: .*\n {3}a page of 4096 bytes has 42 blocks of 96 bytes$/m);
  assert.match(stdout, /^ {3}the device wrote to block 0; the program reads 0xd00d$/m);
  assert.match(stdout, /^ {3}\| 0000:00:1d\.7: IOMMU fault: write of 2 bytes at 0x101000, which is not mapped$/m);
});

test('it shows a late write, with its bytes, and that the block is not used again', () => {
  assert.match(
    stdout,
    /^ {3}\| .*block 1 at 0x1060 was written to while free: 2 bytes changed from offset 8; .* in quarantine$/m,
  );
  assert.match(stdout, /^ {3}\| {3}00000000: a7 a7 a7 a7 a7 a7 a7 a7 ba ad a7/m);
  assert.match(stdout, /^ {3}so the next allocation got block 2; the changed one is in quarantine$/m);
});

test('it shows the pools attribute', () => {
  assert.match(stdout, /^ {3}poolinfo - 0\.1\n {3}ehci_qtd {12}2 {3}42 {3}96 {2}1$/m);
});

test('it shows a leak with its line, which the file has there', () => {
  const { file, line } = /\| {3}1 allocated at tour \((?<file>\S+?):(?<line>\d+):\d+\)/.exec(stdout)!.groups!;
  const source = readFileSync(checkoutPath(file!), 'utf8').split('\n')[Number(line) - 1]!.trim();
  assert.equal(source, 'transfers.alloc(); // never freed');
  assert.ok(stdout.includes(`> ${source}\n`));
  assert.match(stdout, /^ {3}1 page came back$/m);
});

test('it names the other demos and the examples, which exist', () => {
  for (const driver of ['nvme', 'ehci', 'e1000']) assert.ok(stdout.includes(`npx dmapool demo ${driver} `), driver);
  const programs = [...stdout.matchAll(/^ {3}node (\S+\.js) /gm)].map(([, file]) => file!);
  assert.ok(programs.length >= 6);
  for (const program of programs) assert.ok(readFileSync(checkoutPath(program)).length > 0, program);
});
