import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';

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
