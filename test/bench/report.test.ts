import assert from 'node:assert/strict';
import { test } from 'node:test';
import { drawBarChart } from '../../bench/bar-chart.ts';
import { charts, type Measured, page, withTables } from '../../bench/report-page.ts';
import { summarize } from '../../bench/processes.ts';
import { KERNEL_GEOMETRIES } from '../../src/cli/speed.ts';

const of = (best: number) => summarize([{ nsPerPairMedian: best + 1, nsPerPairBest: best }]);
const rival = (best: number) => ({ ...of(best), fasterBest: null, fasterMedian: null });

const LONE: Measured['more']['lone'] = {
  processes: 3,
  workers: 1,
  peerMissing: null,
  runtimes: [
    {
      runtime: 'Node v20.0.0',
      undisturbed: 1,
      results: KERNEL_GEOMETRIES.map((geometry) => ({
        ...geometry,
        blocks: 8192,
        peer: null,
        shared: of(5.5),
        unshared: of(5),
        apart: of(5),
        scalesBest: 1,
        scalesMedian: 1,
        fasterBest: null,
        fasterMedian: null,
        ownNsPerPair: 5.5,
        garbagePerPair: 0,
      })),
      pipeline: [],
    },
  ],
};

const MEASURED: Measured = {
  machine: 'a machine',
  date: '2026-01-02',
  alone: {
    processes: 3,
    pinning: 'taskset -c 1',
    peerMissing: null,
    mempool: KERNEL_GEOMETRIES.map((geometry) => ({ ...geometry, single: of(4.5), bulk32: of(1.25) })),
    mempoolMissing: null,
    lockedExchangeNs: 2,
    lockUnlockNs: 4,
    runtimes: [
      {
        runtime: 'Node v20.0.0',
        results: KERNEL_GEOMETRIES.map((geometry) => ({
          ...geometry,
          blocks: 8192,
          peer: of(20),
          object: rival(8),
          index: rival(6),
          bulk32: rival(5),
          floor: rival(4),
          garbagePerPair: 0,
          heapPerBlock: 60,
        })),
        manyBlocks: [
          {
            form: 'index',
            blocks: 373_959,
            firstFillNsPerPair: 100,
            many: of(6),
            few: of(6),
            ratioBest: 1,
            ratioMedian: 1,
          },
        ],
      },
    ],
  },
  together: {
    processes: 3,
    workers: 2,
    peerMissing: null,
    runtimes: [
      {
        runtime: 'Node v20.0.0',
        undisturbed: 1,
        results: KERNEL_GEOMETRIES.map((geometry) => ({
          ...geometry,
          blocks: 8192,
          peer: null,
          shared: of(4),
          unshared: of(8),
          apart: of(3.5),
          scalesBest: 2,
          scalesMedian: 1.8,
          fasterBest: null,
          fasterMedian: null,
          ownNsPerPair: 8,
          garbagePerPair: 0,
        })),
        pipeline: [{ batch: 1, block: of(70), garbagePerBlock: 0 }],
      },
    ],
  },
  more: {
    lone: LONE,
    crowds: [4, 8].map((workers) => ({ ...LONE, workers })),
    traces: {
      peerMissing: null,
      runtimes: [
        {
          runtime: '/usr/bin/node',
          rows: [
            {
              trace: 'ehci',
              calls: 14_908,
              pools: 8,
              locked: { first: 30, best: 7.5, median: 8 },
              unlocked: null,
              index: { first: 700, best: 6, median: 7 },
              object: { first: 800, best: 11, median: 12 },
            },
          ],
        },
      ],
    },
    opening: [{ runtime: 'Node v20.0.0', lines: [{ name: 'a pool', best: 2800, median: 3000, floor: 400 }] }],
    zeroing: [
      {
        runtime: 'Node v20.0.0',
        rows: [
          { size: 64, buffer: 'SharedArrayBuffer', best: 30, median: 31 },
          { size: 64, buffer: 'ArrayBuffer', best: 20, median: 21 },
        ],
      },
    ],
    freeLists: [{ runtime: 'Node v20.0.0', structure: 'list', single: of(5), bulk32: of(3) }],
    drivers: [{ load: 'nvme', rate: 3e6, best: 4e6, cpu: 333, garbage: null }],
  },
};

test('the page has every figure, the method, and a chart for each runtime', () => {
  const text = page(MEASURED, (path) => `Node of ${path}`);
  assert.match(text, /a machine/);
  assert.match(text, /\| 68\/32\/4096 \| 20\.0 \| 4\.5 \| 1\.3 \| 8\.0 \| 6\.0 \| 5\.0 \| 4\.0 \|/);
  assert.match(text, /\| 16\/16\/0 \| - \| 4\.0 \| 3\.5 \| 8\.0 \| 2\.00 \(1\.80\) \| 2\.29 \(2\.00\) \|/);
  assert.match(text, /one by one: best 70 ns a block/);
  assert.match(text, /\| 16\/16\/0 \| 5\.5 \(6\.5\) \| 5\.0 \(6\.0\) \| 1\.10 \(1\.08\) \|/);
  assert.match(text, /### Node of \/usr\/bin\/node/);
  assert.match(
    text,
    /\| ehci \| 14,908 \| 8 \| 7\.5 \(8\.0\) \| - \| 6\.0 \(7\.0\) \| 11\.0 \(12\.0\) \|.* 0\.80 \| 1\.47 \|/,
  );
  assert.match(text, /\| a pool \| 2800 \(3000\), floor 400 \|/);
  assert.match(text, /\| nvme \| 3,000,000 \| 4,000,000 \| 333 \| - \|/);
  assert.match(text, /\| size\/align\/boundary \| 4 workers \| 8 workers \|/);
  assert.match(text, /\| SharedArrayBuffer, 64 bytes \| 30\.0 \(31\.0\) \|/);
  assert.match(text, /\| Node v20\.0\.0: list \| 5\.00 \(6\.00\) \| 3\.00 \(4\.00\) \|/);
  const drawn = charts(MEASURED);
  assert.deepEqual(
    drawn.map(({ file }) => file),
    ['node-v20-0-0.svg', 'workers.svg', 'one-worker.svg', 'traces.svg', 'opening.svg', 'zeroing.svg', 'drivers.svg'],
  );
  for (const { file } of drawn) assert.ok(text.includes(`](benchmarks/${file})`), file);
});

test('a chart has a bar for each value, of the value’s length, and none for a missing value', () => {
  const svg = drawBarChart({
    title: 'a < b & c',
    unit: 'ns',
    groups: ['g'],
    series: [
      { name: 'one', values: [10] },
      { name: 'two', values: [5] },
      { name: 'three', values: [null] },
    ],
  });
  assert.match(svg, /a &lt; b &amp; c \(ns\)/);
  const widths = [...svg.matchAll(/<rect x="110" y="\d+" width="(\d+)"/g)].map(([, width]) => Number(width));
  assert.deepEqual(widths, [580, 290]);
});

test('only the tables of the README are replaced', () => {
  const readme = 'before\n\n<!-- benchmarks -->\nold\n<!-- end of benchmarks -->\n\nafter\n';
  const once = withTables(readme, MEASURED);
  assert.match(once, /^before\n\n<!-- benchmarks -->\n\nNode v20\.0\.0, a machine:\n/);
  assert.match(once, /<!-- end of benchmarks -->\n\nafter\n$/);
  assert.doesNotMatch(once, /old/);
  assert.equal(withTables(once, MEASURED), once);
  assert.throws(() => withTables('nothing here', MEASURED), /README\.md has no/);
});
