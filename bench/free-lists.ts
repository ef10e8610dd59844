/**
 * Compares two structures for free blocks in fresh processes, in turns: why the pools use a linked list.
 *
 *     node dist/bench/free-lists.js [--processes N] [RUNTIME]...
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { Sample } from '../src/cli/speed.ts';
import { table } from '../src/cli/style.ts';
import { pinning, runJsonLines, runtimeCommand, SampleBook } from './processes.ts';

const FORMS = ['single', 'bulk32'] as const;
const STRUCTURES = ['list', 'stack'] as const;

interface Line extends Record<(typeof FORMS)[number], Sample> {
  readonly runtime: string;
}

const { values, positionals } = parseArgs({
  options: { processes: { type: 'string', default: '8' } },
  allowPositionals: true,
});
const program = fileURLToPath(new URL('peers/free-lists.js', import.meta.url));
const runtimes = positionals.length > 0 ? positionals : [process.execPath];
const prefix = pinning();
const names = new Set<string>();
const book = new SampleBook();

for (let turn = 0; turn < Number(values.processes); turn++) {
  for (const runtime of runtimes) {
    for (const [i, structure] of STRUCTURES.entries()) {
      const [line] = runJsonLines(prefix, [...runtimeCommand(runtime), program, '--stack', String(i)]) as [Line];
      names.add(line.runtime);
      for (const form of FORMS) book.add(`${line.runtime} ${structure} ${form}`, line[form]);
    }
  }
}

const rows = [...names].flatMap((runtime) =>
  STRUCTURES.map((structure) => [
    `${runtime}: ${structure}`,
    ...FORMS.flatMap((form) => {
      const { best, median } = book.summary(`${runtime} ${structure} ${form}`);
      return [best.toFixed(2), median.toFixed(2)];
    }),
  ]),
);
const heading = ['ns a pair', 'single best', 'median', 'bulk 32 best', 'median'];
process.stdout.write(`${table([heading, ...rows], { rule: true }).join('\n')}\n`);
