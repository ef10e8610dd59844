/** What `npm run bench:report` writes: a page with tables, charts and the method, and the README's table. */
import { formatGeometry } from '../src/cli/speed.ts';
import { type BarChart, drawBarChart } from './bar-chart.ts';
import type { Comparison, RuntimeComparison } from './compare-one-thread.ts';
import type { WorkerComparison } from './compare-workers.ts';
import { markdownTable, sectionCharts, type Sections, sections } from './report-sections.ts';

export interface Measured {
  readonly machine: string;
  readonly date: string;
  readonly alone: Comparison;
  readonly together: WorkerComparison;
  readonly more: Sections;
}

export interface Chart {
  readonly file: string;
  readonly svg: string;
}

type Cell = string | number | null;

function table(heading: readonly string[], rows: readonly (readonly Cell[])[]): string[] {
  const text = (cell: Cell): string => (cell === null ? '-' : typeof cell === 'number' ? cell.toFixed(1) : cell);
  return markdownTable(
    heading,
    rows.map((row) => row.map(text)),
  );
}

function slug(name: string): string {
  return name
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^-|-$/g, '');
}

/** The table of one runtime, best of its processes. */
export function aloneTable({ mempool }: Comparison, { results }: RuntimeComparison): string[] {
  return table(
    ['size/align/boundary', 'C peer', 'DPDK', 'DPDK, 32', 'objects', 'indices', 'indices, 32', 'JS array'],
    results.map((row, i) => [
      formatGeometry(row),
      row.peer?.best ?? null,
      mempool?.[i]!.single.best ?? null,
      mempool?.[i]!.bulk32.best ?? null,
      row.object.best,
      row.index.best,
      row.bulk32.best,
      row.floor.best,
    ]),
  );
}

export function togetherTable({ runtimes }: WorkerComparison): string[] {
  return table(
    ['size/align/boundary', 'C peer', 'shared', 'apart', 'one thread', 'shared, times one thread', 'apart, times'],
    runtimes[0]!.results.map(({ peer, shared, unshared, apart, ...geometry }) => [
      formatGeometry(geometry),
      peer?.best ?? null,
      shared.best,
      apart.best,
      unshared.best,
      `${(unshared.best / shared.best).toFixed(2)} (${(unshared.median / shared.median).toFixed(2)})`,
      `${(unshared.best / apart.best).toFixed(2)} (${(unshared.median / apart.median).toFixed(2)})`,
    ]),
  );
}

function aloneChart({ mempool }: Comparison, { runtime, results }: RuntimeComparison): BarChart {
  return {
    title: `${runtime}: one allocation and its free, best of all processes`,
    unit: 'ns; less is better',
    groups: results.map(formatGeometry),
    series: [
      { name: 'C peer', values: results.map(({ peer }) => peer?.best ?? null) },
      { name: 'DPDK', values: results.map((_, i) => mempool?.[i]!.single.best ?? null) },
      { name: 'objects', values: results.map(({ object }) => object.best) },
      { name: 'indices', values: results.map(({ index }) => index.best) },
      { name: 'indices, 32', values: results.map(({ bulk32 }) => bulk32.best) },
      { name: 'DPDK, 32', values: results.map((_, i) => mempool?.[i]!.bulk32.best ?? null) },
    ],
  };
}

function togetherChart({ workers, runtimes }: WorkerComparison): BarChart {
  const { runtime, results } = runtimes[0]!;
  return {
    title: `${runtime}: ${String(workers)} workers on one pool, best of all processes`,
    unit: 'ns a pair, all workers together; less is better',
    groups: results.map(formatGeometry),
    series: [
      { name: 'C peer', values: results.map(({ peer }) => peer?.best ?? null) },
      { name: 'one thread', values: results.map(({ unshared }) => unshared.best) },
      { name: 'shared', values: results.map(({ shared }) => shared.best) },
      { name: 'apart', values: results.map(({ apart }) => apart.best) },
    ],
  };
}

export function charts({ alone, together, more }: Measured): Chart[] {
  return [
    ...alone.runtimes.map((runtime) => ({
      file: `${slug(runtime.runtime)}.svg`,
      svg: drawBarChart(aloneChart(alone, runtime)),
    })),
    { file: 'workers.svg', svg: drawBarChart(togetherChart(together)) },
    ...sectionCharts(more).map(({ file, chart }) => ({ file, svg: drawBarChart(chart) })),
  ];
}

