import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmaArgumentError } from 'dmapool';
import { decodeTrace, readPools, type ReplayOptions, type ReplayResult, replayTrace } from 'dmapool/trace';
import { bytesOf, line, MAGIC, replaced, SMALL, SMALL_POOLS, tracePath, TRACES } from './hand-made.ts';

async function replay(
  lines: readonly string[],
  pools: readonly string[] = SMALL_POOLS,
  options: ReplayOptions = {},
): Promise<ReplayResult> {
  const trace = await decodeTrace(bytesOf(lines), { name: 'small' });
  const expected = pools.length === 0 ? [] : await readPools(bytesOf(pools));
  return replayTrace(trace, { expected, repeat: 1, ...options });
}

/** A result without its times. */
function numbers(result: ReplayResult): Partial<ReplayResult> {
  return { ...result, runsNs: [], elapsedNs: 0, medianNs: 0 };
}

// In debug mode a call takes about ten microseconds: skip the longest traces.
const DEBUGGED = TRACES.filter((name) => !/nvme|usb-iso|mixed/.test(name));
/** In these traces the kernel took pages although blocks were freed meanwhile. */
const RACED = '6.12/nvme-grow';

for (const name of TRACES) {
  test(`${name}: no failure, no difference`, async () => {
    const trace = await decodeTrace(tracePath(`${name}.trace.gz`));
    const expected = await readPools(tracePath(`${name}.pools.txt`));
    const result = replayTrace(trace, { expected, repeat: 2 });
    assert.deepEqual(result.mismatches, []);
    assert.equal(result.failures, 0);
    assert.deepEqual(result.notes.length, name === RACED ? 1 : 0);
    assert.equal(result.allocs, result.frees);
    assert.equal(result.runsNs.length, 2);
    // Each row of the kernel was compared with one of ours.
    const rows = result.snapshots.flatMap((snapshot) => snapshot.files.flatMap((file) => file.rows));
    assert.equal(
      rows.filter((row) => row.kernel !== null).length,
      expected.reduce((sum, file) => sum + file.rows.length, 0),
    );
    const isOld = name.startsWith('6.1/');
    const expectedReason = isOld
      ? /cuts \d+ blocks? from a page where \d+ fit/
      : /although blocks were freed while it waited/;
    for (const { verdict, reasons } of rows) {
      assert.equal(reasons.length > 0, verdict === 'fewer');
      for (const reason of reasons) assert.match(reason, expectedReason);
    }
    if (isOld) assert.equal(result.placed, 0);
    else if (name !== RACED) assert.equal(result.placed, result.allocs);
    const fewer = result.pools.filter((pool) => pool.pages < pool.kernelPages);
    assert.equal(
      fewer.every((pool) => pool.reasons.every((reason) => expectedReason.test(reason))),
      true,
    );
    if (!isOld && name !== RACED) assert.deepEqual(fewer, []);
    if (DEBUGGED.includes(name)) {
      assert.deepEqual(numbers(replayTrace(trace, { expected, debug: true })), numbers(result));
    }
  });
}

test('result of a small trace', async () => {
  const result = await replay(SMALL);
  assert.deepEqual(result.mismatches, []);
  assert.equal(result.events, 6);
  assert.equal(result.kernel, 'Linux version 6.1.0-56-amd64 (hand-made)');
  const [mid, end] = result.snapshots;
  assert.deepEqual(mid?.files[0]?.rows, [
    {
      ours: { name: 'prp list 256', active: 1, blocks: 16, size: 256, pages: 1 },
      kernel: { name: 'prp list 256', active: 2, blocks: 16, size: 256, pages: 1 },
      verdict: 'moment',
      reasons: [],
    },
  ]);
  assert.equal(mid.files[0].ours, 'poolinfo - 0.1\nprp list 256        1   16  256  1\n');
  assert.equal(end?.files[0]?.rows[0]?.verdict, 'same');
  assert.deepEqual(result.pools, [
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
      kernelPages: 1,
      reasons: [],
    },
  ]);
});

const tampered: readonly (readonly [index: number, from: string, to: string, mismatches: readonly object[]])[] = [
  [2, '256        2', '256        1', []],
  [2, '256        2', '256        3', [{ snapshot: 'mid', field: 'active', ours: 1, kernel: 3 }]],
  [5, '256        1', '256        2', [{ snapshot: 'end', field: 'active', ours: 1, kernel: 2 }]],
  [5, '256  1', '256  0', [{ snapshot: 'end', field: 'pages', ours: 1, kernel: 0 }]],
  [5, '256  1', '256  2', []],
  [5, '16  256', '16  255', [{ snapshot: 'end', field: 'size', ours: 256, kernel: 255 }]],
  [5, '   16', '   99', []],
  [
    5,
    'prp',
    'prq',
    [{ snapshot: 'end', pool: 'prq list 256', field: 'name', ours: 'prp list 256', kernel: 'prq list 256' }],
  ],
  [0, '02.0', '03.0', [{ snapshot: 'mid', device: '0000:00:03.0', field: 'name', ours: null, kernel: 'prp list 256' }]],
  [0, '=mid', '=mad', [{ snapshot: 'mad', field: 'name', ours: null, kernel: 'prp list 256' }]],
];

