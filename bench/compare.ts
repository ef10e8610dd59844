/**
 * `npm run bench`: dmapool against its peers; with `--workers N`, N workers on one pool against as many threads; with
 * `--traces`, on the calls of the recorded drivers.
 *
 *     npm run bench -- [--workers N | --traces] [--processes N] [--node PATH]... [--json]
 */
import { parseArgs } from 'node:util';

import { compare, formatComparison } from './compare-one-thread.ts';
import { compareTraces, formatTraceComparison } from './compare-traces.ts';
import { compareWorkers, formatWorkerComparison, MAX_WORKERS } from './compare-workers.ts';

const USAGE = 'usage: npm run bench -- [--workers N | --traces] [--processes N] [--node PATH]... [--json]';

interface Options {
  readonly processes: number;
  readonly runtimes: string[];
  readonly json: boolean;
  /** Null for the one-thread comparison. */
  readonly workers: number | null;
  readonly traces: boolean;
}

function wholeNumber(name: string, text: string, most: number): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1 && value <= most) return value;
  throw new Error(`--${name} takes a whole number from 1${most === Infinity ? '' : ` to ${String(most)}`}`);
}

function parseOptions(): Options | null {
  try {
    const { values } = parseArgs({
      options: {
        processes: { type: 'string', default: '7' },
        workers: { type: 'string' },
        traces: { type: 'boolean', default: false },
        node: { type: 'string', multiple: true, default: [process.execPath] },
        json: { type: 'boolean', default: false },
      },
    });
    if (values.traces && values.workers !== undefined) throw new Error('--traces takes no --workers');
    return {
      processes: wholeNumber('processes', values.processes, Infinity),
      runtimes: values.node,
      json: values.json,
      workers: values.workers === undefined ? null : wholeNumber('workers', values.workers, MAX_WORKERS),
      traces: values.traces,
    };
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${USAGE}\n`);
    return null;
  }
}

async function run(options: Options): Promise<string> {
  const { json, workers, traces, ...others } = options;
  const common = {
    ...others,
    onTurn: (turn: number): void => {
      if (process.stderr.isTTY)
        process.stderr.write(`process ${String(turn)} of ${String(options.processes)} of each\n`);
    },
  };
  if (traces) {
    const comparison = await compareTraces(common);
    return json ? JSON.stringify(comparison) : formatTraceComparison(comparison);
  }
  if (workers === null) {
    const comparison = compare(common);
    return json ? JSON.stringify(comparison) : formatComparison(comparison);
  }
  const comparison = compareWorkers({ ...common, workers });
  return json ? JSON.stringify(comparison) : formatWorkerComparison(comparison);
}

const options = parseOptions();
if (options === null) {
  process.exitCode = 2;
} else {
  try {
    process.stdout.write(`${await run(options)}\n`);
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  }
}
