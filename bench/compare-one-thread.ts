/** Compares dmapool on one thread with its peers: fresh processes in turns, and the tables. */
import { fileURLToPath } from 'node:url';

import {
  blocksOf,
  FORMS,
  formatGeometry,
  type Geometry,
  KERNEL_GEOMETRIES,
  median,
  type Sample,
} from '../src/cli/speed.ts';
import { table } from '../src/cli/style.ts';
import { most } from './ours/garbage.ts';
import type { ManyBlocksLine } from './ours/many-blocks.ts';
import type { OneThreadLine } from './ours/one-thread.ts';
import { type CompiledPeer, compileIntrusivePool, compileMempool } from './peers/compile.ts';
import {
  type Prefix,
  pinning,
  runJsonLines,
  runtimeCommand,
  SampleBook,
  settingArguments,
  type Settings,
  type Summary,
} from './processes.ts';

export interface ComparisonOptions extends Settings {
  /** Fresh processes of each contender. */
  readonly processes: number;
  /** Binaries that run the JavaScript contenders. */
  readonly runtimes: readonly string[];
  /** Blocks of the many-blocks case; 373,959 by default. */
  readonly manyBlocks?: number;
  /** Called before each turn with its number, from 1. */
  readonly onTurn?: (turn: number) => void;
}

/** A contender and its speed relative to the C peer; below 1 it is slower. */
export interface Rival extends Summary {
  readonly fasterBest: number | null;
  readonly fasterMedian: number | null;
}

export interface ComparisonRow extends Geometry {
  readonly blocks: number;
  readonly peer: Summary | null;
  readonly object: Rival;
  readonly index: Rival;
  readonly bulk32: Rival;
  readonly floor: Rival;
  /** Bytes, maximum of all forms and processes; null where the runtime does not report it. */
  readonly garbagePerPair: number | null;
  /** Bytes beside the DMA memory, maximum of all processes. */
  readonly heapPerBlock: number | null;
}

/** DPDK's rte_mempool with a cache of 256: single objects, and bulks of 32. */
export interface MempoolRow extends Geometry {
  readonly single: Summary;
  readonly bulk32: Summary;
}

export interface ManyBlocksRow {
  readonly form: string;
  readonly blocks: number;
  readonly firstFillNsPerPair: number;
  readonly many: Summary;
  readonly few: Summary;
  /** Time of a pair among many blocks, relative to a pair among 8,192: best to best and median to median. */
  readonly ratioBest: number;
  readonly ratioMedian: number;
}

export interface RuntimeComparison {
  readonly runtime: string;
  readonly results: readonly ComparisonRow[];
  readonly manyBlocks: readonly ManyBlocksRow[];
}

export interface Comparison {
  readonly processes: number;
  /** The command that pinned each process to a CPU; null for none. */
  readonly pinning: string | null;
  /** The reason why the C peer is missing; null if it is present. */
  readonly peerMissing: string | null;
  readonly mempool: readonly MempoolRow[] | null;
  readonly mempoolMissing: string | null;
  readonly lockedExchangeNs: number | null;
  readonly lockUnlockNs: number | null;
  readonly runtimes: readonly RuntimeComparison[];
}

/** Output lines of the programs. */
interface LockLine {
  readonly lockedExchangeNs: number;
  readonly lockUnlockNs: number;
}
type PeerLine = Geometry & Sample;
type MempoolLine = Geometry & { readonly single: Sample; readonly bulk32: Sample };

function script(name: string): string {
  return fileURLToPath(new URL(name, import.meta.url));
}

/** Samples of one JavaScript runtime, including the many-blocks case. */
class RuntimeRun {
  readonly #command: readonly string[];
  readonly #book = new SampleBook();
  readonly #ours: OneThreadLine[] = [];
  readonly #many = new Map<string, ManyBlocksLine[]>();

  constructor(runtime: string) {
    this.#command = runtimeCommand(runtime);
  }