for (const [index, from, to, mismatches] of tampered) {
  test(`expectations with ${to} for ${from}: ${mismatches.length === 0 ? 'equal' : 'reported'}`, async () => {
    const result = await replay(SMALL, replaced(SMALL_POOLS, index, from, to));
    const base = { device: '0000:00:02.0', pool: 'prp list 256' };
    assert.deepEqual(
      result.mismatches,
      mismatches.map((mismatch) => ({ ...base, ...mismatch })),
    );
    assert.equal(result.failures, 0);
  });
}

test('a snapshot that only the expectations have is marked', async () => {
  const { snapshots } = await replay(SMALL, replaced(SMALL_POOLS, 0, '=mid', '=mad'));
  assert.deepEqual(
    snapshots.map(({ label, recorded }) => [label, recorded]),
    [
      ['mid', true],
      ['end', true],
      ['mad', false],
    ],
  );
});

test('a row that only the kernel has; a pool that only we have', async () => {
  const more = await replay(SMALL, SMALL_POOLS.toSpliced(3, 0, 'ehci_qh             6   42   96  1'));
  assert.deepEqual(more.mismatches, [
    { snapshot: 'mid', device: '0000:00:02.0', pool: 'ehci_qh', field: 'name', ours: null, kernel: 'ehci_qh' },
  ]);
  const fewer = await replay(SMALL, SMALL_POOLS.slice(0, 5));
  assert.deepEqual(fewer.mismatches, []);
  assert.equal(fewer.snapshots[1]?.files[0]?.rows[0]?.verdict, 'alone');
});

test('pools that are created and destroyed during a snapshot', async () => {
  const created = line(35, 1, 'create', 1, '0000:00:02.0', 'late', 64, 0, 0, 64, 4096, 4096);
  const lines = SMALL.toSpliced(8, 0, created).toSpliced(9, 0, line(45, 1, 'destroy', 1));
  const late = 'late                0    0   64  0';
  assert.deepEqual((await replay(lines, SMALL_POOLS)).mismatches, []);
  assert.deepEqual((await replay(lines, SMALL_POOLS.toSpliced(2, 0, late))).mismatches, []);
  const wrong = await replay(lines, SMALL_POOLS.toSpliced(2, 0, late.replace('64', '65')));
  assert.deepEqual(
    wrong.mismatches.map(({ field, kernel }) => [field, kernel]),
    [['size', 65]],
  );
});

test('pools of one name on one device are matched by position', async () => {
  const twin = line(11, 0, 'create', 1, '0000:00:02.0', 'prp list 256', 256, 256, 0, 256, 4096, 4096);
  const lines = SMALL.toSpliced(5, 0, twin);
  const pools = SMALL_POOLS.toSpliced(5, 0, 'prp list 256        0    0  256  0').toSpliced(
    2,
    0,
    'prp list 256        0    0  256  0',
  );
  assert.deepEqual((await replay(lines, pools)).mismatches, []);
  assert.notDeepEqual((await replay(lines, pools.toSpliced(2, 2, pools[3]!, pools[2]!))).mismatches, []);
});

test('a long name is cut as in the kernel before the comparison', async () => {
  const name = 'xHCI 256 byte stream ctx arrays and more';
  const result = await replay(
    replaced(SMALL, 4, 'prp list 256', name),
    SMALL_POOLS.map((text) => text.replace('prp list 256    ', name.slice(0, 31))),
  );
  assert.deepEqual(result.mismatches, []);
  assert.equal(result.snapshots[1]?.files[0]?.rows[0]?.verdict, 'same');
});

