/** Every TypeScript example in the documentation compiles under our strictest settings, and runs. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { withoutQemu } from '../qemu/qemu.ts';

const root = fileURLToPath(new URL('../../../', import.meta.url));
// Inside the project, so that the package finds itself by name.
const scratch = join(root, 'dist', 'examples');

interface Example {
  readonly name: string;
  readonly source: string;
  readonly file: string;
}

function examples(): Example[] {
  const pages = ['README.md', ...readdirSync(join(root, 'docs')).map((name) => join('docs', name))];
  return pages
    .filter((page) => page.endsWith('.md'))
    .flatMap((page) =>
      [...readFileSync(join(root, page), 'utf8').matchAll(/^```ts\n(.*?)^```$/gms)].map((match, i) => {
        const name = `${page} example ${String(i + 1)}`;
        return { name, source: match[1]!, file: join(scratch, `${name.replace(/\W+/g, '-')}.ts`) };
      }),
    );
}

function compilerOptions(): ts.CompilerOptions {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), (path) => ts.sys.readFile(path)) as {
    config: { compilerOptions: Record<string, unknown> };
  };
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, root);
  return { ...options, noUnusedLocals: false, declaration: false, sourceMap: false, rootDir: scratch, outDir: scratch };
}

test('examples in the documentation compile and run', async (t) => {
  rmSync(scratch, { recursive: true, force: true });
  mkdirSync(scratch, { recursive: true });
  const all = examples();
  assert.ok(all.length >= 5, 'the README has examples');
  for (const { file, source } of all) writeFileSync(file, source);
  try {
    const program = ts.createProgram(
      all.map(({ file }) => file),
      compilerOptions(),
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
    for (const { name, file, source } of all) {
      const skip = process.env['DMAPOOL_REQUIRE_TOOLS'] !== '1' && source.includes("'dmapool/qemu'") && withoutQemu;
      await t.test(name, { skip }, () => {
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
