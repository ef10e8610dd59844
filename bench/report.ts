/**
 * `npm run bench:report`: measures the whole matrix (forms, geometries, workers, runtimes, peers), recordings, making and
 * drivers, and writes a page with charts.
 *
 *     npm run bench:report -- [--processes N] [--workers N] [--node PATH]...
 *
 * Default runtimes: the current one, and those installed in test/runtimes.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { format, resolveConfig } from 'prettier';

import { compare } from './compare-one-thread.ts';
import { charts, type Measured, page, withTables } from './report-page.ts';
import { compareTraces } from './compare-traces.ts';
import { compareWorkers } from './compare-workers.ts';
import type { FreeListRow } from './free-lists.ts';
import type { OpeningLine } from './ours/opening.ts';
import { runJsonLines } from './processes.ts';
import type { DriverRow } from './report-sections.ts';
import type { ZeroingRow } from './zeroing.ts';

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
/** Versions of Node; the other runtimes have no part in what follows the matrix. */
const nodes = runtimes.filter((path) => basename(path) === 'node');
const names = (path: string): string => `Node ${spawnSync(path, ['--version'], { encoding: 'utf8' }).stdout.trim()}`;
const script = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
const count = String(processes);

const measured: Measured = {
  machine: `${cpus()[0]?.model ?? 'unknown CPU'}, ${String(cpus().length)} processors, ${process.platform}`,
  date: new Date().toISOString().slice(0, 10),
  alone: compare({ processes, runtimes, onTurn }),
  together: compareWorkers({ processes, runtimes, workers: Number(values.workers), onTurn }),
  more: {
    lone: compareWorkers({ processes, runtimes: nodes, workers: 1, onTurn }),
    crowds: [4, 8, 16].map((workers) => compareWorkers({ processes, runtimes: nodes.slice(0, 1), workers, onTurn })),
    traces: await compareTraces({ processes, runtimes: nodes, onTurn }),
    opening: nodes.map((path) => ({
      runtime: names(path),
      lines: runJsonLines(
        [],
        [process.execPath, script('opening.js'), '--json', '--processes', count, '--node', path],
      )[0] as OpeningLine[],
    })),
    zeroing: nodes.map((path) => ({
      runtime: names(path),
      rows: runJsonLines([], [path, script('zeroing.js'), '--json', '1'])[0] as ZeroingRow[],
    })),
    freeLists: runJsonLines(
      [],
      [process.execPath, script('free-lists.js'), '--json', '--processes', count, ...nodes],
    )[0] as FreeListRow[],
    drivers: runJsonLines(
      [],
      [process.execPath, script('driver/driver.js'), '--json', '--rounds', count],
    )[0] as DriverRow[],
  },
};
const folder = join(ROOT, 'docs', 'benchmarks');
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
for (const { file, svg } of charts(measured)) writeFileSync(join(folder, file), svg);
await write('docs/benchmarks.md', page(measured, names));
await write('README.md', withTables(readFileSync(join(ROOT, 'README.md'), 'utf8'), measured));
process.stdout.write('wrote docs/benchmarks.md, docs/benchmarks/ and the table of README.md\n');
