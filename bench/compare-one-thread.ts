import { fileURLToPath } from 'node:url';

import { formatGeometry } from '../src/bench/format.ts';
import { type BenchGeometry, KERNEL_GEOMETRIES, benchBlocks } from '../src/bench/geometries.ts';
import { median } from '../src/bench/measure.ts';
import type { GeometryResult } from '../src/bench/run.ts';
import { type CompiledPeer, compileIntrusivePool, compileMempool } from './peers/compile.ts';
import { type Prefix, pinning, runJsonLines, runtimeCommand } from './processes.ts';
import { type Sample, SampleBook, type Summary } from './samples.ts';

export interface ComparisonOptions {
  /** Fresh processes of each contender. */
  readonly processes: number;
  /** Binaries to run the JavaScript contenders with. */
  readonly runtimes: readonly string[];
  /** Passed on to the contenders; the kernel's 100 rounds by default. */
  readonly rounds?: number;
  readonly repetitions?: number;
  readonly warmup?: number;
  /** Blocks of the case with many; 373,959 by default. */
  readonly manyBlocks?: number;
  /** Called before each turn, from 1. */
  readonly onTurn?: (turn: number) => void;
}

/** A contender with how many times as fast as the C peer it is; below 1 it is slower. */
export interface Rival extends Summary {
  readonly fasterBest: number | null;
  readonly fasterMedian: number | null;
}

export interface ComparisonRow extends BenchGeometry {
  readonly blocks: number;
  readonly peer: Summary | null;
  readonly object: Rival;
  readonly index: Rival;
  readonly bulk32: Rival;
  readonly floor: Rival;
}

/** DPDK's rte_mempool, one by one and 32 at a time, with a cache of 256. */
export interface MempoolRow extends BenchGeometry {
  readonly single: Summary;
  readonly bulk32: Summary;
}

export interface ManyBlocksRow {
  readonly form: string;
  readonly blocks: number;
  readonly firstFillNsPerPair: number;
  readonly many: Summary;
  readonly few: Summary;
  /** A pair among many blocks against a pair among 8,192, best against best and median against median. */
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
  /** Why the C peer is missing; null if it is not. */
  readonly peerMissing: string | null;
  readonly mempool: readonly MempoolRow[] | null;
  readonly mempoolMissing: string | null;
  readonly lockedExchangeNs: number | null;
  readonly lockUnlockNs: number | null;
  readonly runtimes: readonly RuntimeComparison[];
}

/** What the programs print. */
interface LockLine {
  readonly lockedExchangeNs: number;
  readonly lockUnlockNs: number;
}
type PeerLine = BenchGeometry & Sample;
type MempoolLine = BenchGeometry & { readonly single: Sample; readonly bulk32: Sample };
interface OursLine {
  readonly runtime: string;
  readonly results: readonly GeometryResult[];
}
interface ManyLine {
  readonly form: string;
  readonly blocks: number;
  readonly firstFillNsPerPair: number;
  readonly many: Sample;
  readonly few: Sample;
}

const FORMS = ['object', 'index', 'bulk32'] as const;

function script(name: string): string {
  return fileURLToPath(new URL(name, import.meta.url));
}

function counts(options: ComparisonOptions, names: readonly ('rounds' | 'repetitions' | 'warmup')[]): string[] {
  return names.flatMap((name) => (options[name] === undefined ? [] : [`--${name}`, String(options[name])]));
}

/** One JavaScript runtime's samples, and the case with many blocks. */
class RuntimeRun {
  readonly #command: readonly string[];
  readonly #book = new SampleBook();
  readonly #many = new Map<string, ManyLine[]>();
  #name = '';

  constructor(runtime: string) {
    this.#command = runtimeCommand(runtime);
  }

