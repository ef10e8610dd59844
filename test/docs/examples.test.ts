/** Every TypeScript example in the documentation and in doc comments compiles under our strictest settings, and runs. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import ts from 'typescript';
import { docExamples } from './doc-examples.ts';
import { compilerOptions, root } from './entry-points.ts';

// Inside the project, so that the package finds itself by name.
const scratch = join(root, 'dist', 'examples');

interface Example {
  readonly name: string;
  readonly source: string;
  readonly file: string;
}

function examples(): Example[] {
  const pages = ['README.md', ...readdirSync(join(root, 'docs')).map((name) => join('docs', name))];
  const inPages = pages
    .filter((page) => page.endsWith('.md'))
    .flatMap((page) =>
      [...readFileSync(join(root, page), 'utf8').matchAll(/^```ts\n(.*?)^```$/gms)].map((match, i) => ({
        name: `${page} example ${String(i + 1)}`,
        source: match[1]!,
      })),
    );
  return [...inPages, ...docExamples()].map(({ name, source }, i) => {
    const file = `${String(i)}-${name.replace(/\W+/g, '-')}.ts`;
    return { name, source, file: join(scratch, file) };
  });
}

function exampleOptions(): ts.CompilerOptions {
  return {
    ...compilerOptions(),
    noUnusedLocals: false,
    declaration: false,
    sourceMap: false,
    rootDir: scratch,
    outDir: scratch,
  };
}

test('examples in the documentation compile and run', async (t) => {
  rmSync(scratch, { recursive: true, force: true });
  mkdirSync(scratch, { recursive: true });
  const all = examples();
  assert.ok(all.length >= 40, `pages and doc comments have examples; found ${String(all.length)}`);
  for (const { file, source } of all) writeFileSync(file, source);
  try {
    const program = ts.createProgram(
      all.map(({ file }) => file),
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
    for (const { name, file } of all) {
      await t.test(name, () => {
        const { status, stderr } = spawnSync(process.execPath, [file.replace(/\.ts$/, '.js')], {
          cwd: root,
          encoding: 'utf8',
        });
        assert.equal(status, 0, stderr);
      });
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
});
