/** Runs contenders in fresh processes and summarizes their output. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';

import { median, type Sample } from '../src/cli/speed.ts';

/** A command prefix, such as `['taskset', '-c', '1']`; empty for none. */
export type Prefix = readonly string[];

/** Pins a process to the last allowed CPU (the first ones serve most interrupts); empty without taskset. */
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

/** Command that runs a script on a runtime. */
export function runtimeCommand(runtime: string): string[] {
  return basename(runtime) === 'deno' ? [runtime, 'run', '--allow-all'] : [runtime];
}

/** Settings of all programs; each has defaults. */
export interface Settings {
  /** Rounds in one repetition. Default 100, as in the kernel. */
  readonly rounds?: number;
  readonly repetitions?: number;
  readonly warmup?: number;
}

/** Converts settings to arguments of a program. */
export function settingArguments(settings: Readonly<Record<string, number | undefined>>): string[] {
  return Object.entries(settings).flatMap(([name, value]) => (value === undefined ? [] : [`--${name}`, String(value)]));
}

/** Runs a program and parses its output, one JSON value a line. */
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

/** Result of several processes. */
export interface Summary {
  /** Minimum of all. */
  readonly best: number;
  /** Median of the processes' medians. */
  readonly median: number;
  /** Maximum of the processes' medians: far from `median` if some processes are slow. */
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
