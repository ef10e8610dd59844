/** The sections of the page of benchmarks that are not about `dmapool_test`: one worker, recordings, making, drivers. */
import { formatGeometry } from '../src/cli/speed.ts';
import type { BarChart } from './bar-chart.ts';
import { type TraceComparison, traceCells } from './compare-traces.ts';
import type { WorkerComparison } from './compare-workers.ts';
import type { FreeListRow } from './free-lists.ts';
import type { OpeningLine } from './ours/opening.ts';
import type { ZeroingRow } from './zeroing.ts';

/** A load of `npm run bench:driver`. */
export interface DriverRow {
  readonly load: string;
  readonly rate: number;
  readonly best: number;
  readonly cpu: number;
  readonly garbage: number | null;
}

export interface Sections {
  /** One worker on a shared pool. */
  readonly lone: WorkerComparison;
  /** More workers than processors, on the first runtime. */
  readonly crowds: readonly WorkerComparison[];
  readonly traces: TraceComparison;
  readonly opening: readonly { readonly runtime: string; readonly lines: readonly OpeningLine[] }[];
  readonly zeroing: readonly { readonly runtime: string; readonly rows: readonly ZeroingRow[] }[];
  readonly freeLists: readonly FreeListRow[];
  readonly drivers: readonly DriverRow[];
}

/** The charts of these sections. */
export function sectionCharts({
  lone,
  traces,
  opening,
  zeroing,
  drivers,
}: Sections): { file: string; chart: BarChart }[] {
  const [alone] = lone.runtimes;
  const [made] = opening;
  const [zeroed] = zeroing;
  const sizes = [...new Set(zeroed!.rows.map(({ size }) => size))];
  return [
    {
      file: 'one-worker.svg',
      chart: {
        title: `${alone!.runtime}: one worker on a shared pool, best of all processes`,
        unit: 'ns a pair; less is better',
        groups: alone!.results.map(formatGeometry),
        series: [
          { name: 'shared', values: alone!.results.map(({ shared }) => shared.best) },
          { name: 'unshared', values: alone!.results.map(({ unshared }) => unshared.best) },
        ],
      },
    },
    { file: 'traces.svg', chart: tracesChart(traces) },
    {
      file: 'opening.svg',
      chart: {
        title: `${made!.runtime}: pools, pages and block objects, best of all processes`,
        unit: 'ns; less is better',
        groups: made!.lines.map(({ name }) => name),
        series: [
          { name: 'dmapool', values: made!.lines.map(({ best }) => best) },
          { name: 'floor', values: made!.lines.map(({ floor }) => floor) },
        ],
      },
    },
    {
      file: 'zeroing.svg',
      chart: {
        title: `${zeroed!.runtime}: a zeroed allocation and its free`,
        unit: 'ns; less is better',
        groups: sizes.map((size) => `${String(size)} bytes`),
        series: ['SharedArrayBuffer', 'ArrayBuffer'].map((name) => ({
          name,
          values: zeroed!.rows.filter(({ buffer }) => buffer === name).map(({ best }) => best),
        })),
      },
    },
    {
      file: 'drivers.svg',
      chart: {
        title: 'Drivers on instant devices',
        unit: 'million a second, median; more is better',
        groups: drivers.map(({ load }) => load),
        series: [{ name: 'a second', values: drivers.map(({ rate }) => rate / 1e6) }],
      },
    },
  ];
}

/** A table in Markdown; the first column is text, the others are numbers. */
export function markdownTable(heading: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(heading), line(heading.map((_, i) => (i === 0 ? '---' : '---:'))), ...rows.map(line)];
}

