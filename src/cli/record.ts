/** `dmapool record`: the operations of a running process's pools, as a trace. */
import { writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

import type { Command } from 'commander';

import { CliExit, type CliIo, EXIT, fileErrorMessage } from './io.ts';
import { parseCount } from './numbers.ts';
import { askProcess } from './observed.ts';
import { parsePid } from './ps.ts';
import { count } from './style.ts';

/** Milliseconds that a process has to answer, besides the time of the recording: a busy one answers late. */
const PATIENCE = 60_000;

interface RecordFlags {
  readonly output: string;
  readonly seconds: number;
  readonly limit: number;
  readonly pool?: string;
  readonly json?: true;
}

/** What is to be recorded. */
export interface RecordRequest {
  readonly seconds: number;
  readonly limit: number;
  readonly pool?: string;
}

/** Adds `dmapool record`. */
export function registerRecord(program: Command, io: CliIo): void {
  program
    .command('record')
    .summary("record the operations of a running process's pools as a trace")
    .description(
      "Record the allocations and frees of a running process's pools for a while, and write them as a trace that `dmapool " +
        'replay` and `dmapool advise` read. Of shared pools the operations of all workers.',
    )
    .argument('<pid>', 'number of the process', parsePid)
    .requiredOption('-o, --output <file>', 'where to write the trace; packed if the name ends in .gz')
    .option('--seconds <n>', 'how long', parseCount(1, 3600), 5)
    .option('--limit <n>', 'newest operations that are kept of each pool', parseCount(64, 2 ** 24), 65_536)
    .option('--pool <id>', 'one pool only, by its id in the metrics')
    .option('--json', 'print a JSON document')
    .addHelpText('after', '\nExample:\n  $ dmapool record 4711 -o busy.trace.gz && dmapool replay busy.trace.gz')
    .action(async (pid: number, { output, json, ...flags }: RecordFlags) => {
      const text = await recordProcess(pid, flags);
      try {
        writeFileSync(output, output.endsWith('.gz') ? gzipSync(text) : text);
      } catch (error) {
        const message = fileErrorMessage(error);
        if (message === null) throw error;
        throw new CliExit(EXIT.failure, `record: ${output}: ${message}`);
      }
      const [, creates, allocs, frees] = (/create=(\d+) alloc=(\d+) free=(\d+)/.exec(text) ?? []).map(Number);
      const document = { pid, output, pools: creates!, allocations: allocs!, frees: frees! };
      io.stdout.write(
        json === true
          ? `${JSON.stringify(document)}\n`
          : `${output}: ${count(creates!)} pools, ${count(allocs!)} allocations, ${count(frees!)} frees\n`,
      );
    });
}

/** Records a process's pools; returns the trace. */
export async function recordProcess(pid: number, { seconds, limit, pool }: RecordRequest): Promise<string> {
  const query = `seconds=${String(seconds)}&limit=${String(limit)}${pool === undefined ? '' : `&pool=${encodeURIComponent(pool)}`}`;
  const { status, text } = await askProcess(pid, `/trace?${query}`, { patience: seconds * 1000 + PATIENCE });
  if (status === 200) return text;
  throw new CliExit(status === 400 ? EXIT.usage : EXIT.failure, `process ${String(pid)}: ${text.trim()}`);
}
