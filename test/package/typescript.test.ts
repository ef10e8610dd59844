/**
 * The packed package in projects of TypeScript: the least version and the two newest majors, as ES modules and CommonJS,
 * with each `moduleResolution` that the documents name.
 *
 * The other compilers come from npm, like the runtimes: `npm install --no-package-lock --prefix test/runtimes`.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { entryPoints, installPackage, root, scratchFolder } from './packed.ts';

const project = scratchFolder();
const runtimes = process.env['DMAPOOL_RUNTIMES'] ?? join(root, 'test', 'runtimes', 'node_modules');

interface Compiler {
  readonly major: string;
  readonly folder: string;
}

const COMPILERS: readonly Compiler[] = [
  { major: '5.7', folder: join(runtimes, 'typescript-5.7') },
  { major: '6', folder: join(root, 'node_modules', 'typescript') },
  { major: '7', folder: join(runtimes, 'typescript-7') },
];

/** A project, and the compilers that accept it. */
interface Setting {
  readonly name: string;
  readonly type: 'module' | 'commonjs';
  readonly options: Readonly<Record<string, unknown>>;
  readonly source: string;
  /** Compilers that refuse it, with their error. */
  readonly refused?: Readonly<Record<string, RegExp>>;
  /** True if Node runs the result; a bundler's result is not run. */
  readonly runs: boolean;
}

const ALL = entryPoints.map(({ specifier }, i) => `import * as entry${String(i)} from '${specifier}';`).join('\n');
const USE_ALL = `export const all = [${entryPoints.map((_, i) => `entry${String(i)}`).join(', ')}].length;\n`;
const POOL = `
  const device = new dmapool.Device({ name: 'eth0' });
  const pool = dmapool.DmaPool.create('rx', device, { size: 2048, align: 64 });
  const index: number = pool.alloc().index;
  if (index !== 0) throw new Error('not the first block');
`;
const STATIC = `import * as dmapool from 'dmapool';\n${ALL}\n${POOL}\n${USE_ALL}`;
const DYNAMIC = `async function main(): Promise<void> {\n  const dmapool = await import('dmapool');\n${POOL}}\nvoid main();\nexport {};\n`;

const SETTINGS: readonly Setting[] = [
  { name: 'NodeNext', type: 'module', options: { module: 'NodeNext' }, source: STATIC, runs: true },
  { name: 'Node16', type: 'module', options: { module: 'Node16' }, source: STATIC, runs: true },
  {
    name: 'Bundler',
    type: 'module',
    options: { module: 'ESNext', moduleResolution: 'Bundler' },
    source: STATIC,
    runs: false,
  },
  {
    name: 'NodeNext, import of an ES module',
    type: 'commonjs',
    options: { module: 'NodeNext' },
    source: STATIC,
    // Since 5.8.
    refused: { '5.7': /TS1479/ },
    runs: 'require_module' in process.features,
  },
  { name: 'Node16, await import()', type: 'commonjs', options: { module: 'Node16' }, source: DYNAMIC, runs: true },
];

before(() => {
  installPackage(project);
});

for (const { major, folder } of COMPILERS) {
  const skip = existsSync(folder) ? false : `TypeScript ${major} is not installed: see CONTRIBUTING.md`;
  for (const { name, type, options, source, refused = {}, runs } of SETTINGS) {
    test(`TypeScript ${major}, ${type}, ${name}`, { skip, timeout: 120_000 }, () => {
      const { version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { version: string };
      assert.ok(version.startsWith(`${major}.`), `the installed version is ${version}`);
      const consumer = join(project, `${major}-${type}-${name.replace(/\W+/g, '-')}`);
      mkdirSync(consumer);
      writeFileSync(join(consumer, 'package.json'), JSON.stringify({ private: true, type }));
      writeFileSync(join(consumer, 'main.ts'), source);
      const files = ['main.ts'];
      if (type === 'module') {
        for (const entry of ['dmapool', 'dmapool-trace', 'dmapool-wasm']) {
          copyFileSync(join(root, 'test', 'package', 'consumers', `${entry}.ts`), join(consumer, `${entry}.ts`));
          files.push(`${entry}.ts`);
        }
      }
      const compilerOptions = {
        ...{ target: 'ES2022', strict: true, skipLibCheck: false, exactOptionalPropertyTypes: true },
        ...{ types: ['node'], typeRoots: [join(root, 'node_modules', '@types')], rootDir: '.', outDir: 'out' },
        ...options,
      };
      writeFileSync(join(consumer, 'tsconfig.json'), JSON.stringify({ compilerOptions, files }));
      const tsc = spawnSync(process.execPath, [join(folder, 'bin', 'tsc'), '-p', consumer], { encoding: 'utf8' });
      const expected = refused[major];
      if (expected !== undefined) {
        assert.match(tsc.stdout, expected);
        return;
      }
      assert.equal(tsc.status, 0, tsc.stdout + tsc.stderr);
      if (!runs) return;
      const { status, stderr } = spawnSync(process.execPath, [join(consumer, 'out', 'main.js')], { encoding: 'utf8' });
      assert.equal(status, 0, stderr);
    });
  }
}
