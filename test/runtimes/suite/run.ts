/**
 * The tests of one runtime: each runs the same compiled modules in a process of that runtime.
 *
 * The runtimes come from npm, separate from the other tools, since the package `node` would replace the `node` of every
 * npm script: `npm install --no-package-lock --prefix test/runtimes`. DMAPOOL_RUNTIMES names another folder that has
 * them.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { runsAnywhere } from '../../package/bundle.ts';
import { entryPoints, root } from '../../package/packed.ts';
import { assertPrinted } from '../../docs/printed.ts';
import { directIoFolder, withoutDirectIo } from '../../support/direct-io.ts';
import { EXAMPLE_PROGRAMS, generalOutput } from '../../support/examples.ts';
import type { Outcome } from './check.ts';
import type { Entry } from './entries.ts';
import type { Task } from './program.ts';

/** A runtime that is a command. */
export interface Runtime {
  readonly name: string;
  /** The command, relative to the folder of installed packages. */
  readonly command: string;
  /** Arguments before the program: its permissions. Default: none. */
  readonly args?: readonly string[];
  /** True if it has Web Workers, beside node:worker_threads. */
  readonly webWorkers: boolean;
  /** True if it runs TypeScript without a build. */
  readonly typescript: boolean;
}

const folder = process.env['DMAPOOL_RUNTIMES'] ?? join(root, 'test', 'runtimes', 'node_modules');
const suite = fileURLToPath(new URL('.', import.meta.url));

/** Reports the result of each check as a separate test. */
export async function reportOutcomes(t: TestContext, outcomes: readonly Outcome[]): Promise<void> {
  assert.ok(outcomes.length > 0);
  for (const { name, error } of outcomes) {
    await t.test(name, () => {
      assert.equal(error, null, error ?? '');
    });
  }
}

/** Every entry point, or those that use nothing of Node's, with its module's address under `base`. */
export async function entriesAt(base: URL, which: 'all' | 'anywhere'): Promise<Entry[]> {
  const entries: Entry[] = [];
  for (const entry of entryPoints) {
    // A driver imports the package by its name, which takes a bundler or an import map to resolve.
    const byName = entry.specifier.includes('/drivers/');
    if (which === 'anywhere' && (byName || !(await runsAnywhere(entry)))) continue;
    const names = Object.keys((await import(entry.specifier)) as object).sort();
    entries.push({ specifier: entry.specifier, url: new URL(entry.module, base).href, names });
  }
  return entries;
}

/** Runs a program in the runtime; returns its output. */
async function runIn(
  runtime: Runtime,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<{ stdout: string; stderr: string }> {
  const command = join(folder, runtime.command);
  const options = { cwd: root, timeout: 60_000, env: { ...process.env, ...env } };
  return promisify(execFile)(command, [...(runtime.args ?? []), ...args], options);
}

/** Runs a part of the suite. */
export async function runPart(runtime: Runtime, task: Task): Promise<Outcome[]> {
  const { stdout } = await runIn(runtime, [join(suite, 'program.js'), JSON.stringify(task)]);
  return JSON.parse(stdout) as Outcome[];
}

/** The reason why the tests of a runtime are skipped; false if they are not. */
export function missing(runtime: Runtime): string | false {
  if (existsSync(join(folder, runtime.command))) return false;
  return `${runtime.name} is not installed: npm install --no-package-lock --prefix test/runtimes`;
}

/** Registers the tests. */
export function testRuntime(runtime: Runtime): void {
  const { name } = runtime;
  const options = { skip: missing(runtime), timeout: 120_000 };

  test(`${name}: a pool of one thread`, options, async (t) => {
    await reportOutcomes(t, await runPart(runtime, { part: 'core' }));
  });

  test(`${name}: a pool of several threads`, options, async (t) => {
    await reportOutcomes(t, await runPart(runtime, { part: 'threads' }));
  });

  if (runtime.webWorkers) {
    test(`${name}: a pool of several Web Workers`, options, async (t) => {
      await reportOutcomes(t, await runPart(runtime, { part: 'web workers' }));
    });
  }

  test(`${name}: every entry point`, options, async (t) => {
    const entries = await entriesAt(pathToFileURL(root), 'all');
    await reportOutcomes(t, await runPart(runtime, { part: 'entry points', entries }));
  });

  for (const { name: example, output, runsIn } of EXAMPLE_PROGRAMS) {
    if (runsIn === 'Node only' && !name.startsWith('Node')) continue;
    const place = example === 'direct-io' ? directIoFolder() : null;
    const skip = options.skip === false && example === 'direct-io' ? withoutDirectIo(place) : options.skip;
    test(`${name}: examples/${example}`, { ...options, skip }, async () => {
      const { stdout } = await runIn(runtime, [`dist/examples/${example}.js`, ...(place === null ? [] : [place])]);
      assertPrinted(generalOutput(stdout), output);
    });
  }

  test(`${name}: leaks are reported when the process ends`, options, async () => {
    const { stderr } = await runIn(runtime, [join(suite, 'leaking.js')], { DMAPOOL_DEBUG: '1' });
    assert.match(stderr, /nic: rx: at exit 2 still out:\n {2}2 allocated at .*leaking\.[jt]s:\d+/);
  });

  test(`${name}: the command`, options, async () => {
    const { stdout } = await runIn(runtime, ['bin/dmapool.js', 'replay', 'traces/6.1/e100.trace.gz', '--repeat', '1']);
    assert.match(stdout, /e100\.trace\.gz +40 +18 +0 +2 +2\n/);
  });

  if (runtime.typescript) {
    test(`${name}: the sources without a build`, options, async () => {
      const { stdout } = await runIn(runtime, ['test/runtimes/suite/sources.ts']);
      assert.equal(stdout, '42 blocks a page\n');
      const example = await runIn(runtime, ['examples/first-pool.ts']);
      assertPrinted(example.stdout, EXAMPLE_PROGRAMS.find((each) => each.name === 'first-pool')!.output);
    });
  }
}
