/**
 * `npm run bench:opening`: what it costs to make a pool, a page and a block object. Runs the program in fresh processes
 * and prints the best and the median of each figure and the best of its floor, in nanoseconds.
 *
 *     npm run bench:opening -- [--processes N] [--node PATH] [--json]
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { median } from '../src/cli/speed.ts';
import { table } from '../src/cli/style.ts';
import type { OpeningLine } from './ours/opening.ts';
import { runJsonLines } from './processes.ts';

const PROGRAM = fileURLToPath(new URL('ours/opening.js', import.meta.url));

const { values } = parseArgs({
  options: {
    processes: { type: 'string', default: '5' },
    node: { type: 'string', default: process.execPath },
    json: { type: 'boolean', default: false },
  },
});
const processes = Number(values.processes);
if (!(Number.isInteger(processes) && processes > 0 && processes <= 100)) throw new Error('--processes takes 1 to 100');

const lines = Array.from({ length: processes }, () => runJsonLines([], [values.node, PROGRAM]) as OpeningLine[]);
const results = lines[0]!.map(({ name }, i) => ({
  name,
  best: Math.min(...lines.map((line) => line[i]!.best)),
  median: median(lines.map((line) => line[i]!.median)),
  floor: Math.min(...lines.map((line) => line[i]!.floor)),
}));
if (values.json) {
  console.log(JSON.stringify(results));
} else {
  const rows = results.map(({ name, ...figures }) => [
    name,
    ...[figures.best, figures.median, figures.floor].map((ns) => ns.toFixed(0)),
  ]);
  console.log(table([['ns', 'best', 'median', 'floor'], ...rows], { rule: true }).join('\n'));
}
