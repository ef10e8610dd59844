import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';

import type { Command } from 'commander';

import {
  decodeTrace,
  DEFAULT_REPEAT,
  DmaTraceError,
  MAX_REPEAT,
  readPools,
  type ReplayMismatch,
  type ReplayResult,
  type ReplayRow,
  replayTrace,
} from '../trace/index.ts';
import { CliExit, type CliIo, EXIT, fileErrorMessage } from './io.ts';
import { parseCount } from './numbers.ts';
import { isSuccess, replayReport, replaySummary } from './replay-report.ts';
import { ProgressBar, styleFor } from './style.ts';

interface ReplayFlags {
  readonly expect?: string;
  readonly debug?: true;
  readonly repeat?: number;
  readonly snapshots?: true;
  readonly json?: true;
}

/** Adds `dmapool replay`. */
export function registerReplay(program: Command, io: CliIo): void {
  program
    .command('replay')
    .summary("replay recorded kernel traffic beside the kernel's own numbers")
    .description(
      "Replay the dma_pool calls of a real kernel's drivers through this allocator, check every block, and compare " +
        "our pools with the kernel's at every snapshot.",
    )
    .argument('[file...]', 'trace, gzip or plain (default: one that is part of the package)')
    .option(
      '--expect <pools.txt>',
      "the kernel's answers (default: NAME.pools.txt beside NAME.trace.gz, if it is there)",
    )
    .option('--debug', 'use pools in debug mode; only times differ')
    .option(
      '--repeat <n>',
      `timed replays (default: ${String(DEFAULT_REPEAT)}, with --debug 1)`,
      parseCount(1, MAX_REPEAT),
    )
    .option('--snapshots', "print our pools beside the kernel's at each snapshot")
    .option('--json', 'print one line of JSON for each file')
    .addHelpText('after', '\nExample:\n  $ dmapool replay traces/*/*.trace.gz')
    .action(async (files: string[], flags: ReplayFlags, command: Command) => {
      if (flags.expect !== undefined && files.length > 1) {
        command.error('error: --expect requires exactly one trace', { exitCode: EXIT.usage });
      }
      const exitCode = await replayFiles(files.length === 0 ? [shippedTrace()] : files, flags, io);
      if (exitCode !== EXIT.success) throw new CliExit(exitCode);
    });
}

async function replayFiles(files: readonly string[], flags: ReplayFlags, io: CliIo): Promise<number> {
  const style = styleFor(io.stdout, io.env);
  const results: ReplayResult[] = [];
  let exitCode: number = EXIT.success;
  for (const file of files) {
    const bar = new ProgressBar(io.stderr);
    try {
      const result = await replayFile(file, flags, (done) => {
        bar.show(basename(file), done);
      });
      bar.clear();
      if (!isSuccess(result)) exitCode = Math.max(exitCode, EXIT.failure);
      if (flags.json === true) io.stdout.write(`${JSON.stringify(replayJson(result))}\n`);
      else if (flags.snapshots === true || !isSuccess(result)) io.stdout.write(replayReport(result, style));
      results.push(result);
    } catch (error) {
      bar.clear();
      // Continue with the other files, as other tools do.
      const message = errorMessage(error, file);
      if (message === null) throw error;
      io.stderr.write(`dmapool: ${message}\n`);
      exitCode = EXIT.usage;
    }
  }
  if (flags.json !== true && results.length > 0) io.stdout.write(replaySummary(results, style));
  return exitCode;
}

async function replayFile(file: string, flags: ReplayFlags, onProgress: (done: number) => void): Promise<ReplayResult> {
  onProgress(0);
  const beside = flags.expect ?? expectationsBeside(file);
  const expected = beside === null ? [] : await readPools(beside);
  const trace = await decodeTrace(file);
  return replayTrace(trace, {
    expected,
    debug: flags.debug === true,
    onProgress,
    ...(flags.repeat === undefined ? {} : { repeat: flags.repeat }),
  });
}

/** The trace in the package: two directories above the sources, three above the build. */
function shippedTrace(): string {
  const [source, built] = ['../..', '../../..'].map((up) =>
    fileURLToPath(new URL(`${up}/traces/6.12/xhci.trace.gz`, import.meta.url)),
  );
  return existsSync(source!) ? source! : built!;
}

/** `NAME.pools.txt` for `NAME.trace.gz`, `NAME.trace` or `NAME.gz`, if there is such a file. */
function expectationsBeside(file: string): string | null {
  const path = `${file.replace(/\.gz$/, '').replace(/\.trace$/, '')}.pools.txt`;
  return existsSync(path) ? path : null;
}

function errorMessage(error: unknown, file: string): string | null {
  if (error instanceof DmaTraceError) return error.message;
  const message = fileErrorMessage(error);
  if (message === null) return null;
  const path = error instanceof Error && 'path' in error && typeof error.path === 'string' ? error.path : file;
  return `${path}: ${message}`;
}

// ---- the document

interface Figures {
  active: number;
  blocks: number;
  size: number;
  pages: number;
}

/** Document of `dmapool replay --json` for one file. */
export interface ReplayDocument {
  readonly trace: string;
  readonly events: number;
  readonly allocs: number;
  readonly frees: number;
  readonly failures: number;
  readonly mismatches: readonly ReplayMismatch[];
  readonly elapsedNs: number;
  readonly nsPerEvent: number;
  readonly snapshots: readonly {
    readonly label: string;
    readonly pools: readonly ({ device: string; name: string } & Figures & { kernel: Figures | null })[];
  }[];
  readonly pools: readonly {
    readonly id: number;
    readonly device: string;
    readonly name: string;
    readonly size: number;
    readonly align: number;
    readonly boundary: number;
    readonly blockSize: number;
    readonly allocation: number;
    readonly blocksPerPage: number;
    readonly maxActive: number;
    readonly pages: number;
    readonly allocs: number;
    readonly frees: number;
  }[];
}

/** The document of a result, with exactly these fields in this order. */
function replayJson(result: ReplayResult): ReplayDocument {
  const { trace, events, allocs, frees, failures, elapsedNs } = result;
  return {
    trace,
    events,
    allocs,
    frees,
    failures,
    mismatches: result.mismatches.map(({ snapshot, device, pool, field, ours, kernel }) => {
      return { snapshot, device, pool, field, ours, kernel };
    }),
    elapsedNs,
    nsPerEvent: events === 0 ? 0 : elapsedNs / events,
    snapshots: result.snapshots
      .filter((snapshot) => snapshot.recorded)
      .map(({ label, files }) => ({
        label,
        pools: files.flatMap(({ device, rows }) => rows.flatMap((row) => rowJson(device, row))),
      })),
    pools: result.pools.map((pool) => ({
      id: pool.id,
      device: pool.device,
      name: pool.name,
      size: pool.size,
      align: pool.align,
      boundary: pool.boundary,
      blockSize: pool.blockSize,
      allocation: pool.allocation,
      blocksPerPage: pool.blocksPerPage,
      maxActive: pool.maxActive,
      pages: pool.pages,
      allocs: pool.allocs,
      frees: pool.frees,
    })),
  };
}

function rowJson(device: string, { ours, kernel }: ReplayRow): ReplayDocument['snapshots'][number]['pools'] {
  if (ours === null) return [];
  return [{ device, name: ours.name, ...figures(ours), kernel: kernel === null ? null : figures(kernel) }];
}

function figures({ active, blocks, size, pages }: Figures): Figures {
  return { active, blocks, size, pages };
}