function loneSection({ runtimes }: WorkerComparison): string[] {
  return [
    '## One worker on a shared pool',
    '',
    '![one worker](benchmarks/one-worker.svg)',
    '',
    "The pool has room for little more than the worker's blocks, and another worker has allocated before: the worker's share is half of what it holds. Best of all processes, medians in parentheses (`npm run bench -- --workers 1`).",
    ...runtimes.flatMap(({ runtime, results }) => [
      '',
      ...markdownTable(
        [runtime, 'shared', 'unshared', 'times'],
        results.map(({ shared, unshared, ...geometry }) => [
          formatGeometry(geometry),
          `${shared.best.toFixed(1)} (${shared.median.toFixed(1)})`,
          `${unshared.best.toFixed(1)} (${unshared.median.toFixed(1)})`,
          `${(shared.best / unshared.best).toFixed(2)} (${(shared.median / unshared.median).toFixed(2)})`,
        ]),
      ),
    ]),
    '',
  ];
}

function crowdsSection(crowds: readonly WorkerComparison[]): string[] {
  const [first] = crowds;
  return [
    '## More workers than processors',
    '',
    `Nanoseconds for a pair, all workers of one shared pool together, best of all processes (median): \`npm run bench -- --workers N\`, ${first!.runtimes[0]!.runtime}.`,
    '',
    ...markdownTable(
      ['size/align/boundary', ...crowds.map(({ workers }) => `${String(workers)} workers`)],
      first!.runtimes[0]!.results.map((geometry, i) => [
        formatGeometry(geometry),
        ...crowds.map(({ runtimes }) => {
          const { shared } = runtimes[0]!.results[i]!;
          return `${shared.best.toFixed(1)} (${shared.median.toFixed(1)})`;
        }),
      ]),
    ),
    '',
  ];
}

function zeroingSection(zeroing: Sections['zeroing']): string[] {
  return [
    '## Zeroed allocations',
    '',
    '![zeroed allocations](benchmarks/zeroing.svg)',
    '',
    'Nanoseconds for `allocIndex({ zero: true })` and its free, best (median) of one process: `npm run bench:zeroing`.',
    '',
    ...markdownTable(
      ['', ...zeroing.map(({ runtime }) => runtime)],
      zeroing[0]!.rows.map(({ size, buffer }, i) => [
        `${buffer}, ${String(size)} bytes`,
        ...zeroing.map(({ rows }) => `${rows[i]!.best.toFixed(1)} (${rows[i]!.median.toFixed(1)})`),
      ]),
    ),
    '',
  ];
}

function freeListsSection(rows: readonly FreeListRow[]): string[] {
  return [
    '## Linked list or stack',
    '',
    'Two structures for free blocks, in the barest code with the checks of a pool: why pools use a linked list. A stack is faster in bulk calls and slower in single ones. Nanoseconds of a pair, best (median): `npm run bench:free-lists`.',
    '',
    ...markdownTable(
      ['', 'single', 'bulk, 32'],
      rows.map(({ runtime, structure, single, bulk32 }) => [
        `${runtime}: ${structure}`,
        ...[single, bulk32].map(({ best, median }) => `${best.toFixed(2)} (${median.toFixed(2)})`),
      ]),
    ),
    '',
  ];
}

function tracesChart({ runtimes }: TraceComparison): BarChart {
  // A recording of a few dozen calls would dwarf all others.
  const rows = runtimes[0]!.rows.filter(({ calls }) => calls > 100);
  return {
    title: 'A call of the recorded drivers, best of the warm runs',
    unit: 'ns; less is better',
    groups: rows.map(({ trace }) => trace),
    series: [
      { name: 'C peer', values: rows.map(({ locked }) => locked?.best ?? null) },
      { name: 'without lock', values: rows.map(({ unlocked }) => unlocked?.best ?? null) },
      { name: 'indices', values: rows.map(({ index }) => index.best) },
      { name: 'objects', values: rows.map(({ object }) => object.best) },
    ],
  };
}

