import { fileURLToPath } from 'node:url';

import { formatGeometry } from '../src/bench/format.ts';
import { type BenchGeometry, KERNEL_GEOMETRIES } from '../src/bench/geometries.ts';
import type { WorkersBenchReport } from '../src/bench/run-workers.ts';
import type { ComparisonOptions } from './compare-one-thread.ts';
import { type CompiledPeer, compileIntrusivePool } from './peers/compile.ts';
import { runJsonLines, runtimeCommand } from './processes.ts';
import { type Sample, SampleBook, type Summary } from './samples.ts';

export interface WorkerComparisonOptions extends Omit<ComparisonOptions, 'manyBlocks'> {
  /** Threads that use one pool. */
  readonly workers: number;
}

export interface WorkerRow extends BenchGeometry {
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
}

export interface PipelineRow {
  readonly batch: number;
  readonly block: Summary;
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

/** What the programs print. */
type PeerLine = BenchGeometry & Sample;
type WorkersLine = Omit<WorkersBenchReport, 'node'> & { readonly runtime: string };

const SCRIPT = fileURLToPath(new URL('ours/workers.js', import.meta.url));

interface RuntimeBook {
  readonly command: readonly string[];
  readonly book: SampleBook;
  readonly lines: WorkersLine[];
}

function runOurs({ command, book, lines }: RuntimeBook, settings: readonly string[], workers: number): void {
  const [line] = runJsonLines([], [...command, SCRIPT, '--workers', String(workers), ...settings]) as [WorkersLine];
  lines.push(line);
  for (const result of line.results) {
    const name = formatGeometry(result);
    book.add(`shared ${name}`, result);
    book.add(`unshared ${name}`, {
      nsPerPairMedian: result.nsPerPairUnshared,
      nsPerPairBest: result.nsPerPairUnsharedBest,
    });
    book.add(`apart ${name}`, { nsPerPairMedian: result.nsPerPairApart, nsPerPairBest: result.nsPerPairApartBest });
  }
  for (const { batch, nsPerBlock, nsPerBlockBest } of line.pipeline) {
    book.add(`pipeline ${String(batch)}`, { nsPerPairMedian: nsPerBlock, nsPerPairBest: nsPerBlockBest });
  }
}

function summaryOf(book: SampleBook, key: string): Summary {
  const summary = book.summary(key);
  if (summary === null) throw new Error(`nobody measured ${key}`);
  return summary;
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
  const settings = (['rounds', 'repetitions', 'warmup'] as const).flatMap((name) =>
    options[name] === undefined ? [] : [`--${name}`, String(options[name])],
  );

  using peer: CompiledPeer | null = typeof compiled === 'string' ? null : compiled;
  for (let turn = 1; turn <= processes; turn++) {
    options.onTurn?.(turn);
    if (peer !== null) {
      const [, ...lines] = runJsonLines([], [peer.path, '--threads', String(workers), ...settings]);
      for (const line of lines as PeerLine[]) peers.add(formatGeometry(line), line);
    }
    for (const book of books) runOurs(book, settings, workers);
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
          const theirs = peers.summary(name);
          const shared = summaryOf(book, `shared ${name}`);
          const unshared = summaryOf(book, `unshared ${name}`);
          return {
            ...geometry,
            blocks: results[i]!.blocks,
            peer: theirs,
            shared,
            unshared,
            apart: summaryOf(book, `apart ${name}`),
            scalesBest: unshared.best / shared.best,
            scalesMedian: unshared.median / shared.median,
            fasterBest: theirs === null ? null : theirs.best / shared.best,
            fasterMedian: theirs === null ? null : theirs.median / shared.median,
          };
        }),
        pipeline: pipeline.map(({ batch }) => ({ batch, block: summaryOf(book, `pipeline ${String(batch)}`) })),
      };
    }),
  };
}
