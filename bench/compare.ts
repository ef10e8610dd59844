/**
 * `npm run bench`: dmapool against its peers.
 *
 *     npm run bench -- [--processes N] [--node PATH]... [--json]
 */
import { parseArgs } from 'node:util';

import { compare } from './comparison.ts';
import { formatComparison } from './format-comparison.ts';

const USAGE = 'usage: npm run bench -- [--processes N] [--node PATH]... [--json]';

function parseOptions(): { processes: number; runtimes: string[]; json: boolean } | null {
  try {
    const { values } = parseArgs({
      options: {
        processes: { type: 'string', default: '7' },
        node: { type: 'string', multiple: true, default: [process.execPath] },
        json: { type: 'boolean', default: false },
      },
    });
    const processes = Number(values.processes);
    if (!Number.isInteger(processes) || processes < 1) throw new Error('--processes takes a whole number from 1');
    return { processes, runtimes: values.node, json: values.json };
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${USAGE}\n`);
    return null;
  }
}

const options = parseOptions();
if (options === null) {
  process.exitCode = 2;
} else {
  try {
    const comparison = compare({
      ...options,
      onTurn: (turn) => {
        if (process.stderr.isTTY)
          process.stderr.write(`process ${String(turn)} of ${String(options.processes)} of each\n`);
      },
    });
    process.stdout.write(`${options.json ? JSON.stringify(comparison) : formatComparison(comparison)}\n`);
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  }
}
