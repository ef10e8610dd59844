/** The pages in docs/reference are what the doc comments give now: `npm run docs` makes them. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join, relative } from 'node:path';
import { test } from 'node:test';
import { root } from './entry-points.ts';

const committed = join(root, 'docs', 'reference');
const fresh = join(root, 'dist', 'reference');

function pages(folder: string): Map<string, string> {
  const files = readdirSync(folder, { withFileTypes: true, recursive: true }).filter((entry) => entry.isFile());
  return new Map(
    files
      .map((entry) => join(entry.parentPath, entry.name))
      .sort()
      .map((file) => [relative(folder, file), readFileSync(file, 'utf8')]),
  );
}

test('docs/reference is current', () => {
  try {
    // Its warnings are errors: a link that leads nowhere ends it.
    execFileSync(process.execPath, [join(root, 'node_modules', 'typedoc', 'bin', 'typedoc'), '--out', fresh], {
      cwd: root,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    const [are, should] = [pages(committed), pages(fresh)];
    const stale = [...new Set([...are.keys(), ...should.keys()])].filter((page) => are.get(page) !== should.get(page));
    assert.deepEqual(stale, [], 'run npm run docs, and commit what it changes');
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
});
