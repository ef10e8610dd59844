/** The calls of the recorded drivers: this package's pools against the C peer, with its lock and without. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { median } from '../src/cli/speed.ts';
import { table } from '../src/cli/style.ts';
import { decodeTrace } from '../src/trace/index.ts';
import { encodeStream } from './ours/call-stream.ts';
import type { ReplayLine } from './ours/replay.ts';
import { type CompiledPeer, compileReplay } from './peers/compile.ts';
import { pinning, runJsonLines } from './processes.ts';

/** The recordings of the newer kernel. */
const TRACES = fileURLToPath(new URL('../../traces/6.12/', import.meta.url));
const PROGRAM = fileURLToPath(new URL('ours/replay.js', import.meta.url));

/** Nanoseconds for each call, over all processes. */
export interface TraceFigure {
  /** Median of the first runs, in code that is not yet compiled. */
  readonly first: number;
  readonly best: number;
  /** Median of the medians. */
  readonly median: number;
}

export interface TraceRow {
  readonly trace: string;
  readonly calls: number;
  /** Pools that the drivers make. */
  readonly pools: number;
  /** Null without a C compiler. */
  readonly locked: TraceFigure | null;
  readonly unlocked: TraceFigure | null;
  readonly index: TraceFigure;
  readonly object: TraceFigure;
}

export interface TraceComparison {
  readonly runtimes: readonly { readonly runtime: string; readonly rows: readonly TraceRow[] }[];
  /** Why there is no C peer; null if there is. */
  readonly peerMissing: string | null;
}

export interface TraceOptions {
  readonly processes: number;
  /** Executables of Node. */
  readonly runtimes: readonly string[];
  /** Measures only the recordings whose name contains this. Default: all. */
  readonly only?: string;
  readonly onTurn?: (turn: number) => void;
}

/**
 * Measures every recording in fresh processes of each contender, in turns.
 *
 * @throws Error if two contenders place a block differently: then they did not do the same.
 */
export async function compareTraces({
  processes,
  runtimes,
  only = '',
  onTurn,
}: TraceOptions): Promise<TraceComparison> {
  const prefix = pinning();
  using locked = peerOf(true);
  using unlocked = peerOf(false);
  const folder = mkdtempSync(join(tmpdir(), 'dmapool-traces-'));
  try {
    const streams: { trace: string; calls: number; pools: number; path: string }[] = [];
    for (const file of readdirSync(TRACES).filter((name) => name.includes(only) && name.endsWith('.trace.gz'))) {
      const trace = await decodeTrace(join(TRACES, file));
      const path = join(folder, file);
      writeFileSync(path, encodeStream(trace));
      streams.push({
        trace: file.replace('.trace.gz', ''),
        calls: trace.operations.length,
        pools: trace.pools.length,
        path,
      });
    }
    const measured = streams.map(() => new Map<string, ReplayLine[]>());
    for (let turn = 1; turn <= processes; turn++) {
      onTurn?.(turn);
      for (const [i, { path, trace }] of streams.entries()) {
        const lines = measured[i]!;
        const run = (contender: string, command: readonly string[]): void => {
          const line = runJsonLines(prefix, command)[0] as ReplayLine;
          lines.set(contender, [...(lines.get(contender) ?? []), line]);
        };
        if (locked.peer !== null) run('locked', [locked.peer.path, path]);
        if (unlocked.peer !== null) run('unlocked', [unlocked.peer.path, path]);
        for (const runtime of runtimes) {
          for (const form of ['index', 'object']) run(`${form} ${runtime}`, [runtime, PROGRAM, path, form]);
        }
        const hashes = new Set([...lines.values()].flat().map(({ hash }) => hash));
        if (hashes.size > 1) throw new Error(`${trace}: the contenders place blocks differently`);
      }
    }
    return {
      runtimes: runtimes.map((runtime) => ({
        runtime,
        rows: streams.map(({ trace, calls, pools }, i) => {
          const of = (contender: string): TraceFigure | null => figure(measured[i]!.get(contender));
          return {
            trace,
            calls,
            pools,
            locked: of('locked'),
            unlocked: of('unlocked'),
            index: of(`index ${runtime}`)!,
            object: of(`object ${runtime}`)!,
          };
        }),
      })),
      peerMissing: locked.missing,
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

interface MaybePeer extends Disposable {
  readonly peer: CompiledPeer | null;
  readonly missing: string | null;
}

function peerOf(lock: boolean): MaybePeer {
  const result = compileReplay(lock);
  if (typeof result === 'string') return { peer: null, missing: result, [Symbol.dispose]: () => undefined };
  return {
    peer: result,
    missing: null,
    [Symbol.dispose]: () => {
      result[Symbol.dispose]();
    },
  };
}

function figure(lines: readonly ReplayLine[] | undefined): TraceFigure | null {
  if (lines === undefined) return null;
  return {
    first: median(lines.map(({ first }) => first)),
    best: Math.min(...lines.map(({ best }) => best)),
    median: median(lines.map((line) => line.median)),
  };
}

/** Heading and cells of a comparison's table, warm figures as "best (median)". */
export function traceCells(rows: readonly TraceRow[]): string[][] {
  const warm = (of: TraceFigure | null): string => (of === null ? '-' : `${ns(of.best)} (${ns(of.median)})`);
  const times = (ours: TraceFigure, peer: TraceFigure | null): string =>
    peer === null ? '-' : (ours.best / peer.best).toFixed(2);
  return [
    [
      'recording',
      'calls',
      'pools',
      'C peer',
      'without lock',
      'indices',
      'objects',
      'first: C, indices, objects',
      'indices / C',
      'objects / C',
    ],
    ...rows.map(({ trace, calls, pools, locked, unlocked, index, object }) => [
      trace,
      calls.toLocaleString('en'),
      String(pools),
      warm(locked),
      warm(unlocked),
      warm(index),
      warm(object),
      [locked, index, object].map((of) => (of === null ? '-' : ns(of.first))).join(', '),
      times(index, locked),
      times(object, locked),
    ]),
  ];
}

function ns(value: number): string {
  return value < 100 ? value.toFixed(1) : value.toFixed(0);
}

export function formatTraceComparison({ runtimes, peerMissing }: TraceComparison): string {
  return [
    'ns for each call of the recorded drivers: best of the warm runs (median), and the first run',
    ...(peerMissing === null ? [] : [peerMissing]),
    ...runtimes.flatMap(({ runtime, rows }) => ['', runtime, ...table(traceCells(rows), { rule: true })]),
  ].join('\n');
}
