/** Findings of `npm run bench:vfio`, and their tables. */
import { median } from '../../src/cli/speed.ts';
import { table } from '../../src/cli/style.ts';
import { PARTS, type TimeShares } from './profile.ts';

/** Reads in flight. */
export const DEPTHS: readonly number[] = [1, 8, 32];
/** How our driver detects completions. `adaptive` is the default. */
export const MODES = ['adaptive', 'interrupts', 'busy polling', 'polling'] as const;
export type Mode = (typeof MODES)[number];
/** Busy polling time in milliseconds. */
export const BUSY_POLL = 1;

/** Cost of one of our requests. */
export interface Cost {
  /** Microseconds of CPU time of the process, all its threads. */
  readonly user: number;
  readonly system: number;
  /** Interrupts that the kernel forwarded. */
  readonly interrupts: number;
  /** Voluntary context switches of the process. */
  readonly switches: number;
}

/** One measurement of our driver. */
export interface Run {
  /** Requests a second. */
  readonly rate: number;
  readonly cost: Cost;
}

/** One round, by depth. */
export interface Round {
  /** Requests a second of the kernel's driver. */
  readonly kernel: readonly number[];
  readonly ours: Readonly<Record<Mode, readonly Run[]>>;
}

export interface Profile {
  readonly mode: Mode;
  readonly depth: number;
  readonly time: TimeShares;
}

/** Output of the guest. */
export interface Findings {
  readonly rounds: readonly Round[];
  readonly profiles: readonly Profile[];
}

/** Median, minimum and maximum of the rounds. */
export interface Spread {
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

export interface Result extends Profile {
  /** Requests a second of the kernel's driver. */
  readonly kernel: Spread;
  /** Requests a second of ours. */
  readonly rate: Spread;
  /** Our rate relative to the kernel's, round by round. */
  readonly ratio: Spread;
  /** Microseconds of CPU time of a request. */
  readonly cpu: Spread;
  /** Interrupts of a request. */
  readonly interrupts: Spread;
  /** Voluntary context switches of a request. */
  readonly sleeps: Spread;
  readonly limit: string;
}

function spread(values: readonly number[]): Spread {
  return { median: median(values), least: Math.min(...values), most: Math.max(...values) };
}

const SLOW: Readonly<Record<Mode, string>> = {
  adaptive: 'the disk and interrupt latency',
  interrupts: 'interrupt latency',
  'busy polling': 'the disk: most polls find nothing',
  polling: 'the disk: most polls find nothing',
};

/**
 * Names the bottleneck.
 * @param cpu CPU time of a request.
 * @param least Minimum of all cases. A case above twice that time spends most of it on interrupts or on polls without a
 *   result, not on requests.
 */
function limitOf({ mode, time }: Profile, cpu: number, least: number): string {
  if (cpu > 2 * least) return SLOW[mode];
  const busy = PARTS.filter((part) => part !== 'epoll');
  return `CPU: ${busy.reduce((most, part) => (time[part] > time[most] ? part : most))}`;
}

export function resultsOf({ rounds, profiles }: Findings): Result[] {
  const results = profiles.map((profile) => {
    const at = DEPTHS.indexOf(profile.depth);
    const runs = rounds.map((round) => ({ kernel: round.kernel[at]!, ...round.ours[profile.mode][at]! }));
    return {
      ...profile,
      kernel: spread(runs.map(({ kernel }) => kernel)),
      rate: spread(runs.map(({ rate }) => rate)),
      ratio: spread(runs.map(({ rate, kernel }) => rate / kernel)),
      cpu: spread(runs.map(({ cost }) => cost.user + cost.system)),
      interrupts: spread(runs.map(({ cost }) => cost.interrupts)),
      sleeps: spread(runs.map(({ cost }) => cost.switches)),
    };
  });
  const least = Math.min(...results.map(({ cpu }) => cpu.median));
  return results.map((result) => ({ ...result, limit: limitOf(result, result.cpu.median, least) }));
}

export function formatResults(results: readonly Result[]): string {
  const whole = (value: number): string => Math.round(value).toLocaleString('en-US');
  const percent = (value: number): string => `${(value * 100).toFixed(1)} %`;
  const range = ({ least, most }: Spread, digits: number): string =>
    `${least.toFixed(digits)} to ${most.toFixed(digits)}`;
  const rates = results.map(({ mode, depth, kernel, rate, ratio }) => [
    mode,
    String(depth),
    whole(kernel.median),
    whole(rate.median),
    `${whole(rate.least)} to ${whole(rate.most)}`,
    ratio.median.toFixed(2),
    range(ratio, 2),
  ]);
  const costs = results.map(({ mode, depth, cpu, interrupts, sleeps }) => [
    mode,
    String(depth),
    cpu.median.toFixed(0),
    range(cpu, 0),
    sleeps.median.toFixed(2),
    range(sleeps, 2),
    interrupts.median.toFixed(2),
  ]);
  const shares = results.map(({ mode, depth, time, limit }) => [
    mode,
    String(depth),
    ...PARTS.map((part) => percent(time[part])),
    limit,
  ]);
  const best = DEPTHS.flatMap((depth) => {
    const [first] = results.filter((result) => result.depth === depth).sort((a, b) => b.ratio.median - a.ratio.median);
    if (first === undefined) return [];
    return [`${first.ratio.median.toFixed(2)} (${first.mode}) at depth ${String(depth)}`];
  });
  return [
    'Random reads of 4 KiB a second, medians of the rounds:\n',
    ...table([['ours, by', 'depth', "the kernel's", 'ours', 'rounds', 'ratio', 'rounds'], ...rates], { rule: true }),
    '\nCost of a request of ours, medians of the rounds:\n',
    ...table([['ours, by', 'depth', 'CPU us', 'rounds', 'sleeps', 'rounds', 'interrupts'], ...costs], { rule: true }),
    '\nTime of our thread by part, and the bottleneck:\n',
    ...table([['ours, by', 'depth', ...PARTS, 'limit'], ...shares], { rule: true }),
    `\nBest ratio to the kernel's driver: ${best.join(', ')}.`,
  ].join('\n');
}
