/**
 * `npm run bench`: dmapool against its peers; with `--workers N`, N workers on one pool against as many threads.
 *
 *     npm run bench -- [--workers N] [--processes N] [--node PATH]... [--json]
 */
import { parseArgs } from 'node:util';

import { compare, formatComparison } from './compare-one-thread.ts';
import { compareWorkers, formatWorkerComparison, MAX_WORKERS } from './compare-workers.ts';

const USAGE = 'usage: npm run bench -- [--workers N] [--processes N] [--node PATH]... [--json]';

interface Options {
  readonly processes: number;
  readonly runtimes: string[];
  readonly json: boolean;
  /** Null for the one-thread comparison. */
  readonly workers: number | null;
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
        node: { type: 'string', multiple: true, default: [process.execPath] },
        json: { type: 'boolean', default: false },
      },
    });
    return {
      processes: wholeNumber('processes', values.processes, Infinity),
      runtimes: values.node,
      json: values.json,
      workers: values.workers === undefined ? null : wholeNumber('workers', values.workers, MAX_WORKERS),
    };
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${USAGE}\n`);
    return null;
  }
}

function run(options: Options): string {
  const { json, workers, ...others } = options;
  const common = {
    ...others,
    onTurn: (turn: number): void => {
      if (process.stderr.isTTY)
        process.stderr.write(`process ${String(turn)} of ${String(options.processes)} of each\n`);
    },
  };
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
    process.stdout.write(`${run(options)}\n`);
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  }
}
