/** Findings of `npm run bench:vfio`, and their tables. */
import { median } from '../../src/cli/speed.ts';
import { table } from '../../src/cli/style.ts';
import { PARTS, type TimeShares } from './profile.ts';

/** Reads in flight. */
export const DEPTHS: readonly number[] = [1, 8, 32];
/** How our driver detects completions. */
export const MODES = ['interrupts', 'busy polling', 'polling'] as const;
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

/** Requests a second, by depth. */
export interface Round {
  readonly kernel: readonly number[];
  readonly ours: Readonly<Record<Mode, readonly number[]>>;
}

export interface Profile {
  readonly mode: Mode;
  readonly depth: number;
  readonly cost: Cost;
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
  readonly limit: string;
}

function spread(values: readonly number[]): Spread {
  return { median: median(values), least: Math.min(...values), most: Math.max(...values) };
}

function cpuOf({ user, system }: Cost): number {
  return user + system;
}

/**
 * Names the bottleneck.
 * @param least Minimum CPU time of a request over all cases. A case above twice that time spends most of it on
 *   interrupts or on polls without a result, not on requests.
 */
function limitOf({ mode, time, cost }: Profile, least: number): string {
  if (cpuOf(cost) > 2 * least) {
    return mode === 'interrupts' ? 'interrupt latency' : 'the disk: most polls find nothing';
  }
  const busy = PARTS.filter((part) => part !== 'epoll');
  return `CPU: ${busy.reduce((most, part) => (time[part] > time[most] ? part : most))}`;
}

export function resultsOf({ rounds, profiles }: Findings): Result[] {
  const least = Math.min(...profiles.map(({ cost }) => cpuOf(cost)));
  return profiles.map((profile) => {
    const at = DEPTHS.indexOf(profile.depth);
    const kernel = rounds.map((round) => round.kernel[at]!);
    const ours = rounds.map((round) => round.ours[profile.mode][at]!);
    return {
      ...profile,
      kernel: spread(kernel),
      rate: spread(ours),
      ratio: spread(ours.map((rate, i) => rate / kernel[i]!)),
      limit: limitOf(profile, least),
    };
  });
}

export function formatResults(results: readonly Result[]): string {
  const whole = (value: number): string => Math.round(value).toLocaleString('en-US');
  const percent = (value: number): string => `${(value * 100).toFixed(1)} %`;
  const rates = results.map(({ mode, depth, kernel, rate, ratio }) => [
    mode,
    String(depth),
    whole(kernel.median),
    whole(rate.median),
    `${whole(rate.least)} to ${whole(rate.most)}`,
    ratio.median.toFixed(2),
    `${ratio.least.toFixed(2)} to ${ratio.most.toFixed(2)}`,
  ]);
  const costs = results.map(({ mode, depth, cost, time, limit }) => [
    mode,
    String(depth),
    cpuOf(cost).toFixed(0),
    cost.interrupts.toFixed(2),
    cost.switches.toFixed(2),
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
    '\nCost of a request, CPU time of its thread by part, and the bottleneck:\n',
    ...table([['ours, by', 'depth', 'CPU us', 'interrupts', 'sleeps', ...PARTS, 'limit'], ...costs], { rule: true }),
    `\nBest ratio to the kernel's driver: ${best.join(', ')}.`,
  ].join('\n');
}
