import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { PoolAdvice } from '../../src/cli/advice.ts';
import { SMALL, tracePath } from '../trace/hand-made.ts';
import { runCli, withFiles } from './run-cli.ts';

/** The advice for a pool, derived by hand from the figures of `dmapool replay` before the command was run. */
interface Answer {
  readonly trace: string;
  readonly device: string;
  readonly pool: string;
  /** Undefined if a pool is the right tool. */
  readonly tool?: RegExp;
  /** Null for no change. */
  readonly geometry: RegExp | null;
  readonly waste: RegExp;
  readonly limit: number;
  readonly reserve: number | null;
}

const ANSWERS: readonly Answer[] = [
  // One block of 36 memory pages, one at a time: a pool is not needed.
  {
    trace: 'e100',
    device: '0000:00:02.0',
    pool: 'eth0',
    tool: /allocCoherent\(147456\)/,
    geometry: null,
    waste: /: 0 % /,
    limit: 2,
    reserve: 1,
  },
  // 42 blocks of 96 bytes leave 64 bytes. The peak is 47 in 6,639 allocations: reserve two pages.
  {
    trace: 'ehci',
    device: '0000:00:02.0',
    pool: 'ehci_qtd',
    geometry: null,
    waste: /^64 bytes of each page.*: 2 % of 2 pages/,
    limit: 84,
    reserve: 47,
  },
  // 12 allocations for 9 blocks, at probe: no reserve.
  {
    trace: 'ehci',
    device: '0000:00:02.0',
    pool: 'ehci_qh',
    geometry: null,
    waste: /: 2 % of 1 page$/,
    limit: 42,
    reserve: null,
  },
  // All 999 blocks are allocated once, at probe.
  {
    trace: 'megasas',
    device: '0000:00:02.0',
    pool: 'megasas frame pool',
    geometry: null,
    waste: /: 0 % of 250 pages/,
    limit: 1252,
    reserve: null,
  },
  {
    trace: 'megasas',
    device: '0000:00:03.0',
    pool: 'megasas sense pool',
    geometry: null,
    waste: /: 0 % of 32 pages/,
    limit: 1280,
    reserve: null,
  },
  // 2112 bytes are 33 entries of 64 bytes. With 32 entries, a page would hold two blocks. Half of each page is unused.
  {
    trace: 'xhci',
    device: '0000:00:02.0',
    pool: 'xHCI input/output contexts',
    tool: /allocCoherent\(2112\)/,
    geometry: /at most 2048 bytes would fit 2/,
    waste: /^1,984 bytes.*48 % of 20 pages/,
    limit: 25,
    reserve: 20,
  },
  // A block is a page.
  {
    trace: 'xhci',
    device: '0000:00:02.0',
    pool: 'xHCI ring segments',
    tool: /allocCoherent\(4096\)/,
    geometry: null,
    waste: /: 0 % of 138 pages/,
    limit: 173,
    reserve: 138,
  },
  {
    trace: 'mixed',
    device: '0000:00:02.0',
    pool: 'prp list 256',
    geometry: null,
    waste: /: 0 % of 3 pages/,
    limit: 64,
    reserve: 45,
  },
  {
    trace: 'usb-iso',
    device: '0000:00:02.0',
    pool: 'uhci_td',
    geometry: null,
    waste: /: 0 % of 3 pages/,
    limit: 192,
    reserve: 143,
  },
  // Two blocks per page, a peak of three, six allocations.
  {
    trace: 'usb-iso',
    device: '0000:00:02.0',
    pool: 'buffer-2048',
    geometry: null,
    waste: /: 0 % of 2 pages/,
    limit: 4,
    reserve: null,
  },
];

for (const answer of ANSWERS) {
  test(`advice for ${answer.pool} of ${answer.trace} equals the answer by hand`, async () => {
    const { code, out, err } = await runCli(['advise', tracePath(`6.1/${answer.trace}.trace.gz`), '--json']);
    assert.deepEqual([code, err], [0, '']);
    const found = (JSON.parse(out) as PoolAdvice[]).find(
      ({ device, name }) => device === answer.device && name === answer.pool,
    );
    const about = (what: string): PoolAdvice['advice'][number] | undefined =>
      found?.advice.find((each) => each.about === what);
    const { tool, geometry, limit, reserve, waste } = answer;
    if (tool === undefined) assert.equal(about('tool'), undefined);
    else assert.match(about('tool')!.change!, tool);
    if (geometry === null) assert.equal(about('geometry')!.change, null);
    else assert.match(about('geometry')!.change!, geometry);
    assert.match(about('geometry')!.evidence, waste);
    assert.equal(about('limit')!.change, `maxBlocks: ${String(limit)}`);
    assert.equal(
      about('reserve')!.change?.split(' ')[0] ?? null,
      reserve === null ? null : `reserve(${String(reserve)})`,
    );
    assert.equal(about('holder'), undefined);
  });
}

test('blocks that are never freed are counted, and named by site if the trace has sites', async () => {
  const line = (...fields: readonly (string | number)[]): string => fields.join('\t');
  const lines = [
    line(0, 0, 'create', 0, 'eth0', 'rx', 64, 0, 0, 64, 4096, 4096),
    line(1, 0, 'alloc', 0, 'K', 0, 0, 0, 1000, 1, 0, 0, 0),
    ...Array.from({ length: 50 }, () => [
      line(2, 0, 'alloc', 0, 'K', 1, 0, 64, 1040, 2, 0, 0, 0),
      line(3, 0, 'free', 0, 1, 0, 64, 1040, 1, 0),
    ]).flat(),
  ];
  const [create = '', first = '', ...rest] = lines;
  const withSite = ['#dma_pool-trace v1', '#site 1\topen (driver.ts:12:5)', create, `${first}\t1`, ...rest];
  const texts = { 'x.trace': `${lines.join('\n')}\n`, 'sites.trace': `${withSite.join('\n')}\n` };
  await withFiles(texts, async (path) => {
    for (const name of Object.keys(texts)) {
      const { code, out } = await runCli(['advise', path(name)]);
      assert.equal(code, 0);
      assert.match(out, /holder .*holders\(pool\)/);
      assert.match(out, /1 block allocated in the first quarter of the trace is never freed/);
      assert.equal(out.includes('; 1 at open (driver.ts:12:5)'), name === 'sites.trace');
    }
  });
});

test('advise reports errors of files and processes', async () => {
  assert.match((await runCli(['advise', '/nonexistent'])).err, /^dmapool: \/nonexistent: no such file or directory\n$/);
  assert.match((await runCli(['advise', '4194304'])).err, /^dmapool: process 4194304 can't be observed/);
  await withFiles({ 'x.trace': SMALL.join('\n').replace('create', 'creates') }, async (path) => {
    const { code, err } = await runCli(['advise', path('x.trace')]);
    assert.equal(code, 2);
    assert.match(err, /x\.trace:\d+: expected/);
  });
});
