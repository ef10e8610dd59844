/** `dmapool record`: records the operations of a process's pools as a trace. */
import { writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

import type { Command } from 'commander';

import { CliExit, type CliIo, EXIT, fileErrorMessage } from './io.ts';
import { parseCount } from './numbers.ts';
import { requestPath } from './observed.ts';
import { parsePid } from './ps.ts';
import { count } from './style.ts';

/** Milliseconds after the end of the recording within which the process must answer, even if it is busy. */
const TIMEOUT = 60_000;

interface RecordFlags {
  readonly output: string;
  readonly seconds: number;
  readonly limit: number;
  readonly pool?: string;
  readonly json?: true;
}

/** Parameters of a recording. */
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
      'Record the allocations and frees of all pools of a running process, and write them as a trace for `dmapool replay` ' +
        'and `dmapool advise`. The recording includes all threads, and pools that are created while it lasts. In debug ' +
        'mode it includes the site of each call.',
    )
    .argument('<pid>', 'number of the process', parsePid)
    .requiredOption('-o, --output <file>', 'file to write; compressed if the name ends in .gz')
    .option('--seconds <n>', 'duration', parseCount(1, 3600), 5)
    .option('--limit <n>', 'operations that are kept, the newest of all pools', parseCount(64, 2 ** 20), 2 ** 18)
    .option('--pool <id>', 'one pool only, by its id in the metrics (THREAD.NUMBER)')
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

/** Records a process's pools. Returns the trace. */
export async function recordProcess(pid: number, { seconds, limit, pool }: RecordRequest): Promise<string> {
  const query = `seconds=${String(seconds)}&limit=${String(limit)}${pool === undefined ? '' : `&pool=${encodeURIComponent(pool)}`}`;
  const { status, text } = await requestPath(pid, `/trace?${query}`, { timeout: seconds * 1000 + TIMEOUT });
  if (status === 200) return text;
  throw new CliExit(status === 400 ? EXIT.usage : EXIT.failure, `process ${String(pid)}: ${text.trim()}`);
}
