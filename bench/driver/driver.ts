/**
 * `npm run bench:driver`: what the drivers themselves cost, on devices in the same process that act at once.
 *
 *     npm run bench:driver -- [--rounds N] [--only TEXT] [--json]
 *
 * Each load runs in fresh processes, interleaved with all others. The table has the median of the processes' medians, and
 * the best repetition.
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { median } from '../../src/cli/speed.ts';
import { table } from '../../src/cli/style.ts';
import { pinning, runJsonLines } from '../processes.ts';
import { PARTS } from '../nvme/profile.ts';
import { type Load, LOADS, type Measurement } from './loads.ts';

const PROGRAM = fileURLToPath(new URL('program.js', import.meta.url));
/** MiB of the young generation, for repetitions without a collection. */
const YOUNG = ['--min-semi-space-size=64', '--max-semi-space-size=64'];

interface Result {
  readonly load: string;
  readonly rate: number;
  readonly best: number;
  readonly cpu: number;
  readonly garbage: number | null;
  readonly shares: Measurement['shares'];
}

function summarize({ name }: Load, rounds: readonly Measurement[]): Result {
  const of = (value: (round: Measurement) => number): number => median(rounds.map(value));
  const garbage = rounds.flatMap((round) => (round.garbage === null ? [] : [round.garbage]));
  return {
    load: name,
    rate: of(({ rate }) => rate),
    best: Math.max(...rounds.map(({ best }) => best)),
    cpu: of(({ cpu }) => cpu),
    garbage: garbage.length === 0 ? null : median(garbage),
    shares: rounds.at(-1)!.shares,
  };
}

function print(results: readonly Result[]): void {
  const whole = (value: number): string => Math.round(value).toLocaleString('en-US');
  const parts = PARTS.filter((part) => part !== 'epoll');
  const heading = [
    'load',
    'a second',
    'best',
    'CPU ns each',
    'garbage bytes each',
    ...parts.map((part) => `${part} %`),
  ];
  const rows = results.map(({ load, rate, best, cpu, garbage, shares }) => [
    load,
    whole(rate),
    whole(best),
    whole(cpu),
    garbage === null ? '?' : whole(garbage),
    ...parts.map((part) => whole(shares[part] * 100)),
  ]);
  console.log(table([heading, ...rows], { rule: true }).join('\n'));
}

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    only: { type: 'string', default: '' },
    json: { type: 'boolean', default: false },
  },
});
const rounds = Number(values.rounds);
if (!(Number.isInteger(rounds) && rounds > 0 && rounds <= 100)) throw new Error('--rounds takes 1 to 100');
const loads = LOADS.filter(({ name }) => name.includes(values.only));
if (loads.length === 0) throw new Error(`no load contains ${values.only}: ${LOADS.map(({ name }) => name).join(', ')}`);
const measured = loads.map((): Measurement[] => []);
const prefix = pinning();
for (let round = 0; round < rounds; round++) {
  for (const [i, { name }] of loads.entries()) {
    measured[i]!.push(runJsonLines(prefix, [process.execPath, ...YOUNG, PROGRAM, name])[0] as Measurement);
  }
}
const results = loads.map((load, i) => summarize(load, measured[i]!));
if (values.json) console.log(JSON.stringify(results));
else print(results);
