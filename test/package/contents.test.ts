/** The package contains everything that users need, and nothing else. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, existsSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { test } from 'node:test';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { entryPoints, manifest, pack, readManifest, root, scratchFolder, unpack } from './packed.ts';

const scratch = scratchFolder();
const tarball = pack(root, scratch);
const folder = unpack(tarball, scratch);
const files: readonly string[] = filesIn(folder);

function filesIn(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)))
    .sort();
}

test('the package has the sources, the compiled files, the documentation and the command', () => {
  const sources = ['src', 'drivers', 'examples'].flatMap((of) =>
    filesIn(join(root, of))
      .filter((file) => file.endsWith('.ts'))
      .map((file) => `${of}/${file}`),
  );
  const compiled = sources
    .filter((file) => !file.startsWith('src/observe/page/'))
    .flatMap((file) => ['.d.ts', '.js', '.js.map'].map((end) => `dist/${file.slice(0, -3)}${end}`));
  // The page of `dmapool web` is bundled.
  const page = ['chart.css', 'main.js'].map((file) => `dist/src/observe/page/${file}`);
  // The reference is built from the doc comments, which the declarations have too.
  const guides = filesIn(join(root, 'docs')).filter((file) => !file.startsWith('reference/'));
  const documents = guides.map((file) => `docs/${file}`);
  // What `dmapool replay` replays without a file.
  const trace = ['traces/6.12/xhci.pools.txt', 'traces/6.12/xhci.trace.gz'];
  const others = [
    ...['ARCHITECTURE.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'README.md', 'SECURITY.md'],
    ...['LICENSE', 'package.json'],
  ];
  const expected = [
    ...sources,
    ...compiled,
    ...page,
    ...documents,
    ...trace,
    ...others,
    ...Object.values(manifest.bin).map(plain),
  ];
  const hint = 'if a source was deleted or renamed, its compiled files are still in dist: npm run clean';
  assert.deepEqual([...files], expected.sort(), hint);
  for (const file of files) assert.doesNotMatch(file, /(^|\/)(test|node_modules)\/|\.test\.|\.tgz$/);
});

function plain(path: string): string {
  return path.replace(/^\.\//, '');
}

test('the bundled page has the licence of the library in it', () => {
  for (const file of ['chart.css', 'main.js']) {
    const text = readFileSync(join(folder, 'dist/src/observe/page', file), 'utf8');
    assert.match(text, /^\/\*! uPlot\n\nThe MIT License[^]*Leon Sorokin[^]*WITHOUT WARRANTY OF ANY KIND/, file);
  }
});

test('no script runs when the package is installed', () => {
  const { scripts = {} } = readManifest(folder);
  // With these npm runs code of the package on the user's machine: at the installation, or for a dependency from git.
  for (const name of ['preinstall', 'install', 'postinstall', 'preprepare', 'prepare', 'postprepare']) {
    assert.equal(scripts[name], undefined, name);
  }
});

test('links in the documents of the package resolve within it', () => {
  const broken: string[] = [];
  for (const file of files.filter((name) => name.endsWith('.md'))) {
    const prose = readFileSync(join(folder, file), 'utf8').replace(/^```.*?^```$/gms, '');
    for (const [, link] of prose.matchAll(/\]\(([^()\s]+)\)/g)) {
      const path = link!.split('#')[0]!;
      if (path === '' || /^[a-z]+:/.test(path)) continue;
      if (!existsSync(join(folder, dirname(file), decodeURI(path)))) broken.push(`${file}: ${link!}`);
    }
  }
  assert.deepEqual(broken, []);
});

test('every entry point and the command exist', () => {
  for (const { specifier, module, types } of entryPoints) {
    assert.ok(files.includes(plain(module)), `${specifier}: ${module}`);
    assert.ok(files.includes(plain(types)), `${specifier}: ${types}`);
  }
});

test('every source map refers to a source in the package', () => {
  const maps = files.filter((file) => file.endsWith('.map'));
  assert.ok(maps.length > 0);
  for (const map of maps) {
    const { sources } = JSON.parse(readFileSync(join(folder, map), 'utf8')) as { sources: string[] };
    for (const source of sources) assert.ok(existsSync(join(folder, dirname(map), source)), `${map}: ${source}`);
  }
  for (const file of files.filter((name) => /\.(js|d\.ts)$/.test(name))) {
    const text = readFileSync(join(folder, file), 'utf8');
    for (const [, url] of text.matchAll(/^\/\/# sourceMappingURL=(.*)$/gm)) {
      assert.ok(existsSync(join(folder, dirname(file), url!)), `${file}: ${url!}`);
    }
  }
});

test('publint reports nothing', async () => {
  const packed = readFileSync(tarball);
  const { messages, pkg } = await publint({
    pack: { tarball: packed.buffer.slice(packed.byteOffset, packed.byteOffset + packed.byteLength) },
    strict: true,
  });
  assert.deepEqual(
    messages.map((message) => formatMessage(message, pkg)),
    [],
  );
});

/** A problem that attw reports, and its place if there is one. */
interface TypesProblem {
  readonly resolutionKind?: string;
  readonly resolutionOption?: string;
}

test('attw reports no problem with the types', () => {
  // ES modules only: resolution from CommonJS is `require` of an ES module, which the other tests check. Resolution
  // from before `exports` is excluded too: it resolves `dmapool/drivers/...` to the source folder of the same name.
  const command = join(root, 'node_modules', '.bin', 'attw');
  // Written to a file: attw exits before a pipe has taken all of its output.
  const answer = join(scratch, 'attw.json');
  const fd = openSync(answer, 'w');
  const { stderr } = spawnSync(command, [tarball, '--profile', 'esm-only', '--format', 'json'], {
    encoding: 'utf8',
    stdio: ['ignore', fd, 'pipe'],
  });
  closeSync(fd);
  const stdout = readFileSync(answer, 'utf8');
  assert.notEqual(stdout, '', stderr);
  const { analysis } = JSON.parse(stdout) as {
    analysis: { entrypoints: Record<string, unknown>; problems: readonly TypesProblem[] };
  };
  const problems = analysis.problems.filter(
    ({ resolutionKind, resolutionOption }) =>
      !['node10', 'node16-cjs'].includes(resolutionKind ?? resolutionOption ?? ''),
  );
  assert.deepEqual(problems, []);
  const seen = Object.keys(analysis.entrypoints).map((subpath) => manifest.name + subpath.slice(1));
  for (const { specifier } of entryPoints) assert.ok(seen.includes(specifier), `${specifier} was checked`);
});
