/** The part of the package that ends up in a bundle. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { bundle, type Bundle } from './bundle.ts';
import { entryPoints, manifest, root } from './packed.ts';

/** Rows of the README's table: the import, and thousands of bytes minified, after gzip and after brotli. */
const ROW = /^\| `import (.+?) from 'dmapool'` +\| +([\d.]+) \| +([\d.]+) \| +([\d.]+) \|$/gm;

/** Tolerance of a figure before the README has to be updated; a larger bundle is over the budget. */
const SLACK = 0.05;

test('bundles are as small as the README says', async (t) => {
  const rows = [...readFileSync(join(root, 'README.md'), 'utf8').matchAll(ROW)];
  assert.ok(rows.length >= 3, 'the README has a table of sizes');
  for (const [, what, ...figures] of rows) {
    const { minified, gzip, brotli } = await bundle(
      what === '*' ? `export * from 'dmapool';` : `export ${what!} from 'dmapool';`,
    );
    const sizes = [minified, gzip, brotli].map((bytes) => bytes / 1000);
    const now = `${what!}: now ${sizes.map((size) => size.toFixed(1)).join(' | ')}`;
    t.diagnostic(now);
    for (const [i, size] of sizes.entries()) {
      const said = Number(figures[i]);
      assert.ok(size <= said + 0.05, `over the budget of the README: ${now}`);
      assert.ok(size >= said * (1 - SLACK) - 0.05, `the README’s figure is too high: ${now}`);
    }
  }
});

/** Folders of `dist/src` that contribute to a bundle; a file at the top counts by its name. */
function parts({ modules }: Bundle): string[] {
  return [...new Set(modules.map((name) => name.replace('dist/src/', '').replace(/\/.*/, '')))].sort();
}

test('a bundle excludes modules that are not imported', async () => {
  const of = async (names: string): Promise<string[]> => parts(await bundle(`export { ${names} } from 'dmapool';`));
  // Geometry alone, for example for a calculator on a web page.
  const geometry = await bundle(`export { PoolGeometry } from 'dmapool';`);
  assert.deepEqual(geometry.modules, ['dist/src/arguments.js', 'dist/src/errors.js', 'dist/src/pool/geometry.js']);
  const words = await bundle(`export { lower32Bits, storeRelease32, writeAddress64 } from 'dmapool';`);
  assert.deepEqual(words.modules, ['dist/src/arguments.js', 'dist/src/errors.js', 'dist/src/memory/ordering.js']);
  assert.deepEqual(await of('DmaError'), ['errors.js']);
  assert.deepEqual(await of('HeapMemory'), ['arguments.js', 'errors.js', 'memory']);
  // A device includes the default memory, but no pool.
  assert.deepEqual(await of('Device'), ['arguments.js', 'device', 'errors.js', 'memory']);
});

test('a pool brings in neither sharing nor any other part', async () => {
  const { modules, builtins } = await bundle(`export { Device, DmaPool, HeapMemory } from 'dmapool';`);
  const folders = ['arguments.js', 'device', 'dma-pool.js', 'errors.js', 'memory', 'pool'];
  assert.deepEqual(parts({ modules } as Bundle), folders);
  assert.deepEqual(builtins, []);
});

test('an unused import of an entry point adds nothing to a bundle, except for those in sideEffects of package.json', async () => {
  for (const { specifier, module } of entryPoints) {
    if (manifest.sideEffects.includes(module)) continue;
    const { code } = await bundle(`import '${specifier}';`);
    assert.equal(code, '', specifier);
  }
});

/** Prints the parts of the process that an import changes. */
const OBSERVER = `
  const objects = [globalThis, process, ...Object.values(Object.getOwnPropertyDescriptors(globalThis)).map(({ value }) => value)];
  const look = () => JSON.stringify([
    objects.map((object) => Object(object) === object ? Reflect.ownKeys(object).map(String) : typeof object),
    objects.map((object) => typeof object === 'function' && object.prototype ? Reflect.ownKeys(object.prototype).map(String) : ''),
    process.eventNames().map((name) => [String(name), process.listenerCount(name)]),
  ]);
  // Node creates some objects at the first import of its own modules.
  for (const name of process.argv.slice(2)) await import(name);
  const before = look();
  await import(process.argv[1]);
  if (look() !== before) console.log('globals or listeners changed');
`;

test('importing an entry point changes no global, adds no listener and keeps no process alive', async () => {
  for (const { specifier } of entryPoints) {
    // It is there for what it does.
    if (specifier === 'dmapool/observe/register') continue;
    const { builtins } = await bundle(`export * from '${specifier}';`);
    const args = ['--input-type=module', '-e', OBSERVER, specifier, ...builtins];
    const { stdout, stderr, status } = spawnSync(process.execPath, args, {
      cwd: root,
      encoding: 'utf8',
      timeout: 20_000,
    });
    assert.equal(stdout + stderr, '', specifier);
    assert.equal(status, 0);
  }
});

test('no entry point includes the command', async () => {
  for (const { specifier } of entryPoints) {
    const { modules } = await bundle(`export * from '${specifier}';`);
    const wrong = modules.filter((name) => /^dist\/src\/cli\/|node_modules/.test(name));
    assert.deepEqual(wrong, [], specifier);
  }
});

/** Budget of a bundle with a pool, in bytes: minified, and after brotli. */
const MAX_MINIFIED = 54_000;
const MAX_BROTLI = 16_000;

test('a bundle with a pool stays within its budget', async (t) => {
  const { minified, brotli } = await bundle(`export { Device, DmaPool, HeapMemory } from 'dmapool';`);
  t.diagnostic(`${String(minified)} bytes minified, ${String(brotli)} after brotli`);
  assert.ok(minified <= MAX_MINIFIED, `${String(minified)} bytes minified`);
  assert.ok(brotli <= MAX_BROTLI, `${String(brotli)} bytes after brotli`);
});
