/**
 * `npm run mutants` applies the mutants one at a time, and fuzzes each for at most a minute. It prints a table. Exit code 1:
 * fewer than 95 % are found, or a fuzzer fails without a mutant.
 *
 * A mutant changes one file of `dist`, in a copy of it: the build that others use stays as it is, whatever interrupts.
 */
import { parseArgs } from 'node:util';
import { allMutants, misplaced } from './all-mutants.ts';
import { type CampaignOptions, type CampaignResult, runCampaign } from './campaign.ts';
import type { Mutant } from './mutant.ts';
import { Workbench } from './workbench.ts';

/** Share of the mutants that must be found. */
const WANTED = 0.95;
/** Time limit of a case in seconds: a mutant may loop forever. */
const BOUND = 15;

/** Has the fuzzer of a target look for the mutant, or for anything without one. */
function fuzz(
  bench: Workbench,
  mutant: Mutant | null,
  options: Omit<CampaignOptions, 'root' | 'bound'>,
): Promise<CampaignResult> {
  const run = (): Promise<CampaignResult> => runCampaign({ ...options, root: bench.folder, bound: BOUND });
  return mutant === null ? run() : bench.with(mutant, run);
}

const USAGE = 'Usage: npm run mutants -- [--seconds N] [--seed N] [--target NAME] [--only TEXT] [--no-check]';

function parse(): { seconds: number; seed: number; target: string; only: string; check: boolean } {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    options: { seconds: text, seed: text, target: text, only: text, 'no-check': { type: 'boolean' } },
  });
  const seconds = Number(values.seconds ?? 60);
  const seed = Number(values.seed ?? Date.now() % 2 ** 32);
  if (!Number.isInteger(seconds) || seconds < 1 || !Number.isInteger(seed) || seed < 0) throw new TypeError(USAGE);
  const { only = '', target = '' } = values;
  return { seconds, seed, target, only, check: values['no-check'] !== true };
}

async function main(): Promise<number> {
  const { check, only, seconds, seed, target } = parse();
  const mutants = allMutants.filter(
    (mutant) => mutant.name.includes(only) && (target === '' || mutant.target === target),
  );
  const lost = misplaced(mutants);
  for (const line of lost) console.log(line);
  if (lost.length > 0) return 1;
  const bench = new Workbench();
  console.log(`${String(mutants.length)} mutants, at most ${String(seconds)} s each, seed ${String(seed)}`);
  let clean = true;
  for (const name of check ? new Set(mutants.map((mutant) => mutant.target)) : []) {
    const { finding } = await fuzz(bench, null, { target: name, seed, seconds: Math.min(seconds, 20) });
    if (finding === null) continue;
    clean = false;
    console.log(`target ${name} fails without a mutant, so its results prove nothing: ${finding.message}`);
  }
  let foundCount = 0;
  for (const mutant of mutants) {
    const { finding, seconds: took } = await fuzz(bench, mutant, { target: mutant.target, seed, seconds });
    // A mutant that does not load does not count as found.
    const found = finding?.started === true;
    if (found) foundCount++;
    const verdict = !found ? 'NOT FOUND' : `found after ${took.toFixed(1)} s`;
    const [headline = ''] = finding?.message.split('\n') ?? [];
    console.log(`${mutant.target.padEnd(10)} ${verdict.padEnd(19)} ${mutant.name}  (${headline.slice(0, 90)})`);
  }
  console.log(`${String(foundCount)} of ${String(mutants.length)} mutants found`);
  return clean && foundCount >= WANTED * mutants.length ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof TypeError)) throw error;
  console.error(error.message === USAGE ? USAGE : `${error.message}\n${USAGE}`);
  process.exitCode = 2;
}
