/**
 * `npm run bench:io`: a server with blocks of a pool as its buffers, beside the buffers of Node.
 *
 *     npm run bench:io -- [--chunks N] [--runs N] [--json]
 */
import { parseArgs } from 'node:util';

import { compareIo, formatIo, type IoOptions } from './io/compare.ts';

const USAGE = 'usage: npm run bench:io -- [--chunks N] [--runs N] [--json]';

function parseOptions(): (IoOptions & { readonly json: boolean }) | null {
  try {
    const { values } = parseArgs({
      options: {
        chunks: { type: 'string', default: '100000' },
        runs: { type: 'string', default: '9' },
        json: { type: 'boolean', default: false },
      },
    });
    const whole = (name: 'chunks' | 'runs'): number => {
      const value = Number(values[name]);
      if (!Number.isInteger(value) || value < 1) throw new Error(`--${name} takes a whole number from 1`);
      return value;
    };
    return { chunks: whole('chunks'), runs: whole('runs'), json: values.json };
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${USAGE}\n`);
    return null;
  }
}

const options = parseOptions();
if (options === null) {
  process.exitCode = 2;
} else {
  const { json, ...rest } = options;
  const onRun = (run: number, contender: string): void => {
    if (process.stderr.isTTY) process.stderr.write(`run ${String(run)} of ${String(rest.runs)}: ${contender}\n`);
  };
  const comparison = await compareIo({ ...rest, onRun });
  process.stdout.write(`${json ? JSON.stringify(comparison) : formatIo(comparison)}\n`);
}
