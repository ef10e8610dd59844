/**
 * `npm run bench:report`: measures the whole matrix (forms, geometries, workers, runtimes, peers) and writes a page
 * with charts.
 *
 *     npm run bench:report -- [--processes N] [--workers N] [--node PATH]...
 *
 * Default runtimes: the current one, and those installed in test/runtimes.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { format, resolveConfig } from 'prettier';

import { compare } from './compare-one-thread.ts';
import { charts, type Measured, page, withTables } from './report-page.ts';
import { compareWorkers } from './compare-workers.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

function installedRuntimes(): string[] {
  const modules = join(ROOT, 'test', 'runtimes', 'node_modules');
  const found = [join(modules, 'node-26', 'bin', 'node'), join(modules, '.bin', 'bun'), join(modules, '.bin', 'deno')];
  return [process.execPath, ...found.filter((path) => existsSync(path))];
}

async function write(file: string, text: string): Promise<void> {
  const path = join(ROOT, file);
  writeFileSync(path, await format(text, { ...(await resolveConfig(path)), filepath: path }));
}

const { values } = parseArgs({
  options: {
    processes: { type: 'string', default: '5' },
    workers: { type: 'string', default: '2' },
    node: { type: 'string', multiple: true },
  },
});
const processes = Number(values.processes);
const runtimes = values.node ?? installedRuntimes();
const onTurn = (turn: number): void => {
  process.stderr.write(`process ${String(turn)} of ${String(processes)} of each\n`);
};
const measured: Measured = {
  machine: `${cpus()[0]?.model ?? 'unknown CPU'}, ${String(cpus().length)} processors, ${process.platform}`,
  date: new Date().toISOString().slice(0, 10),
  alone: compare({ processes, runtimes, onTurn }),
  together: compareWorkers({ processes, runtimes, workers: Number(values.workers), onTurn }),
};
const folder = join(ROOT, 'docs', 'benchmarks');
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
for (const { file, svg } of charts(measured)) writeFileSync(join(folder, file), svg);
await write('docs/benchmarks.md', page(measured));
await write('README.md', withTables(readFileSync(join(ROOT, 'README.md'), 'utf8'), measured));
process.stdout.write('wrote docs/benchmarks.md, docs/benchmarks/ and the table of README.md\n');
