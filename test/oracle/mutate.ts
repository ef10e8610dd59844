/**
 * `npm run mutants:oracle` applies the mutants one by one. The kernel's hashes must reveal each within 49,152 operations.
 * Prints a table. Exit code: 1 if a mutant is missed, or if there is a difference without a mutant.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { misplaced } from '../fuzz/all-mutants.ts';
import { Workbench } from '../fuzz/workbench.ts';
import { STREAM_OPERATIONS } from './compare.ts';
import { FORM_NAMES } from './forms.ts';
import { oracleMutants } from './mutants.ts';

const RECORDED = fileURLToPath(new URL('../../../test/oracle/recorded-6.12.txt', import.meta.url));
const OPERATIONS = 3 * STREAM_OPERATIONS;
/** Time limit per mutant in milliseconds, because a mutant can cause an endless loop. */
const TIMEOUT = 300_000;

const outdated = misplaced(oracleMutants);
for (const line of outdated) console.log(line);
if (outdated.length > 0) process.exit(1);

const bench = new Workbench();
const program = join(bench.folder, 'dist', 'test', 'oracle', 'check-recorded.js');

function run(form: string): { readonly found: boolean; readonly how: string } {
  const args = [program, form, RECORDED, String(OPERATIONS)];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8', timeout: TIMEOUT });
  if (status === 0) return { found: false, how: stdout.trim() };
  if (stdout !== '') return { found: true, how: `a difference after ${stdout.trim()}` };
  const error = stderr.split('\n').find((line) => /Error|assert/.test(line)) ?? 'timeout';
  // A program that fails to load does not count as a found mutant.
  return { found: !/SyntaxError|ERR_MODULE/.test(error), how: error };
}

for (const form of FORM_NAMES) {
  const { found, how } = run(form);
  if (!found) continue;
  console.log(`the form ${form} differs without a mutant, so the run proves nothing: ${how}`);
  process.exitCode = 1;
}
let missed = 0;
for (const mutant of oracleMutants) {
  const { found, how } = await bench.with(mutant, () => Promise.resolve(run(mutant.target)));
  if (!found) missed++;
  console.log(`${mutant.target.padEnd(7)} ${found ? 'found ' : 'MISSED'} ${mutant.name}  (${how.slice(0, 90)})`);
}
console.log(
  `${oracleMutants.length - missed} of ${oracleMutants.length} mutants found within ${OPERATIONS} operations`,
);
if (missed > 0) process.exitCode = 1;
