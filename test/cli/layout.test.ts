import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { LayoutDocument } from '../../src/cli/layout.ts';
import { runCli } from './run-cli.ts';

async function layout(size: string, align?: string, boundary?: string): Promise<string> {
  const options = [
    ...(align === undefined ? [] : ['--align', align]),
    ...(boundary === undefined ? [] : ['--boundary', boundary]),
  ];
  const { code, out, err } = await runCli(['layout', '--size', size, ...options]);
  assert.deepEqual([code, err], [0, '']);
  return out;
}

test('the JSON document has exactly these fields in this order', async () => {
  const figures: readonly (readonly [argv: string, document: Omit<LayoutDocument, 'offsets'>, step: number])[] = [
    [
      '--size 96 --align 32 --boundary 4096',
      {
        size: 96,
        align: 32,
        boundary: 4096,
        blockSize: 96,
        allocation: 4096,
        effectiveBoundary: 4096,
        blocksPerPage: 42,
        wastedBytes: 64,
      },
      96,
    ],
    [
      '--size 256',
      {
        size: 256,
        align: 0,
        boundary: 0,
        blockSize: 256,
        allocation: 4096,
        effectiveBoundary: 4096,
        blocksPerPage: 16,
        wastedBytes: 0,
      },
      256,
    ],
    [
      '--size 2112 --align 64 --boundary 4096',
      {
        size: 2112,
        align: 64,
        boundary: 4096,
        blockSize: 2112,
        allocation: 4096,
        effectiveBoundary: 4096,
        blocksPerPage: 1,
        wastedBytes: 1984,
      },
      0,
    ],
    [
      '--size 147456',
      {
        size: 147456,
        align: 0,
        boundary: 0,
        blockSize: 147456,
        allocation: 147456,
        effectiveBoundary: 147456,
        blocksPerPage: 1,
        wastedBytes: 0,
      },
      0,
    ],
    [
      '--size 68 --align 32 --boundary 4096',
      {
        size: 68,
        align: 32,
        boundary: 4096,
        blockSize: 96,
        allocation: 4096,
        effectiveBoundary: 4096,
        blocksPerPage: 42,
        wastedBytes: 64,
      },
      96,
    ],
  ];
  for (const [argv, document, step] of figures) {
    const offsets = Array.from({ length: document.blocksPerPage }, (_, i) => i * step);
    const { code, out } = await runCli(['layout', '--json', ...argv.split(' ')]);
    assert.equal(code, 0);
    assert.equal(out, `${JSON.stringify({ ...document, offsets })}\n`);
  }
});

test('sizes may be hexadecimal or have a suffix', async () => {
  const decimal = await layout('68', '32', '4096');
  assert.equal(await layout('0x44', '0x20', '4K'), decimal);
  assert.equal(await layout('0X44', '32', '4k'), decimal);
  assert.ok((await layout('1M')).includes('1,048,576 bytes'));
});

test('the drawing has every block, gap and boundary in its place', async () => {
  const text = await layout('640', undefined, '1K');
  const rows = text.split('\n').filter((line) => line.startsWith('0x'));
  assert.equal(rows.length, 16);
  // A column is 4 bytes: a block of 160 columns, then 96 of gap, four times over.
  const columns = rows.map((line) => line.slice(8).replaceAll('|', '').padEnd(64)).join('');
  for (let block = 0; block < 4; block++) {
    const segment = columns.slice(block * 256, (block + 1) * 256);
    assert.equal(segment, `[${String(block)}${'='.repeat(157)}]${'.'.repeat(96)}`);
    assert.ok(rows[block * 4]?.startsWith(`0x${(block * 1024).toString(16).padStart(4, '0')} |`));
    assert.ok(rows[block * 4 + 3]?.endsWith('|'));
  }
  assert.match(text, /a column is 4 bytes; \[==\] a block, \. unused, \| a boundary/);
});

test('the drawing marks boundaries within a row', async () => {
  const row = (await layout('16', undefined, '64')).split('\n').find((line) => line.startsWith('0x0000'));
  assert.equal(row, '0x0000 |[0=][1=][2=][3=]|[4=][5=][6=][7=]|[8=][9=][10][11]|[12][13][14][15]|');
});

test('the drawing has every block when blocks are not whole columns', async () => {
  const rows = (await layout('17')).split('\n').filter((line) => line.startsWith('0x'));
  const drawn = rows.map((line) => line.slice(8)).join('');
  assert.equal(drawn.split('[').length - 1, 240);
});

test('layout prints block size, blocks per page and unused bytes', async () => {
  const text = await layout('68', '32', '4096');
  assert.match(text, /block +96 bytes +\(68 raised to a multiple of 32; 28 bytes of each unused\)/);
  assert.match(text, /blocks in a page +42\n/);
  assert.match(text, /unused +64 bytes +\(1\.6 % of the page\)/);
  assert.match(text, /A pool is the right tool\.\n$/);
  assert.match(await layout('4'), /block +16 bytes +\(4 raised to the minimum; 12 bytes/);
  assert.match(await layout('5000'), /page +5,000 bytes +\(2 memory pages, of which 3,192 bytes are unused\)/);
  assert.match(await layout('64', '0', '1M'), /\(1,048,576 exceeds the page\)/);
});

test('layout reports when a pool is unsuitable, and recommends an alternative', async () => {
  const large = await layout('147456');
  assert.match(large, /A pool is the wrong tool: a block is larger than a page\./);
  assert.match(large, /Use device\.allocCoherent\(147456\)/);
  const single = await layout('2112', '64', '4096');
  assert.match(single, /A pool is the wrong tool: a page holds one block\./);
  assert.match(single, /1,984 bytes unused/);
  assert.match(single, /Use device\.allocCoherent\(2112\) .*, or blocks of at most 2,048 bytes: a page holds 2\./);
  const wasteful = await layout('1100', '0', '2K');
  assert.match(wasteful, /much of each page is unused\.\nWith blocks of at most 1,024 bytes a page holds 4 of them\./);
});
