import { checkBoolean, checkFunction, checkInteger, type OptionNames, readOptions } from '../arguments.ts';
import { DmaError, PoolGeometry } from '../index.ts';
import { type CheckResult, CheckingPass } from './check.ts';
import { checkExpected, checkTrace } from './check-arguments.ts';
import { Comparer } from './compare.ts';
import type { DecodedTrace } from './decode.ts';
import type { TraceCreate } from './events.ts';
import type { PoolsFile } from './expectations.ts';
import { memoryNeeds } from './fleet.ts';
import type { Ledger } from './ledger.ts';
import { explainPages, type KernelVersion, kernelVersion } from './pages.ts';
import type { ReplayPool, ReplayResult } from './result.ts';
import { TimedPass } from './timed.ts';

/** Options of {@link replayTrace}. */
export interface ReplayOptions {
  /** The kernel's `pools` files, from {@link readPools}. Default: none, and no comparison. */
  readonly expected?: readonly PoolsFile[];
  /** Creates the pools in debug mode. Only times differ. Default false. */
  readonly debug?: boolean;
  /**
   * Number of timed replays after the one with checks, 1 to {@link MAX_REPEAT}. Default {@link DEFAULT_REPEAT}, and 1 with
   * `debug`, which is about a hundred times slower.
   */
  readonly repeat?: number;
  /** Called repeatedly with the progress, 0 to 1. */
  readonly onProgress?: (done: number) => void;
}

const OPTIONS: OptionNames<ReplayOptions> = { expected: true, debug: true, repeat: true, onProgress: true };

/** Default of `repeat`: enough for a run with compiled code. */
export const DEFAULT_REPEAT = 5;
/** Maximum of `repeat`. */
export const MAX_REPEAT = 10_000;

/**
 * Replays a recorded trace through this package's pools: once with all checks, then `repeat` times on fresh pools to
 * measure the time. Each device of the trace has its own memory.
 *
 * Failures and differences are in the result. Only invalid arguments throw.
 *
 * @param trace Result of {@link decodeTrace}.
 * @param options Expectations, debug mode, number of timed replays.
 * @throws `DmaArgumentError` for an invalid trace or options.
 *
 * @example
 * ```ts
 * const trace = await decodeTrace('traces/6.12/ehci.trace.gz');
 * const expected = await readPools('traces/6.12/ehci.pools.txt');
 * const { failures, mismatches, elapsedNs, events } = replayTrace(trace, { expected });
 * console.log(failures, mismatches.length, elapsedNs / events);
 * ```
 */
export function replayTrace(trace: DecodedTrace, options: ReplayOptions = {}): ReplayResult {
  const given = readOptions('options', options, OPTIONS);
  const { expected = [], debug = false, onProgress = () => undefined } = given;
  checkBoolean('debug', debug);
  checkFunction('onProgress', onProgress);
  const { repeat = debug ? 1 : DEFAULT_REPEAT } = given;
  checkInteger('repeat', repeat, 1, MAX_REPEAT);
  checkExpected(expected);
  checkTrace(trace);
  const { creates, allocs, frees, destroys } = trace.counts;
  const events = trace.operations.length;
  const needs = memoryNeeds(trace);

  // For the progress: a call with checks takes about as long as this many timed calls.
  const checkingWeight = 20;
  const total = checkingWeight + repeat;
  const check = new CheckingPass(trace, needs, debug).run((done) => {
    onProgress(((done / events) * checkingWeight) / total);
  });

  const kernel = trace.header.fields.get('kernel') ?? null;
  const version = kernelVersion(kernel ?? undefined);
  const { snapshots, mismatches } = new Comparer(trace, check.ledgers, version).compare(check.snapshots, expected);

  const pass = new TimedPass(trace, needs, debug, check.failed);
  const runsNs = Array.from({ length: repeat }, (_, i) => {
    onProgress((checkingWeight + i) / total);
    return pass.run();
  });
  onProgress(1);

  return {
    trace: trace.name,
    kernel,
    events,
    creates,
    allocs,
    frees,
    destroys,
    placed: check.placed,
    failures: check.failures,
    mismatches: [...check.troubles, ...mismatches],
    runsNs,
    elapsedNs: Math.min(...runsNs),
    medianNs: median(runsNs),
    snapshots,
    pools: trace.pools.map((pool, i) => poolResult(pool, check.ledgers[i]!, version)),
    notes: notes(trace, check),
  };
}

function poolResult(pool: TraceCreate, ledger: Ledger, version: KernelVersion | null): ReplayPool {
  const { pool: id, device, name, size, align, boundary } = pool;
  const { peak, pages, allocs, frees, recorded, raced, kernelPerPage } = ledger;
  const { blockSize, allocation, blocksPerPage } = geometryOf(pool);
  const figures = { ours: pages, oursPerPage: blocksPerPage, kernel: recorded, kernelPerPage, peak, recorded, raced };
  return {
    id,
    device,
    name,
    size,
    align,
    boundary,
    blockSize,
    allocation,
    blocksPerPage,
    maxActive: peak,
    pages,
    allocs,
    frees,
    kernelPages: recorded,
    reasons: explainPages(figures, version),
  };
}

function geometryOf({ size, align, boundary }: TraceCreate): {
  blockSize: number;
  allocation: number;
  blocksPerPage: number;
} {
  try {
    return new PoolGeometry({ size, align, boundary });
  } catch (error) {
    if (error instanceof DmaError) return { blockSize: 0, allocation: 0, blocksPerPage: 0 };
    throw error;
  }
}

function notes(trace: DecodedTrace, check: CheckResult): string[] {
  const found: string[] = [];
  const { refused, header, counts } = trace;
  if (refused > 0) found.push(`allocs for which the kernel had no memory, left out: ${String(refused)}`);
  const out = check.ledgers.reduce((sum, ledger) => sum + ledger.active, 0);
  if (out > 0) found.push(`blocks still out at the end of the trace: ${String(out)}`);
  // The header has the recorder's number of lines; fewer lines mean that some are missing.
  for (const [kind, count] of [
    ['create', counts.creates],
    ['alloc', counts.allocs + refused],
    ['free', counts.frees],
    ['destroy', counts.destroys],
  ] as const) {
    const stated = new RegExp(`\\b${kind}=(\\d+)`).exec(header.fields.get('counts') ?? '')?.[1];
    if (stated !== undefined && Number(stated) !== count) {
      found.push(`the header counts ${stated} lines of ${kind}, the trace has ${String(count)}`);
    }
  }
  const raced = check.ledgers.reduce((sum, ledger) => sum + ledger.raced, 0);
  if (check.placed > 0 && raced > 0) {
    const pages = `${String(raced)} ${raced === 1 ? 'page' : 'pages'}`;
    const rest = String(counts.allocs - check.placed);
    found.push(
      `the kernel took ${pages} although blocks were free; the places of ${rest} blocks after that are not compared`,
    );
  }
  const stated = /\bof these (\d+)\b/.exec(header.fields.get('pages') ?? '')?.[1];
  if (stated !== undefined && Number(stated) !== raced) {
    found.push(`the header counts ${stated} pages taken while a block was free, the trace shows ${String(raced)}`);
  }
  return found;
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle]!;
  return sorted.length % 2 === 1 ? upper : Math.round((sorted[middle - 1]! + upper) / 2);
}
