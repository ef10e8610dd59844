import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmaTraceError, readPools } from 'dmapool/trace';
import { bytesOf, packed, SMALL_POOLS, tracePath, TRACES } from './hand-made.ts';

test('files, devices and rows', async () => {
  const [mid, end, ...none] = await readPools(packed(SMALL_POOLS));
  assert.deepEqual(mid, {
    label: 'mid',
    time: 35,
    path: '/sys/devices/pci0000:00/0000:00:02.0/pools',
    device: '0000:00:02.0',
    rows: [{ name: 'prp list 256', active: 2, blocks: 16, size: 256, pages: 1 }],
    text: 'poolinfo - 0.1\nprp list 256        2   16  256  1\n',
  });
  assert.equal(end?.label, 'end');
  assert.equal(none.length, 0);
});

const [HEADING, VERSION, ROW] = SMALL_POOLS as [string, string, string];
const malformed: readonly (readonly [what: string, lines: readonly string[], at: number, expected: RegExp])[] = [
  ['no heading', [VERSION, ROW], 1, /## snapshot=LABEL/],
  ['a heading without device', ['## snapshot=mid t_ns=35 file=/pools', VERSION], 1, /DEVICE\/pools/],
  ['a heading without time', [HEADING.replace('35', 'x')], 1, /t_ns=TIME/],
  ['another version', [HEADING, 'poolinfo - 0.2', ROW], 2, /poolinfo - 0\.1/],
  ['no version', [HEADING, HEADING.replace('mid', 'end')], 2, /poolinfo - 0\.1/],
  ['nothing after a heading', [HEADING], 2, /poolinfo - 0\.1/],
  [
    'a row with a number too few',
    [HEADING, VERSION, ROW.replace(/ 1$/, '')],
    3,
    /name, active, blocks, size and pages/,
  ],
  ['a row without name', [HEADING, VERSION, '  2   16  256  1'], 3, /name, active/],
  ['an empty line', [HEADING, VERSION, ROW, ''], 4, /name, active/],
  ['a device twice', [HEADING, VERSION, ROW, HEADING, VERSION], 4, /each device once/],
];

for (const [what, lines, at, expected] of malformed) {
  test(`malformed: ${what}`, async () => {
    await assert.rejects(readPools(bytesOf(lines), { name: 'x.pools.txt' }), (error) => {
      assert.ok(error instanceof DmaTraceError);
      assert.match(error.expected, expected);
      assert.equal(error.line, at);
      assert.ok(error.message.startsWith(`x.pools.txt:${String(at)}: `));
      return true;
    });
  });
}

test('an empty file', async () => {
  await assert.rejects(readPools(new Uint8Array(0)), /pools\.txt:1: .* an empty file/);
});

test('a row that the kernel cut at the end of its page is omitted', async () => {
  // 15 bytes of version, 116 rows of 35 bytes, and 20 bytes of a row: 4095.
  const rows = new Array<string>(116).fill(ROW);
  for (const cut of [ROW.slice(0, 20), `${ROW.slice(0, 11)} 1 2 3 44`]) {
    const [file] = await readPools(bytesOf([HEADING, VERSION, ...rows, cut]));
    assert.equal(file?.rows.length, 116);
  }
});

for (const name of TRACES) {
  test(`${name}: every recorded row is read`, async () => {
    const files = await readPools(tracePath(`${name}.pools.txt`));
    assert.ok(files.length > 0);
    for (const { text, rows } of files) {
      const printed = rows.map(({ name, active, blocks, size, pages }) => {
        const numbers = [[active, 4] as const, [blocks, 4] as const, [size, 4] as const, [pages, 2] as const];
        return [name.padEnd(16), ...numbers.map(([value, width]) => String(value).padStart(width))].join(' ');
      });
      assert.equal(['poolinfo - 0.1', ...printed, ''].join('\n'), text);
    }
  });
}
