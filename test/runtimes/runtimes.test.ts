/**
 * Shared pools in the other runtimes. They come from their npm packages: `npm install --no-package-lock --prefix test/runtimes`, apart from
 * the other tools, since the package `node` would stand in for the `node` of every npm script. DMAPOOL_RUNTIMES names
 * another folder that has them.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { RuntimeFindings } from './program.ts';

const program = fileURLToPath(new URL('./program.js', import.meta.url));
const installed = fileURLToPath(new URL('../../../test/runtimes/node_modules/.bin/', import.meta.url));
const folder = process.env['DMAPOOL_RUNTIMES'] ?? installed;

const runtimes = [
  { name: `this Node`, command: process.execPath, args: [] },
  { name: 'Node 26', command: join(folder, 'node'), args: [] },
  { name: 'Bun', command: join(folder, 'bun'), args: [] },
  { name: 'Deno', command: join(folder, 'deno'), args: ['run', '--allow-all'] },
];

for (const { name, command, args } of runtimes) {
  const skip = existsSync(command) ? false : 'not installed: npm install --no-package-lock --prefix test/runtimes';
  test(`share, attach, transfer, wait, death and end in ${name}`, { skip, timeout: 60_000 }, async (t) => {
    const { stdout } = await promisify(execFile)(command, [...args, program], { timeout: 30_000 });
    const { waited, watchedByItself } = JSON.parse(stdout) as RuntimeFindings;
    t.diagnostic(`waited ${waited.toFixed(0)} ms, watched by itself: ${String(watchedByItself)}`);
    assert.ok(waited < 5000);
    assert.equal(watchedByItself, true, 'docs say that workers are watched by themselves here');
  });
}
