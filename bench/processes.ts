/** Contenders in fresh processes, and the sums of what they print. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';

import { median, type Sample } from '../src/cli/speed.ts';

/** A command that its arguments follow, such as `['taskset', '-c', '1']`; empty for none. */
export type Prefix = readonly string[];

/** Pins a process to the last CPU that we may use (the first ones serve the most interrupts); none without taskset. */
export function pinning(): Prefix {
  let list: string | undefined;
  try {
    list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  } catch {
    return [];
  }
  const cpu = list?.split(/[,-]/).at(-1);
  if (cpu === undefined) return [];
  const prefix = ['taskset', '-c', cpu];
  return spawnSync(prefix[0]!, [...prefix.slice(1), 'true'], { stdio: 'ignore' }).status === 0 ? prefix : [];
}

/** How a runtime starts a script. */
export function runtimeCommand(runtime: string): string[] {
  return basename(runtime) === 'deno' ? [runtime, 'run', '--allow-all'] : [runtime];
}

/** Settings that all programs take; each has defaults. */
export interface Settings {
  /** Rounds in one repetition; the kernel's 100 by default. */
  readonly rounds?: number;
  readonly repetitions?: number;
  readonly warmup?: number;
}

/** Settings as arguments of a program. */
export function settingArguments(settings: Readonly<Record<string, number | undefined>>): string[] {
  return Object.entries(settings).flatMap(([name, value]) => (value === undefined ? [] : [`--${name}`, String(value)]));
}

/** What a program printed, as one JSON value a line. */
export function runJsonLines(prefix: Prefix, command: readonly string[]): unknown[] {
  const [program, ...rest] = [...prefix, ...command];
  const { status, signal, error, stdout } = spawnSync(program!, rest, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 2 ** 26,
  });
  if (error !== undefined) throw error;
  if (status !== 0) throw new Error(`${command.join(' ')} ended with ${signal ?? `exit code ${String(status)}`}`);
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line): unknown => JSON.parse(line));
}

/** What several processes found. */
export interface Summary {
  /** The least of all. */
  readonly best: number;
  /** The median process's median. */
  readonly median: number;
  /** The slowest process's median: far from `median` where a process in two is slow. */
  readonly slowest: number;
  readonly processes: readonly Sample[];
}

/** Samples of each contender, by a key such as `object 64/64/0`. */
export class SampleBook {
  readonly #samples = new Map<string, Sample[]>();

  add(key: string, { nsPerPairMedian, nsPerPairBest }: Sample): void {
    const list = this.#samples.get(key) ?? [];
    list.push({ nsPerPairMedian, nsPerPairBest });
    this.#samples.set(key, list);
  }

  has(key: string): boolean {
    return this.#samples.has(key);
  }

  summary(key: string): Summary {
    const processes = this.#samples.get(key);
    if (processes === undefined) throw new Error(`no contender measured ${key}`);
    return summarize(processes);
  }
}

export function summarize(processes: readonly Sample[]): Summary {
  const medians = processes.map((sample) => sample.nsPerPairMedian);
  return {
    best: Math.min(...processes.map((sample) => sample.nsPerPairBest)),
    median: median(medians),
    slowest: Math.max(...medians),
    processes,
  };
}