/** A changed trace, and the expected failures of calls: their fields, and a part of one text. */
const broken: readonly (readonly [what: string, lines: readonly string[], fields: readonly string[], text: RegExp])[] =
  [
    ['a free twice', SMALL.toSpliced(10, 0, SMALL[9]!), ['free'], /^line 11: .*not allocated/],
    [
      'a free of a block that was never allocated',
      replaced(SMALL, 9, 'free\t0\t0', 'free\t0\t5'),
      ['free', 'log'],
      /^line 10: /,
    ],
    [
      'an alloc of a block that is out',
      replaced(SMALL, 7, 'AZ\t1', 'AZ\t0'),
      ['alloc', 'free', 'log'],
      /^line 8: .*already allocated/,
    ],
    ['a missing free', SMALL.toSpliced(12, 1), ['log'], /^line 13: .*busy/],
    ['an alloc after destroy', [...SMALL, SMALL[5]!], ['alloc'], /^line 15: .*destroyed/],
    ['a destroy twice', [...SMALL, SMALL[13]!], ['destroy'], /^line 15: .*twice/],
    [
      'a pool that no one could create',
      replaced(SMALL, 4, '256\t256\t0', '256\t3\t0'),
      ['create', 'alloc', 'alloc', 'free', 'free', 'destroy'],
      /^line 5: .*power of two/,
    ],
    [
      'more memory than there is',
      replaced(SMALL, 4, '256\t256\t0', '2147483647\t0\t0'),
      ['alloc', 'free'],
      /^line 6: /,
    ],
  ];

for (const [what, lines, fields, text] of broken) {
  test(`a trace with ${what} fails and is replayed to its end`, async () => {
    const result = await replay(lines, []);
    const troubles = result.mismatches.filter((mismatch) => mismatch.snapshot === null);
    assert.deepEqual([...new Set(troubles.map(({ field }) => field))], [...new Set(fields)]);
    assert.equal(result.failures, troubles.length);
    assert.match(String(troubles[0]?.ours), text);
    assert.equal(result.runsNs.length, 1);
  });
}

test('notes are no failures', async () => {
  const refused = line(25, 0, 'alloc', 0, 'K', -1, -1, -1, '-', -1, 'cc0', 1, 2);
  const counts = line('#counts', 'create=1 snap=4 alloc=9 free=1 destroy=0 null=0');
  const result = await replay([MAGIC, counts, ...SMALL.slice(4, 12), refused], []);
  assert.equal(result.failures, 0);
  assert.deepEqual(result.notes, [
    'allocs for which the kernel had no memory, left out: 1',
    'blocks still out at the end of the trace: 1',
    'the header counts 9 lines of alloc, the trace has 3',
  ]);
});

test('from 6.4 on page and offset of every block, pages and blocks are equal', async () => {
  const since = SMALL.with(2, line('#kernel', 'Linux version 6.12.117 (hand-made)'));
  const right = await replay(since);
  assert.deepEqual([right.mismatches, right.placed], [[], 2]);
  const offset = await replay(since.with(7, since[7]!.replace('\t256\t', '\t512\t')));
  assert.deepEqual(
    offset.mismatches.map(({ field, ours }) => [field, ours]),
    [['place', "line 8: the block is at page 0, offset 256, the kernel's at page 0, offset 512"]],
  );
  const pages = await replay(since, replaced(SMALL_POOLS, 5, '256  1', '256  2'));
  assert.deepEqual(
    pages.mismatches.map(({ field, ours, kernel }) => [field, ours, kernel]),
    [['pages', 1, 2]],
  );
  const blocks = await replay(since, replaced(SMALL_POOLS, 5, ' 16 ', ' 15 '));
  assert.deepEqual(
    blocks.mismatches.map(({ field, ours, kernel }) => [field, ours, kernel]),
    [['blocks', 16, 15]],
  );
});

test('after a page taken although a block was free, places are not compared, and the page is counted', async () => {
  const header = [line('#kernel', 'Linux version 6.12.117 (hand-made)'), line('#pages', 'added 2, of these 0 while')];
  const lines = SMALL.toSpliced(2, 1, ...header);
  // The second block is the first of another page.
  const raced = lines.with(8, lines[8]!.replace('0\t256\tfff00100', '1\t0\tfff01000'));
  const result = await replay(
    raced,
    SMALL_POOLS.map((text) => text.replace(/16 {2}256 {2}1$/, '32  256  2')),
  );
  assert.deepEqual([result.mismatches, result.placed], [[], 1]);
  assert.match(result.pools[0]!.reasons.join(), /took 1 page although blocks were freed/);
  assert.match(result.notes[0]!, /took 1 page although blocks were free; the places of 1 blocks after that/);
  assert.match(result.notes[1]!, /header counts 0 pages taken while a block was free, the trace shows 1/);
});

test('progress increases to 1', async () => {
  const seen: number[] = [];
  await replay(SMALL, [], { repeat: 3, onProgress: (done) => seen.push(done) });
  assert.deepEqual(
    seen,
    [...seen].sort((a, b) => a - b),
  );
  assert.equal(seen.at(-1), 1);
});

test('repeat is checked', async () => {
  const trace = await decodeTrace(bytesOf(SMALL));
  for (const repeat of [0, 1.5, 10_001]) assert.throws(() => replayTrace(trace, { repeat }), DmaArgumentError);
});
