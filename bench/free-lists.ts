/**
 * Compares two structures for free blocks in fresh processes, in turns: why the pools use a linked list.
 *
 *     npm run bench:free-lists -- [--processes N] [--json] [RUNTIME]...
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { Sample } from '../src/cli/speed.ts';
import { table } from '../src/cli/style.ts';
import { pinning, runJsonLines, runtimeCommand, SampleBook, type Summary } from './processes.ts';

const FORMS = ['single', 'bulk32'] as const;
const STRUCTURES = ['list', 'stack'] as const;

export interface FreeListRow {
  readonly runtime: string;
  readonly structure: string;
  /** Nanoseconds of a pair in single calls, and in bulk calls of 32. */
  readonly single: Summary;
  readonly bulk32: Summary;
}

interface Line extends Record<(typeof FORMS)[number], Sample> {
  readonly runtime: string;
}

const { values, positionals } = parseArgs({
  options: { processes: { type: 'string', default: '8' }, json: { type: 'boolean', default: false } },
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

const rows: readonly FreeListRow[] = [...names].flatMap((runtime) =>
  STRUCTURES.map((structure) => ({
    runtime,
    structure,
    single: book.summary(`${runtime} ${structure} single`),
    bulk32: book.summary(`${runtime} ${structure} bulk32`),
  })),
);
if (values.json) {
  console.log(JSON.stringify(rows));
} else {
  const cells = rows.map(({ runtime, structure, single, bulk32 }) => [
    `${runtime}: ${structure}`,
    ...[single.best, single.median, bulk32.best, bulk32.median].map((ns) => ns.toFixed(2)),
  ]);
  const heading = ['ns a pair', 'single best', 'median', 'bulk 32 best', 'median'];
  process.stdout.write(`${table([heading, ...cells], { rule: true }).join('\n')}\n`);
}
