/** Workers on one pool beside as many threads of the C peer: fresh processes of each in turns, and the tables for people. */
import { fileURLToPath } from 'node:url';

import { formatGeometry, type Geometry, KERNEL_GEOMETRIES, median, type Sample } from '../src/cli/speed.ts';
import { table } from '../src/cli/style.ts';
import { type ComparisonOptions, formatBytes } from './compare-one-thread.ts';
import { most } from './ours/garbage.ts';
import type { WorkersLine } from './ours/workers.ts';
import { type CompiledPeer, compileIntrusivePool } from './peers/compile.ts';
import { runJsonLines, runtimeCommand, SampleBook, settingArguments, type Summary } from './processes.ts';

/** The most workers: a shared pool takes 62, its creator and the thread that runs beside among them. */
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
  /** As many threads, each on an unshared pool of its own. */
  readonly apart: Summary;
  /** Throughput of the workers against one thread on a pool of its own. */
  readonly scalesBest: number;
  readonly scalesMedian: number;
  /** How many times as fast as the C peer; its figures with several threads are unstable, so against its best. */
  readonly fasterBest: number | null;
  readonly fasterMedian: number | null;
  /** What a pair takes the worker that does it; the median process. */
  readonly ownNsPerPair: number;
  /** Bytes, of the worker that leaves most in any process; null where the runtime does not tell. */
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
  /** Why the C peer is missing; null if it is not. */
  readonly peerMissing: string | null;
  readonly runtimes: readonly {
    readonly runtime: string;
    /** Least part of a process's repetitions of a figure in which no worker waited for a processor. */
    readonly undisturbed: number;
    readonly results: readonly WorkerRow[];
    readonly pipeline: readonly PipelineRow[];
  }[];
}

/** What the C peer prints. */
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
 * pinned: each thread needs a processor.
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

/** The comparison for people. */
export function formatWorkerComparison({ processes, workers, peerMissing, runtimes }: WorkerComparison): string {
  const lines = [
    `Nanoseconds for one allocation and its free, wall time by the pairs of all: ${String(workers)} workers on one shared` +
      ` pool, the C peer with as many threads, and one thread on an unshared pool; best and median of ${String(processes)}` +
      ' fresh processes of each, in turns, not pinned.',
    "x peer: how many times as fast as the C peer, best against best. x one: times the unshared pool's throughput.",
    'Repetitions in which a thread waited for a processor are left out, of all alike, unless too few remain.',
    'apart: as many threads, each on an unshared pool of its own; that is what these processors have to give.',
    'a worker: what a pair takes the worker that does it. garbage: of the worker that leaves most.',
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
        `${runtime}, from worker to worker, ${String(batch)} at a time: best ${block.best.toFixed(0)} ns a block,` +
          ` median ${block.median.toFixed(0)} ns, garbage ${formatBytes(garbagePerBlock)} B`,
      );
    }
    lines.push(
      `${runtime}: in ${((1 - undisturbed) * 100).toFixed(0)} % of the repetitions of some figure, at most, a worker` +
        ' waited for a processor',
    );
  }
  return lines.join('\n');
}
