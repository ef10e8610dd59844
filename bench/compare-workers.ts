/** Compares workers on one pool with threads on the C peer: fresh processes in turns, and the tables. */
import { fileURLToPath } from 'node:url';

import { formatGeometry, type Geometry, KERNEL_GEOMETRIES, median, type Sample } from '../src/cli/speed.ts';
import { table } from '../src/cli/style.ts';
import { type ComparisonOptions, formatBytes } from './compare-one-thread.ts';
import { most } from './ours/garbage.ts';
import type { WorkersLine } from './ours/workers.ts';
import { type CompiledPeer, compileIntrusivePool } from './peers/compile.ts';
import { runJsonLines, runtimeCommand, SampleBook, settingArguments, type Summary } from './processes.ts';

/** Maximum workers: a shared pool has 62 slots, and its creator and one more thread take two. */
export const MAX_WORKERS = 60;

export interface WorkerComparisonOptions extends Omit<ComparisonOptions, 'manyBlocks'> {
  /** Threads that use one pool, 1 to {@link MAX_WORKERS}. */
  readonly workers: number;
}

export interface WorkerRow extends Geometry {
  readonly blocks: number;
  /** The C peer with as many threads; null without a compiler. */
  readonly peer: Summary | null;
  readonly shared: Summary;
  readonly unshared: Summary;
  /** The same number of threads, each with its own unshared pool. */
  readonly apart: Summary;
  /** Throughput of the workers relative to one thread on its own pool. */
  readonly scalesBest: number;
  readonly scalesMedian: number;
  /** Speed relative to the C peer's best: its figures with several threads are unstable. */
  readonly fasterBest: number | null;
  readonly fasterMedian: number | null;
  /** Time of a pair as its worker measures it; median of the processes. */
  readonly ownNsPerPair: number;
  /** Bytes, maximum of all workers and processes; null where the runtime does not report it. */
  readonly garbagePerPair: number | null;
}

export interface PipelineRow {
  readonly batch: number;
  readonly block: Summary;
  readonly garbagePerBlock: number | null;
}

export interface WorkerComparison {
  readonly processes: number;
  readonly workers: number;
  /** The reason why the C peer is missing; null if it is present. */
  readonly peerMissing: string | null;
  readonly runtimes: readonly {
    readonly runtime: string;
    /** Minimum fraction of a figure's repetitions in which no worker waited for a CPU. */
    readonly undisturbed: number;
    readonly results: readonly WorkerRow[];
    readonly pipeline: readonly PipelineRow[];
  }[];
}

/** Output line of the C peer. */
type PeerLine = Geometry & Sample;

const SCRIPT = fileURLToPath(new URL('ours/workers.js', import.meta.url));

interface RuntimeBook {
  readonly command: readonly string[];
  readonly book: SampleBook;
  readonly lines: WorkersLine[];
}

function runOurs({ command, book, lines }: RuntimeBook, settings: readonly string[]): void {
  const [line] = runJsonLines([], [...command, SCRIPT, ...settings]) as [WorkersLine];
  lines.push(line);
  for (const result of line.results) {
    for (const kind of ['shared', 'unshared', 'apart'] as const) {
      book.add(`${kind} ${formatGeometry(result)}`, result[kind]);
    }
  }
  for (const { batch, block } of line.pipeline) book.add(`pipeline ${String(batch)}`, block);
}

/**
 * Runs N workers on shared pools and the C peer with N threads, in `processes` fresh processes of each, in turns. Not
 * pinned: each thread needs a CPU.
 */