/** @param names Converts the path of a runtime to its name. */
export function page(measured: Measured, names: (runtime: string) => string): string {
  const { machine, date, alone, together, more } = measured;
  const { processes, pinning, lockedExchangeNs, lockUnlockNs } = alone;
  const missing = [alone.peerMissing, alone.mempoolMissing].filter((message) => message !== null);
  return [
    '# Benchmarks',
    '',
    `Written by \`npm run bench:report\` on ${date}: ${machine}.`,
    '',
    '## Method',
    '',
    "- The workload is Linux's `dmapool_test`: for each of six geometries, allocate all blocks (1,024 to 8,192), then free them in the same order. A repetition is 100 rounds; 15 repetitions follow a warm-up. Every process uses eight pools of different geometry, because an engine that has seen only one pool produces faster code.",
    `- Each contender runs in ${String(processes)} fresh processes. The contenders take turns, so that a slow period of the machine affects all of them. ${pinning === null ? 'Threads are not pinned.' : `Single threads are pinned by \`${pinning}\` and measured in processor time (C) or by the least disturbed repetitions (JavaScript).`} Tables show the best of all processes, with medians in parentheses.`,
    '- C peer: our C version of the kernel’s design, a free list inside the blocks under a spinlock. DPDK: `rte_mempool` with a cache of 256, get and put of one pointer and of 32 at a time; it checks nothing and returns no device address. JS array: a stack of free indices in a JavaScript array, without checks.',
    '- This package: objects (`alloc`, `free`), indices (`allocIndex`, `freeIndex`), and indices in bulk calls of 32; always with all checks.',
    ...(lockedExchangeNs === null || lockUnlockNs === null
      ? []
      : [
          `- One uncontended locked exchange costs ${lockedExchangeNs.toFixed(2)} ns on this CPU, and a lock and unlock of the C peer ${lockUnlockNs.toFixed(2)} ns. A pair contains two of the latter, so ratios to the C peer depend on it.`,
        ]),
    ...missing.map((message) => `- ${message}`),
    '',
    '## One thread',
    '',
    'Nanoseconds for one pair: an allocation and its free.',
    ...alone.runtimes.flatMap((runtime) => [
      '',
      `### ${runtime.runtime}`,
      '',
      `![${runtime.runtime}](benchmarks/${slug(runtime.runtime)}.svg)`,
      '',
      ...aloneTable(alone, runtime),
      '',
      ...runtime.manyBlocks.map(
        ({ form, blocks, ratioBest, ratioMedian }) =>
          `- ${blocks.toLocaleString('en')} blocks, ${form} form: a pair takes ${ratioBest.toFixed(2)} times (median ${ratioMedian.toFixed(2)}) as long as among 8,192.`,
      ),
    ]),
    '',
    `## ${String(together.workers)} workers on one pool`,
    '',
    '![workers](benchmarks/workers.svg)',
    '',
    'Wall time divided by the pairs of all workers, index form. “Apart” is the same number of threads, each with its own unshared pool: the limit of these processors. Medians are in parentheses.',
    ...together.runtimes.flatMap((runtime) => [
      '',
      `### ${runtime.runtime}`,
      '',
      ...togetherTable({ ...together, runtimes: [runtime] }),
      '',
      ...runtime.pipeline.map(
        ({ batch, block }) =>
          `- From worker to worker (alloc, transfer, accept, free), ${batch === 1 ? 'one by one' : `${String(batch)} at a time`}: best ${block.best.toFixed(0)} ns a block, median ${block.median.toFixed(0)} ns.`,
      ),
    ]),
    '',
    ...sections(more, names),
  ].join('\n');
}

const BEGIN = '<!-- benchmarks -->';
const END = '<!-- end of benchmarks -->';

/** The README with the one-thread table of the first Node between the two comments. */
export function withTables(readme: string, { alone, machine }: Measured): string {
  const begin = readme.indexOf(BEGIN);
  const end = readme.indexOf(END);
  if (begin < 0 || end < begin) throw new Error(`README.md has no ${BEGIN} ... ${END}`);
  const node = alone.runtimes.find(({ runtime }) => runtime.startsWith('Node'));
  const tables = node === undefined ? [] : [`${node.runtime}, ${machine}:`, '', ...aloneTable(alone, node), ''];
  return readme.slice(0, begin) + [BEGIN, '', ...tables, ''].join('\n') + readme.slice(end);
}