  turn(prefix: Prefix, options: ComparisonOptions): void {
    const settings = counts(options, ['rounds', 'repetitions', 'warmup']);
    const [ours] = runJsonLines(prefix, [...this.#command, script('ours/one-thread.js'), ...settings]) as [OursLine];
    this.#name = ours.runtime;
    for (const result of ours.results) {
      const geometry = formatGeometry(result);
      this.#book.add(`object ${geometry}`, result);
      this.#book.add(`index ${geometry}`, result.index);
      this.#book.add(`bulk32 ${geometry}`, result.bulk32);
    }
    for (const line of runJsonLines(prefix, [...this.#command, script('peers/index-array.js'), ...settings])) {
      this.#book.add(`floor ${formatGeometry(line as PeerLine)}`, line as PeerLine);
    }
    const blocks = options.manyBlocks === undefined ? [] : ['--blocks', String(options.manyBlocks)];
    const few = counts(options, ['repetitions', 'warmup']);
    const lines = runJsonLines(prefix, [...this.#command, script('ours/many-blocks.js'), ...blocks, ...few]);
    for (const line of lines as ManyLine[]) {
      this.#many.set(line.form, [...(this.#many.get(line.form) ?? []), line]);
      this.#book.add(`many ${line.form}`, line.many);
      this.#book.add(`few ${line.form}`, line.few);
    }
  }

  report(peers: SampleBook): RuntimeComparison {
    const results = KERNEL_GEOMETRIES.map((geometry): ComparisonRow => {
      const name = formatGeometry(geometry);
      const peer = peers.summary(name);
      const [object, index, bulk32] = FORMS.map((form) => rival(this.#summary(`${form} ${name}`), peer));
      const floor = rival(this.#summary(`floor ${name}`), peer);
      return {
        ...geometry,
        blocks: benchBlocks(geometry.size),
        peer,
        object: object!,
        index: index!,
        bulk32: bulk32!,
        floor,
      };
    });
    return { runtime: this.#name, results, manyBlocks: [...this.#many].map(([form, lines]) => this.#row(form, lines)) };
  }

  #row(form: string, lines: readonly ManyLine[]): ManyBlocksRow {
    const many = this.#summary(`many ${form}`);
    const few = this.#summary(`few ${form}`);
    return {
      form,
      blocks: lines[0]!.blocks,
      firstFillNsPerPair: median(lines.map((line) => line.firstFillNsPerPair)),
      many,
      few,
      ratioBest: many.best / few.best,
      // Of each process its own ratio: within a process the two took turns.
      ratioMedian: median(lines.map((line) => line.many.nsPerPairMedian / line.few.nsPerPairMedian)),
    };
  }

  #summary(key: string): Summary {
    const summary = this.#book.summary(key);
    if (summary === null) throw new Error(`nobody measured ${key}`);
    return summary;
  }
}

function rival(summary: Summary, peer: Summary | null): Rival {
  return {
    ...summary,
    fasterBest: peer === null ? null : peer.best / summary.best,
    fasterMedian: peer === null ? null : peer.median / summary.median,
  };
}

function mempoolRow(peers: SampleBook, geometry: BenchGeometry): MempoolRow {
  const name = formatGeometry(geometry);
  return { ...geometry, single: peers.summary(`single ${name}`)!, bulk32: peers.summary(`bulk32 ${name}`)! };
}

/**
 * Runs every contender in `processes` fresh processes, one after the other in turns: a machine that is slow for half a
 * minute is slow for all of them.
 */
export function compare(options: ComparisonOptions): Comparison {
  const prefix = pinning();
  const compiled = compileIntrusivePool();
  const missing = typeof compiled === 'string' ? compiled : null;
  const locks: LockLine[] = [];
  const peers = new SampleBook();
  const runs = options.runtimes.map((runtime) => new RuntimeRun(runtime));

  using peer: CompiledPeer | null = typeof compiled === 'string' ? null : compiled;
  const compiledMempool = compileMempool();
  using mempool: CompiledPeer | null = typeof compiledMempool === 'string' ? null : compiledMempool;
  for (let turn = 1; turn <= options.processes; turn++) {
    options.onTurn?.(turn);
    if (peer !== null) {
      const settings = counts(options, ['rounds', 'repetitions', 'warmup']);
      const [lock, ...lines] = runJsonLines(prefix, [peer.path, ...settings]);
      locks.push(lock as LockLine);
      for (const line of lines as PeerLine[]) peers.add(formatGeometry(line), line);
    }
    if (mempool !== null) {
      const settings = counts(options, ['rounds', 'repetitions', 'warmup']);
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