export function compareWorkers(options: WorkerComparisonOptions): WorkerComparison {
  const { workers, processes, runtimes } = options;
  const compiled = compileIntrusivePool();
  const peers = new SampleBook();
  const books = runtimes.map((runtime): RuntimeBook => {
    return { command: runtimeCommand(runtime), book: new SampleBook(), lines: [] };
  });
  const { rounds, repetitions, warmup } = options;
  const settings = settingArguments({ rounds, repetitions, warmup });

  using peer: CompiledPeer | null = typeof compiled === 'string' ? null : compiled;
  for (let turn = 1; turn <= processes; turn++) {
    options.onTurn?.(turn);
    if (peer !== null) {
      const [, ...lines] = runJsonLines([], [peer.path, '--threads', String(workers), ...settings]);
      for (const line of lines as PeerLine[]) peers.add(formatGeometry(line), line);
    }
    for (const book of books) runOurs(book, ['--workers', String(workers), ...settings]);
  }

  return {
    processes,
    workers,
    peerMissing: typeof compiled === 'string' ? compiled : null,
    runtimes: books.map(({ book, lines }) => {
      const { runtime, results, pipeline } = lines[0]!;
      return {
        runtime,
        undisturbed: Math.min(...lines.map((line) => line.undisturbed)),
        results: KERNEL_GEOMETRIES.map((geometry, i): WorkerRow => {
          const name = formatGeometry(geometry);
          const theirs = peers.has(name) ? peers.summary(name) : null;
          const shared = book.summary(`shared ${name}`);
          const unshared = book.summary(`unshared ${name}`);
          const ours = lines.map((line) => line.results[i]!);
          return {
            ...geometry,
            blocks: results[i]!.blocks,
            peer: theirs,
            shared,
            unshared,
            apart: book.summary(`apart ${name}`),
            scalesBest: unshared.best / shared.best,
            scalesMedian: unshared.median / shared.median,
            fasterBest: theirs === null ? null : theirs.best / shared.best,
            fasterMedian: theirs === null ? null : theirs.median / shared.median,
            ownNsPerPair: median(ours.map((result) => result.nsPerPairPerWorker)),
            garbagePerPair: most(ours.map((result) => result.garbageBytesPerPair)),
          };
        }),
        pipeline: pipeline.map(({ batch }, i) => ({
          batch,
          block: book.summary(`pipeline ${String(batch)}`),
          garbagePerBlock: most(lines.map((line) => line.pipeline[i]!.garbageBytesPerBlock)),
        })),
      };
    }),
  };
}

const HEADING = [
  'blocks',
  'C peer',
  'median',
  'shared',
  'median',
  'unshared',
  'median',
  'apart',
  'median',
  'x peer',
  'x one',
  'median',
  'a worker',
  'garbage B',
];

/** Formats the comparison as text. */
export function formatWorkerComparison({ processes, workers, peerMissing, runtimes }: WorkerComparison): string {
  const lines = [
    `Nanoseconds for one allocation and its free, wall time over the pairs of all threads: ${String(workers)} workers on` +
      ' one shared pool, the C peer with as many threads, and one thread on an unshared pool; best and median of' +
      ` ${String(processes)} fresh processes of each, in turns, not pinned.`,
    'x peer: speed relative to the C peer, best to best. x one: throughput relative to one thread on an unshared pool.',
    'Repetitions in which a thread waited for a CPU are excluded for all contenders, unless too few remain.',
    'apart: the same number of threads, each with its own unshared pool, which shows the capacity of these CPUs.',
    'a worker: time of a pair as its worker measures it. garbage: maximum of the workers.',
  ];
  if (peerMissing !== null) lines.push(peerMissing);
  for (const { runtime, undisturbed, results, pipeline } of runtimes) {
    const rows = results.map(({ peer, shared, unshared, apart, scalesBest, scalesMedian, fasterBest, ...row }) => [
      formatGeometry(row),
      String(row.blocks),
      peer === null ? '-' : peer.best.toFixed(1),
      peer === null ? '-' : peer.median.toFixed(1),
      shared.best.toFixed(1),
      shared.median.toFixed(1),
      unshared.best.toFixed(1),
      unshared.median.toFixed(1),
      apart.best.toFixed(1),
      apart.median.toFixed(1),
      fasterBest === null ? '-' : fasterBest.toFixed(2),
      scalesBest.toFixed(2),
      scalesMedian.toFixed(2),
      row.ownNsPerPair.toFixed(1),
      formatBytes(row.garbagePerPair),
    ]);
    lines.push('', ...table([[runtime, ...HEADING], ...rows], { rule: true }), '');
    for (const { batch, block, garbagePerBlock } of pipeline) {
      lines.push(
        `${runtime}, worker to worker, ${String(batch)} at a time: best ${block.best.toFixed(0)} ns a block,` +
          ` median ${block.median.toFixed(0)} ns, garbage ${formatBytes(garbagePerBlock)} B`,
      );
    }
    lines.push(
      `${runtime}: a worker waited for a CPU in at most ${((1 - undisturbed) * 100).toFixed(0)} % of the repetitions of` +
        ' a figure',
    );
  }
  return lines.join('\n');
}
