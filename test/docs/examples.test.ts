/**
 * Every TypeScript example in the documentation and in doc comments compiles under the strictest settings, and runs, on
 * this version of Node and on the newest.
 *
 * The output in the documents is checked too: the `text` block below a line `<!-- output -->` is the output of the
 * example before it, and a block below `<!-- output: dmapool ... -->` is the output of that command. A line `...` in it
 * stands for any lines. (The output of other commands, such as `npm start`, has times in it.)
 *
 * A program below `<!-- file: NAME -->` needs a machine of its own and is only compiled here; vm-guides.test.ts
 * runs it there.
 *
 * A block below `<!-- from: FILE -->` is a part of that example. The parts on a page are the whole file, in its order.
 * The build compiles it, and test/examples runs it.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import ts from 'typescript';
import { withoutQemu } from '../qemu/qemu.ts';
import { docExamples } from './doc-examples.ts';
import { compilerOptions, root } from './entry-points.ts';
import { assertPrinted } from './printed.ts';

// Inside the project, so that the package resolves itself by name.
const scratch = join(root, 'dist', 'doc-examples');

interface Example {
  readonly name: string;
  readonly source: string;
  readonly file: string;
  /** False: it needs another machine. */
  readonly runs: boolean;
  /** Its output, if the page shows it. */
  readonly output: string | null;
}

/** A command of a page, and its output there. */
interface Command {
  readonly page: string;
  readonly args: readonly string[];
  readonly output: string;
}

const BLOCKS =
  /^(?<saved><!-- file: \S+ -->\n\n)?(?:<!-- from: (?<from>\S+) -->\n\n)?```ts\n(?<source>.*?)^```$|^<!-- output(?:: (?<command>.+?))? -->\n\n```text\n(?<output>.*?)^```$/gms;

const pages = ['README.md', ...readdirSync(join(root, 'docs')).map((name) => join('docs', name))].filter((page) =>
  page.endsWith('.md'),
);
const examples: Example[] = [];
const commands: Command[] = [];
/** Parts of files, by the name of their test. */
const quoted = new Map<string, { readonly file: string; readonly parts: readonly string[] }>();

for (const page of pages) {
  let count = 0;
  for (const { groups } of readFileSync(join(root, page), 'utf8').matchAll(BLOCKS)) {
    const { saved, from, source, command, output } = groups as Record<string, string | undefined>;
    if (from !== undefined) {
      const key = `${page} has all of ${from}`;
      quoted.set(key, { file: from, parts: [...(quoted.get(key)?.parts ?? []), source!] });
    } else if (source !== undefined) {
      add(`${page} example ${String(++count)}`, source, saved === undefined);
    } else if (command === undefined) {
      const last = examples.pop();
      assert.ok(last !== undefined, `${page}: an output without its example`);
      assert.ok(last.name.startsWith(page) && last.output === null, `${page}: an output without its example`);
      examples.push({ ...last, output: output! });
    } else if (command.startsWith('dmapool ')) {
      commands.push({ page, args: command.split(' ').slice(1), output: output! });
    }
  }
}
for (const { name, source } of docExamples()) add(name, source);

function add(name: string, source: string, runs = true): void {
  const file = `${String(examples.length)}-${name.replace(/\W+/g, '-')}.ts`;
  examples.push({ name, source, file: join(scratch, file), runs, output: null });
}

function exampleOptions(): ts.CompilerOptions {
  return {
    ...compilerOptions(),
    noUnusedLocals: false,
    declaration: false,
    rootDir: scratch,
    outDir: scratch,
  };
}

/** The newest Node, if it is installed beside this one: see test/runtimes. */
const newest = join(
  process.env['DMAPOOL_RUNTIMES'] ?? join(root, 'test', 'runtimes', 'node_modules'),
  ...['node-26', 'bin', 'node'],
);

/** Runs Node on `args` and returns its complete output, in order. */
function run(args: readonly string[], node: string = process.execPath): string {
  const env = { ...process.env };
  delete env['DMAPOOL_DEBUG'];
  const { status, stdout } = spawnSync('/bin/sh', ['-c', '"$0" "$@" 2>&1', node, ...args], {
    cwd: root,
    encoding: 'utf8',
    env,
    timeout: 60_000,
  });
  assert.equal(status, 0, stdout);
  return stdout;
}

/** Replaces the names of scratch files by those that a reader would use. */
function generalise(printed: string): string {
  return printed.replace(/(?:file:\/\/)?\/\S*\/dist\/doc-examples\/[^\s:]+\.[jt]s/g, 'driver.ts');
}

test('examples in the documentation and in doc comments compile and run', async (t) => {
  rmSync(scratch, { recursive: true, force: true });
  mkdirSync(scratch, { recursive: true });
  assert.ok(examples.length >= 40, `pages and doc comments have examples; found ${String(examples.length)}`);
  for (const { file, source } of examples) writeFileSync(file, source);
  try {
    const program = ts.createProgram(
      examples.map(({ file }) => file),
      exampleOptions(),
    );
    const diagnostics = [...ts.getPreEmitDiagnostics(program), ...program.emit().diagnostics];
    assert.equal(
      ts.formatDiagnostics(diagnostics, {
        getCanonicalFileName: (name) => name,
        getCurrentDirectory: () => dirname(scratch),
        getNewLine: () => '\n',
      }),
      '',
    );
    for (const { name, file, source, runs, output } of examples) {
      if (!runs) continue;
      // Always compiled; run only where QEMU is installed.
      const skip = process.env['DMAPOOL_REQUIRE_TOOLS'] !== '1' && source.includes("'dmapool/qemu'") && withoutQemu;
      await t.test(name, { skip }, () => {
        const printed = run(['--enable-source-maps', file.replace(/\.ts$/, '.js')]);
        if (output !== null) assertPrinted(generalise(printed), output);
      });
      const absent = existsSync(newest) ? skip : `Node 26 is not installed: see test/runtimes`;
      await t.test(`${name}, on Node 26`, { skip: absent }, () => {
        const printed = run(['--enable-source-maps', file.replace(/\.ts$/, '.js')], newest);
        if (output !== null) assertPrinted(generalise(printed), output);
      });
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
});

for (const { page, args, output } of commands) {
  test(`${page} shows what dmapool ${args.join(' ')} prints`, () => {
    assertPrinted(run([join(root, 'bin', 'dmapool.js'), ...args]), output);
  });
}

for (const [name, { file, parts }] of quoted) {
  test(name, () => {
    // One blank line separates the parts.
    assert.equal(parts.join('\n'), readFileSync(join(root, file), 'utf8'));
  });
}
