/**
 * The packed package in an empty project: installed without a network, every entry point used in JavaScript and in
 * TypeScript, and the command run.
 *
 * `consumers/` has a program for each entry point, which is compiled there again; an entry point without one is only
 * imported.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { before, test } from 'node:test';
import { runsAnywhere } from './bundle.ts';
import { assertPrinted } from '../docs/printed.ts';
import { EXAMPLE_PROGRAMS, generalOutput } from '../support/examples.ts';
import { type EntryPoint, entryPoints, installPackage, manifest, root, scratchFolder } from './packed.ts';

const project = scratchFolder();
const trace = join(root, 'traces', '6.1', 'e100.trace.gz');

before(() => {
  installPackage(project);
});

/** Runs a program in the project; returns its output. */
function node(...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: project, encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  return stdout;
}

function programOf({ fileName }: EntryPoint, end: '.js' | '.ts'): string | null {
  const folder = end === '.js' ? join(root, 'dist', 'test') : join(root, 'test');
  const file = join(folder, 'package', 'consumers', fileName + end);
  return existsSync(file) ? file : null;
}

test('only the dependencies that package.json declares were installed', () => {
  const listed = execFileSync('npm', ['ls', '--all', '--json', '--offline'], { cwd: project, encoding: 'utf8' });
  interface Listed {
    readonly version?: string;
    readonly dependencies?: Readonly<Record<string, Listed>>;
  }
  const { dependencies } = JSON.parse(listed) as Listed;
  const below = Object.entries(dependencies?.[manifest.name]?.dependencies ?? {});
  // A missing optional peer is listed too, without a version.
  const installed = below.filter(([, { version }]) => version !== undefined).map(([name]) => name);
  assert.deepEqual(installed, Object.keys(manifest.dependencies ?? {}));
});

for (const entry of entryPoints) {
  const { specifier, fileName } = entry;

  test(`${specifier} in JavaScript`, async () => {
    const names = JSON.parse(
      node('-e', `import(${JSON.stringify(specifier)}).then((all) => console.log(JSON.stringify(Object.keys(all))))`),
    ) as string[];
    // In this project the package resolves itself by name.
    assert.deepEqual(names, Object.keys((await import(specifier)) as object));
    const program = programOf(entry, '.js');
    if (program === null) return;
    copyFileSync(program, join(project, `${fileName}.js`));
    node(`${fileName}.js`, trace);
  });

  test(
    `${specifier} from CommonJS`,
    { skip: 'require_module' in process.features ? false : 'this version of Node cannot require ES modules' },
    () => {
      node('--input-type=commonjs', '-e', `require(${JSON.stringify(specifier)})`);
    },
  );
}

test('the README’s first program runs in plain Node, and prints what the README says', () => {
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  const { source, output } = /^```ts\n(?<source>.*?)^```\n\n<!-- output -->\n\n```text\n(?<output>.*?)^```$/ms.exec(
    readme,
  )!.groups!;
  writeFileSync(join(project, 'first.mjs'), source!);
  assertPrinted(node('first.mjs'), output!);
});

for (const { name, output } of EXAMPLE_PROGRAMS) {
  // Needs a file system with O_DIRECT; test/examples looks for one.
  if (name === 'direct-io') continue;
  test(`the example ${name} runs from the package`, () => {
    assertPrinted(generalOutput(node(join('node_modules', manifest.name, 'dist', 'examples', `${name}.js`))), output);
  });
}

test('the demo runs with nothing else installed', () => {
  const out = execFileSync(join(project, 'node_modules', '.bin', 'dmapool'), ['demo'], {
    cwd: project,
    encoding: 'utf8',
  });
  assert.match(out, /^5\. A leak: /m);
  assert.match(out, /node node_modules\/dmapool\/dist\/examples\/first-pool\.js /);
});

test('an undeclared path cannot be imported', () => {
  const { stderr } = spawnSync(process.execPath, ['-e', `import('${manifest.name}/dist/src/dma-pool.js')`], {
    cwd: project,
    encoding: 'utf8',
  });
  assert.match(stderr, /ERR_PACKAGE_PATH_NOT_EXPORTED/);
});

const strict = { strict: true, exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true, skipLibCheck: false };
const projects: Readonly<Record<string, object>> = {
  'Node’s resolution': { module: 'NodeNext', target: 'ES2022', types: ['node'] },
  'a bundler’s resolution, for browsers': {
    module: 'ESNext',
    moduleResolution: 'Bundler',
    target: 'ES2022',
    lib: ['ES2022', 'DOM'],
    types: [],
  },
};

for (const [name, options] of Object.entries(projects)) {
  test(`every entry point in TypeScript, with ${name}`, async () => {
    const folder = join(project, name.replace(/\W+/g, '-'));
    mkdirSync(folder, { recursive: true });
    const forBrowsers = JSON.stringify(options).includes('DOM');
    const files: string[] = [];
    for (const entry of entryPoints) {
      if (forBrowsers && !(await runsAnywhere(entry))) continue;
      const file = `${entry.fileName}.ts`;
      const program = programOf(entry, '.ts');
      if (program !== null) copyFileSync(program, join(folder, file));
      else writeFileSync(join(folder, file), `import * as all from '${entry.specifier}';\nexport { all };\n`);
      files.push(file);
    }
    const typeRoots = [join(root, 'node_modules', '@types')];
    const compilerOptions = { ...strict, ...options, typeRoots, rootDir: '.', outDir: 'out' };
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files }));
    const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
    const { status, stdout } = spawnSync(process.execPath, [tsc, '-p', folder], { cwd: project, encoding: 'utf8' });
    assert.equal(status, 0, stdout);
    if (forBrowsers) return;
    for (const file of files) node(join(folder, 'out', file.replace(/\.ts$/, '.js')), trace);
  });
}

test('the command runs from the project’s bin folder', () => {
  const [command] = Object.keys(manifest.bin);
  const run = (...args: string[]): string =>
    execFileSync(join(project, 'node_modules', '.bin', command!), args, { cwd: project, encoding: 'utf8' });
  assert.equal(run('--version').trim(), manifest.version);
  assert.match(run('layout', '--size', '96', '--align', '32', '--boundary', '4096'), /42/);
  assert.match(run('replay', trace), /no difference/);
  // The project's folder is not needed.
  assert.ok(!existsSync(join(dirname(project), 'dist')));
});
