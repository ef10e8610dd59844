/** Compares the servers of `server.ts`, in fresh processes that take turns. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { median } from '../../src/cli/speed.ts';
import { CHUNK, type Contender, CONTENDERS } from './send.ts';
import type { ServerFigures } from './server.ts';

const SERVER = fileURLToPath(new URL('./server.js', import.meta.url));
/** The file has so many chunks: it stays in the page cache. */
const FILE_CHUNKS = 512;
/** Buffer of the client, which discards what it receives. */
const CLIENT_BUFFER = 1 << 20;

/** Options of {@link compareIo}. */
export interface IoOptions {
  /** Chunks of a run. */
  readonly chunks: number;
  /** Runs of each contender. */
  readonly runs: number;
  /** Called after each run. */
  readonly onRun?: (run: number, contender: Contender) => void;
}

/** Figures of a contender: medians of its runs. */
export interface IoResult extends ServerFigures {
  readonly contender: Contender;
  /** Throughput relative to the fastest contender. */
  readonly ofBest: number;
  /** Resident memory relative to the smallest. */
  readonly residentOfLeast: number;
  /** Least and greatest throughput of its runs. */
  readonly slowest: number;
  readonly fastest: number;
}

/** Result of {@link compareIo}. */
export interface IoComparison {
  readonly chunks: number;
  readonly runs: number;
  readonly results: readonly IoResult[];
  /** Average number of running processes in the minute before the first run. */
  readonly loadBefore: number;
  readonly processors: number;
}

export async function compareIo({ chunks, runs, onRun }: IoOptions): Promise<IoComparison> {
  const loadBefore = loadavg()[0]!;
  const folder = mkdtempSync(join(tmpdir(), 'dmapool-bench-io-'));
  const figures = new Map<Contender, ServerFigures[]>(CONTENDERS.map((contender) => [contender, []]));
  try {
    const path = join(folder, 'data');
    writeFileSync(path, Buffer.alloc(FILE_CHUNKS * CHUNK, 'dmapool '));
    for (let run = 0; run < runs; run++) {
      // Another one is first in each run.
      for (let turn = 0; turn < CONTENDERS.length; turn++) {
        const contender = CONTENDERS[(run + turn) % CONTENDERS.length]!;
        figures.get(contender)!.push(await runServer(contender, path, chunks));
        onRun?.(run + 1, contender);
      }
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  const medians = CONTENDERS.map((contender) => {
    const of = (field: keyof ServerFigures): number[] => figures.get(contender)!.map((one) => one[field]);
    const rates = of('bytesPerSecond');
    return {
      contender,
      bytesPerSecond: median(rates),
      slowest: Math.min(...rates),
      fastest: Math.max(...rates),
      arrayBufferBytes: Math.max(...of('arrayBufferBytes')),
      residentBytes: median(of('residentBytes')),
    };
  });
  const best = Math.max(...medians.map(({ bytesPerSecond }) => bytesPerSecond));
  const least = Math.min(...medians.map(({ residentBytes }) => residentBytes));
  const results = medians.map((one) => ({
    ...one,
    ofBest: one.bytesPerSecond / best,
    residentOfLeast: one.residentBytes / least,
  }));
  return { chunks, runs, results, loadBefore, processors: availableParallelism() };
}

async function runServer(contender: Contender, path: string, chunks: number): Promise<ServerFigures> {
  const warmup = Math.min(2000, chunks);
  const child = spawn(process.execPath, [SERVER, contender, path, String(chunks), String(warmup)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
    const next = async (): Promise<string> => {
      const line = await lines.next();
      if (line.done === true) throw new Error(`the server of ${contender} ended early`);
      return line.value;
    };
    const received = await receiveAll(Number(await next()));
    if (received !== (warmup + chunks) * CHUNK) throw new Error(`${contender}: ${String(received)} bytes received`);
    const figures = JSON.parse(await next()) as ServerFigures;
    await ended(child);
    return figures;
  } finally {
    child.kill('SIGKILL');
  }
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  if (child.exitCode !== 0) throw new Error(`the server ended with ${String(child.exitCode ?? child.signalCode)}`);
}

/** Receives until the server ends the connection; returns the number of bytes. */
async function receiveAll(port: number): Promise<number> {
  let bytes = 0;
  const socket = connect({
    host: '127.0.0.1',
    port,
    onread: {
      buffer: new Uint8Array(CLIENT_BUFFER),
      callback: (count) => {
        bytes += count;
        return true;
      },
    },
  });
  await once(socket, 'close');
  return bytes;
}

const NAMES: Readonly<Record<Contender, string>> = {
  pool: 'pool of 8 blocks',
  alloc: 'Buffer.alloc',
  allocUnsafe: 'Buffer.allocUnsafe',
  reused: 'one reused Buffer',
};

/** Formats a comparison as a table. */
export function formatIo({ chunks, runs, results, loadBefore, processors }: IoComparison): string {
  const mib = (bytes: number): string => (bytes / 2 ** 20).toLocaleString('en-US', { maximumFractionDigits: 0 });
  const rows = [
    ['buffers', 'MiB/s', 'runs', 'of the best', 'ArrayBuffers', 'resident', 'of the least'],
    ...results.map((one) => [
      NAMES[one.contender],
      mib(one.bytesPerSecond),
      `${mib(one.slowest)} to ${mib(one.fastest)}`,
      one.ofBest.toFixed(2),
      one.arrayBufferBytes === 0 ? 'none' : `${mib(one.arrayBufferBytes)} MiB`,
      `${(one.residentBytes / 2 ** 20).toFixed(1)} MiB`,
      one.residentOfLeast.toFixed(2),
    ]),
  ];
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const lines = rows.map((row) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '),
  );
  lines.splice(1, 0, widths.map((width) => '-'.repeat(width)).join('  '));
  const count = chunks.toLocaleString('en-US');
  return [
    `A server that sends ${count} chunks of 64 KiB from a file to a socket; medians of ${String(runs)} runs, Node ${process.version}:`,
    '',
    ...lines,
    '',
    'ArrayBuffers: bytes of those made after the warm-up, at least. Resident: the highest of a run.',
    ...(loadBefore > 0.3
      ? [`The machine was loaded: ${loadBefore.toFixed(1)} running processes before, ${String(processors)} processors.`]
      : []),
  ].join('\n');
}