function tracesSection({ runtimes }: TraceComparison, names: (runtime: string) => string): string[] {
  return [
    '## Recorded drivers',
    '',
    '![recorded drivers](benchmarks/traces.svg)',
    '',
    'The calls of the recordings of Linux 6.12, with nothing else in the loop, from the creation of the pools to their end: `npm run bench -- --traces`. Nanoseconds for each call, best of the warm runs (median), and the median of the first runs. A hash of page and offset of every allocation shows that all contenders did the same.',
    ...runtimes.flatMap(({ runtime, rows }) => {
      const [heading, ...cells] = traceCells(rows);
      return ['', `### ${names(runtime)}`, '', ...markdownTable(heading!, cells)];
    }),
    '',
    '- Where drivers allocate and free (`ehci`, `uhci`), a call in the index form takes about as long as in the C peer.',
    '- The rest is mostly pools, pages and zeroed blocks. The recordings make pools and pages more often than a running system, because each starts and stops its drivers. The C peer makes a pool by one `malloc`, and a page by clearing it and linking its blocks. Here a page is mapped in a software IOMMU, checked, and entered in tables that find a block by its address; `e100` is nothing but 2 pools and 40 calls. The C peer never returns a page; here a destroyed pool returns all of them, within the measured time.',
    '',
  ];
}

function openingSection(opening: Sections['opening']): string[] {
  const [first] = opening;
  return [
    '## Pools, pages and block objects',
    '',
    '![pools, pages and block objects](benchmarks/opening.svg)',
    '',
    'Nanoseconds, best of all processes (median of the medians), and the floor: `npm run bench:opening`. The floor is the barest code that makes the same objects.',
    '',
    ...markdownTable(
      ['', ...opening.map(({ runtime }) => runtime)],
      first!.lines.map(({ name }, i) => [
        name,
        ...opening.map(({ lines }) => {
          const { best, median, floor } = lines[i]!;
          return `${best.toFixed(0)} (${median.toFixed(0)}), floor ${floor.toFixed(0)}`;
        }),
      ]),
    ),
    '',
  ];
}

function driversSection(drivers: readonly DriverRow[]): string[] {
  const whole = (value: number): string => Math.round(value).toLocaleString('en');
  return [
    '## Drivers',
    '',
    '![drivers](benchmarks/drivers.svg)',
    '',
    'The drivers on devices in the same process that act at once (`npm run bench:driver`): what the driver itself costs. [drivers-nvme.md](drivers-nvme.md#speed) and [linux.md](linux.md#speed) have its speed on QEMU and through VFIO.',
    '',
    ...markdownTable(
      ['load', 'a second (median)', 'best', 'CPU ns each', 'garbage bytes each'],
      drivers.map(({ load, rate, best, cpu, garbage }) => [
        load,
        whole(rate),
        whole(best),
        whole(cpu),
        garbage === null ? '-' : whole(garbage),
      ]),
    ),
    '',
    'What others publish, on their hardware and with real devices; not measured here:',
    '',
    '- SPDK: more than 10 million random reads of 4 KiB a second from one thread to 20 NVMe devices ([SNIA, 2019](https://www.snia.org/educational-library/10-million-i-ops-single-thread-2019)); 13.85 million reads of 512 bytes a second on one core of a Xeon Platinum 8380 ([SPDK, 2021](https://spdk.io/news/2021/05/06/nvme-80m-iops/)).',
    '- vroom, an NVMe driver in Rust, [aims to be as fast as SPDK](https://github.com/bootreer/vroom#readme); its figures are in the [thesis of its author](https://db.in.tum.de/people/sites/ellmann/theses/finished/24/pirhonen_writing_an_nvme_driver_in_rust.pdf).',
    '- ixy, a network driver in many languages: [throughput of 64-byte packets on one core](https://github.com/ixy-languages/ixy-languages#performance) of a Xeon E3-1230 v3, as charts.',
    '',
  ];
}

/** @param names Converts the path of a runtime to its name. */
export function sections(
  { lone, crowds, traces, opening, zeroing, freeLists, drivers }: Sections,
  names: (runtime: string) => string,
): string[] {
  return [
    ...loneSection(lone),
    ...crowdsSection(crowds),
    ...tracesSection(traces, names),
    ...openingSection(opening),
    ...zeroingSection(zeroing),
    ...freeListsSection(freeLists),
    ...driversSection(drivers),
  ];
}