  turn(prefix: Prefix, { rounds, repetitions, warmup, manyBlocks }: ComparisonOptions): void {
    const run = (name: string, settings: Readonly<Record<string, number | undefined>>): unknown[] =>
      runJsonLines(prefix, [...this.#command, script(name), ...settingArguments(settings)]);
    const [ours] = run('ours/one-thread.js', { rounds, repetitions, warmup }) as [OneThreadLine];
    this.#ours.push(ours);
    for (const result of ours.results) {
      const geometry = formatGeometry(result);
      this.#book.add(`object ${geometry}`, result);
      this.#book.add(`index ${geometry}`, result.index);
      this.#book.add(`bulk32 ${geometry}`, result.bulk32);
    }
    for (const line of run('peers/index-array.js', { rounds, repetitions, warmup }) as PeerLine[]) {
      this.#book.add(`floor ${formatGeometry(line)}`, line);
    }
    for (const line of run('ours/many-blocks.js', { blocks: manyBlocks, repetitions, warmup }) as ManyBlocksLine[]) {
      this.#many.set(line.form, [...(this.#many.get(line.form) ?? []), line]);
      this.#book.add(`many ${line.form}`, line.many);
      this.#book.add(`few ${line.form}`, line.few);
    }
  }

  report(peers: SampleBook): RuntimeComparison {
    const results = KERNEL_GEOMETRIES.map((geometry, i): ComparisonRow => {
      const name = formatGeometry(geometry);
      const peer = peers.has(name) ? peers.summary(name) : null;
      const [object, index, bulk32] = FORMS.map((form) => rival(this.#book.summary(`${form} ${name}`), peer));
      const ours = this.#ours.map((line) => line.results[i]!);
      return {
        ...geometry,
        blocks: blocksOf(geometry.size),
        peer,
        object: object!,
        index: index!,
        bulk32: bulk32!,
        floor: rival(this.#book.summary(`floor ${name}`), peer),
        garbagePerPair: most(ours.map((result) => result.garbageBytesPerPair)),
        heapPerBlock: most(ours.map((result) => result.heapBytesPerBlock)),
      };
    });
    return {
      runtime: this.#ours[0]!.runtime,
      results,
      manyBlocks: [...this.#many].map(([form, lines]) => this.#row(form, lines)),
    };
  }

  #row(form: string, lines: readonly ManyBlocksLine[]): ManyBlocksRow {
    const many = this.#book.summary(`many ${form}`);
    const few = this.#book.summary(`few ${form}`);
    return {
      form,
      blocks: lines[0]!.blocks,
      firstFillNsPerPair: median(lines.map((line) => line.firstFillNsPerPair)),
      many,
      few,
      ratioBest: many.best / few.best,
      // The ratio within each process, where the two alternated.
      ratioMedian: median(lines.map((line) => line.many.nsPerPairMedian / line.few.nsPerPairMedian)),
    };
  }
}

function rival(summary: Summary, peer: Summary | null): Rival {
  return {
    ...summary,
    fasterBest: peer === null ? null : peer.best / summary.best,
    fasterMedian: peer === null ? null : peer.median / summary.median,
  };
}

function mempoolRow(peers: SampleBook, geometry: Geometry): MempoolRow {
  const name = formatGeometry(geometry);
  return { ...geometry, single: peers.summary(`single ${name}`), bulk32: peers.summary(`bulk32 ${name}`) };
}

/**
 * Runs every contender in `processes` fresh processes, in turns: a machine that is slow for half a minute is slow for
 * all of them.
 */
export function compare(options: ComparisonOptions): Comparison {
  const prefix = pinning();
  const compiled = compileIntrusivePool();
  const missing = typeof compiled === 'string' ? compiled : null;
  const locks: LockLine[] = [];
  const peers = new SampleBook();
  const runs = options.runtimes.map((runtime) => new RuntimeRun(runtime));
  const { rounds, repetitions, warmup } = options;
  const settings = settingArguments({ rounds, repetitions, warmup });

  using peer: CompiledPeer | null = typeof compiled === 'string' ? null : compiled;
  const compiledMempool = compileMempool();
  using mempool: CompiledPeer | null = typeof compiledMempool === 'string' ? null : compiledMempool;
  for (let turn = 1; turn <= options.processes; turn++) {
    options.onTurn?.(turn);
    if (peer !== null) {
      const [lock, ...lines] = runJsonLines(prefix, [peer.path, ...settings]);
      locks.push(lock as LockLine);
      for (const line of lines as PeerLine[]) peers.add(formatGeometry(line), line);
    }
    if (mempool !== null) {
      for (const line of runJsonLines(prefix, [mempool.path, ...settings]) as MempoolLine[]) {
        peers.add(`single ${formatGeometry(line)}`, line.single);
        peers.add(`bulk32 ${formatGeometry(line)}`, line.bulk32);
      }
    }
    for (const run of runs) run.turn(prefix, options);
  }

  return {
    processes: options.processes,
    pinning: prefix.length === 0 ? null : prefix.join(' '),
    peerMissing: missing,
    mempool: mempool === null ? null : KERNEL_GEOMETRIES.map((geometry) => mempoolRow(peers, geometry)),
    mempoolMissing: typeof compiledMempool === 'string' ? compiledMempool : null,
    lockedExchangeNs: locks.length === 0 ? null : Math.min(...locks.map((lock) => lock.lockedExchangeNs)),
    lockUnlockNs: locks.length === 0 ? null : Math.min(...locks.map((lock) => lock.lockUnlockNs)),
    runtimes: runs.map((run) => run.report(peers)),
  };
}

const FIGURES = [
  ['best', 'best'],
  ['median', 'median'],
  ['slowest process', 'slowest'],
] as const;
type Figure = (typeof FIGURES)[number][1];

const HEADING = ['C peer', 'object', 'x', 'index', 'x', 'bulk 32', 'x', 'array', 'x'];

/** Formats the comparison as text. */
export function formatComparison(comparison: Comparison): string {
  const { processes, pinning, peerMissing, lockedExchangeNs, lockUnlockNs } = comparison;
  const lines = [
    `Nanoseconds for one allocation and its free, in ${String(processes)} fresh processes of each contender, in turns,` +
      ` ${pinning === null ? 'not pinned to a CPU (no taskset)' : `pinned by ${pinning}`}.`,
    'C peer: free list inside the blocks, under a spinlock. array: free indices in a JavaScript array, no checks.',
    "x: speed relative to the C peer (below 1 is slower). The workload is Linux's dmapool_test, with eight pools alive.",
    'garbage: maximum of all forms, without collections. a block: its object and its part of page and pool.',
  ];
  if (peerMissing !== null) lines.push(peerMissing);
  if (lockedExchangeNs !== null && lockUnlockNs !== null) {
    lines.push(
      `One uncontended locked exchange costs ${lockedExchangeNs.toFixed(2)} ns on this CPU, the C peer's lock and` +
        ` unlock ${lockUnlockNs.toFixed(2)} ns; it needs two of them for a pair.`,
    );
  }
  const { mempool, mempoolMissing } = comparison;
  if (mempoolMissing !== null) lines.push(mempoolMissing);
  for (const runtime of comparison.runtimes) {
    lines.push('', ...formatRuntime(runtime));
    if (mempool !== null) lines.push('', ...formatMempool(runtime, mempool));
  }
  return lines.join('\n');
}

function formatRuntime({ runtime, results, manyBlocks }: RuntimeComparison): string[] {
  const lines = [
    ...FIGURES.flatMap(([title, figure]) => [
      ...table([[`${runtime}: ${title}`, ...HEADING], ...results.map((row) => cells(row, figure))], { rule: true }),
      '',
    ]),
    ...table(
      [
        [`${runtime}: bytes of heap`, 'garbage a pair', 'a block'],
        ...results.map((row) => [formatGeometry(row), formatBytes(row.garbagePerPair), formatBytes(row.heapPerBlock)]),
      ],
      { rule: true },
    ),
    '',
  ];
  for (const { form, blocks, many, few, ratioBest, ratioMedian, firstFillNsPerPair } of manyBlocks) {
    lines.push(
      `${runtime}, ${blocks.toLocaleString('en')} blocks of 128 bytes, ${form}: best ${many.best.toFixed(1)} ns,` +
        ` median ${many.median.toFixed(1)} ns; 8,192 blocks: best ${few.best.toFixed(1)} ns,` +
        ` median ${few.median.toFixed(1)} ns; ratio ${ratioBest.toFixed(2)} and ${ratioMedian.toFixed(2)};` +
        ` first fill of a new pool ${firstFillNsPerPair.toFixed(0)} ns`,
    );
  }
  return lines;
}

/** Compares with DPDK: below 1 dmapool is slower. */
function formatMempool({ runtime, results }: RuntimeComparison, mempool: readonly MempoolRow[]): string[] {
  const rows = mempool.map(({ single, bulk32, ...geometry }, i) => {
    const { index, bulk32: ours } = results[i]!;
    return [
      formatGeometry(geometry),
      single.best.toFixed(1),
      index.best.toFixed(1),
      (single.best / index.best).toFixed(2),
      bulk32.best.toFixed(1),
      ours.best.toFixed(1),
      (bulk32.best / ours.best).toFixed(2),
    ];
  });
  const heading = [`${runtime}: best`, 'DPDK single', 'index', 'x', 'DPDK bulk 32', 'bulk 32', 'x'];
  return [
    ...table([heading, ...rows], { rule: true }),
    '',
    "DPDK's rte_mempool with a cache of 256 for the thread: get and put copy pointers, without checks and without device",
    'addresses. dmapool checks and marks the word of each block, and finds the next free block through it.',
  ];
}

/** Formats bytes for a table. */
export function formatBytes(value: number | null): string {
  if (value === null) return '?';
  return Number.isInteger(value) ? String(value) : value.toFixed(1);
}

function cells(row: ComparisonRow, figure: Figure): string[] {
  const rivals = [row.object, row.index, row.bulk32, row.floor];
  return [
    formatGeometry(row),
    row.peer === null ? '-' : row.peer[figure].toFixed(1),
    ...rivals.flatMap((rival) => [rival[figure].toFixed(1), ratio(row, rival, figure)]),
  ];
}

function ratio(row: ComparisonRow, rival: Rival, figure: Figure): string {
  return row.peer === null ? '-' : (row.peer[figure] / rival[figure]).toFixed(2);
}
