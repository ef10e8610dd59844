/**
 * `npm run fuzz -- --target NAME` runs random cases of a target. For a failed case it prints the seed; pass it as `--seed`
 * to run that case first. Exit code 0: no failure; 1: a case failed; 2: usage error.
 */
import { parseArgs } from 'node:util';
import { runCampaign, shrinkCase } from './campaign.ts';

const TARGETS = ['allocator', 'shared', 'trace', 'qmp', 'pci', 'nvme', 'ehci', 'e1000'];

const USAGE = `Usage: npm run fuzz -- --target ${TARGETS.join('|')} [options]

  --seconds N   run time (default: 30)
  --seed N      seed of the first case, 0 to 2^32-1 (default: from the clock); each case adds 1
  --cases N     maximum number of cases (default: no limit); 1 replays one case
  --bound N     time limit of a case in seconds (default: 20)
  --keep-going  run until the time ends, and print each kind of failure once
  --no-shrink   do not search for a smaller form of a failure`;

interface Options {
  readonly target: string;
  readonly seconds: number;
  readonly seed: number;
  readonly cases: number;
  readonly bound: number;
  readonly keepGoing: boolean;
  readonly shrink: boolean;
}

class UsageError extends Error {}

function integer(name: string, text: string | undefined, fallback: number, low: number, high: number): number {
  if (text === undefined) return fallback;
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= low && value <= high) return value;
  throw new UsageError(`--${name} takes a whole number from ${String(low)} to ${String(high)}, not '${text}'`);
}

function parse(args: readonly string[]): Options {
  const text = { type: 'string' } as const;
  const flag = { type: 'boolean' } as const;
  const { values } = parseArgs({
    args: [...args],
    options: {
      target: text,
      seconds: text,
      seed: text,
      cases: text,
      bound: text,
      'keep-going': flag,
      'no-shrink': flag,
    },
  });
  // The tests of this program use the target `probe`.
  if (values.target === undefined || ![...TARGETS, 'probe'].includes(values.target)) {
    throw new UsageError(`--target takes one of ${TARGETS.join(', ')}`);
  }
  return {
    target: values.target,
    seconds: integer('seconds', values.seconds, 30, 1, 10_000_000),
    seed: integer('seed', values.seed, Date.now() % 2 ** 32, 0, 2 ** 32 - 1),
    cases: integer('cases', values.cases, Number.MAX_SAFE_INTEGER, 1, Number.MAX_SAFE_INTEGER),
    bound: integer('bound', values.bound, 20, 1, 3600),
    keepGoing: values['keep-going'] === true,
    shrink: values['no-shrink'] !== true,
  };
}

/** Identifies a kind of failure: the message without numbers, which depend on the seed. */
function kindOf(message: string): string {
  return message
    .slice(0, 200)
    .replace(/\n[^]*/, '')
    .replace(/0x[0-9a-f]+|\d+/g, '#');
}

async function fuzz(options: Options): Promise<number> {
  const { target, seconds, bound, keepGoing } = options;
  console.log(`fuzz ${target}: ${String(seconds)} s from seed ${String(options.seed)}`);
  const deadline = performance.now() + seconds * 1000;
  const kinds = new Set<string>();
  let { seed } = options;
  let cases = 0;
  let operations = 0;
  let hostile = 0;
  let left = seconds;
  let printed = performance.now();
  do {
    const result = await runCampaign({
      target,
      seed,
      seconds: left,
      bound,
      cases: options.cases - cases,
      onProgress: (more, moreOperations) => {
        if (performance.now() - printed < 10_000) return;
        printed = performance.now();
        console.log(`  ${String(cases + more)} cases, ${String(operations + moreOperations)} operations`);
      },
    });
    cases += result.cases;
    operations += result.operations;
    hostile += result.hostile;
    const { finding } = result;
    if (finding === null) break;
    cases++;
    seed = (finding.seed + 1) % 2 ** 32;
    if (!kinds.has(kindOf(finding.message))) {
      kinds.add(kindOf(finding.message));
      console.log(`FAILED seed ${String(finding.seed)}: ${finding.message}`);
      console.log(`  replay: npm run fuzz -- --target ${target} --seed ${String(finding.seed)} --cases 1`);
      const smaller = options.shrink ? await shrinkCase(target, finding.seed, bound * 2) : null;
      if (smaller !== null) console.log(`  smallest form: ${smaller}`);
    }
    left = (deadline - performance.now()) / 1000;
  } while (keepGoing && left > 0 && cases < options.cases);
  const elapsed = seconds - (deadline - performance.now()) / 1000;
  const verdict = kinds.size === 0 ? 'ok' : `${String(kinds.size)} kinds of failure`;
  const malformed = hostile > 0 ? `${String(hostile)} hostile answers, ` : '';
  const counted = `${operations > 0 ? `${String(operations)} operations, ` : ''}${malformed}`;
  console.log(`fuzz ${target}: ${verdict}: ${String(cases)} cases, ${counted}${elapsed.toFixed(1)} s`);
  return kinds.size === 0 ? 0 : 1;
}

try {
  process.exitCode = await fuzz(parse(process.argv.slice(2)));
} catch (error) {
  if (!(error instanceof UsageError) && !(error instanceof TypeError)) throw error;
  console.error(`${error.message}\n\n${USAGE}`);
  process.exitCode = 2;
}
