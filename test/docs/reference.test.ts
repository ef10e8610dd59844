/** `npm run docs` generates pages of every entry point from the doc comments, without a warning. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { entryPoints, root } from './entry-points.ts';

const pages = join(root, 'dist', 'reference');

test('the reference has every entry point and no broken link', () => {
  try {
    // Warnings are errors: a broken link fails the command.
    execFileSync(process.execPath, [join(root, 'node_modules', 'typedoc', 'bin', 'typedoc'), '--out', pages], {
      cwd: root,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    for (const { specifier } of entryPoints()) {
      assert.ok(existsSync(join(pages, specifier, 'README.md')), `${specifier} has a page`);
    }
  } finally {
    rmSync(pages, { recursive: true, force: true });
  }
});
