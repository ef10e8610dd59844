/** `npm run bench:opening`. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const PROGRAM = fileURLToPath(new URL('../../bench/opening.js', import.meta.url));

test('bench:opening measures eight figures and their floors', () => {
  const printed = execFileSync(process.execPath, [PROGRAM, '--processes', '1', '--json'], { encoding: 'utf8' });
  const results = JSON.parse(printed) as { name: string; best: number; median: number; floor: number }[];
  assert.equal(results.length, 8);
  // No comparison with the floor: a loaded machine may slow either.
  for (const { name, best, median, floor } of results) assert.ok(0 < best && best <= median && 0 < floor, name);
});
