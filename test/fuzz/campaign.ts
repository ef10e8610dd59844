/** Runs cases of a target in a child process. A hang or exit of the child is a finding. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';

export interface CampaignOptions {
  readonly target: string;
  readonly seed: number;
  readonly seconds: number;
  /** Maximum number of cases. Default: no limit. */
  readonly cases?: number;
  /** Time limit of a case, in seconds. */
  readonly bound: number;
  /** Folder that contains the `dist` to run. Default: this project. */
  readonly root?: string;
  /** Called about once a second. */
  readonly onProgress?: (cases: number, operations: number) => void;
}

export interface Finding {
  /** False if the child failed before its first case, such as while loading the target. */
  readonly started: boolean;
  readonly seed: number;
  readonly message: string;
}

export interface CampaignResult {
  readonly cases: number;
  readonly operations: number;
  /** Completions and descriptors that no device should write. */
  readonly hostile: number;
  readonly seconds: number;
  readonly finding: Finding | null;
}

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
/** Lines of the child's output in a finding. */
const OUTPUT_LINES = 20;

/** Progress and result of a child. */
interface Observed {
  seed: number | null;
  /** Start time of the current case. */
  began: number;
  cases: number;
  operations: number;
  hostile: number;
  failure: string | null;
  shrunk: string | null;
  ended: boolean;
}

async function watchChild(
  root: string,
  args: readonly string[],
  bound: number,
  onProgress: (observed: Observed) => void,
): Promise<Observed> {
  const child = spawn(
    process.execPath,
    ['--enable-source-maps', '--expose-gc', join(root, 'dist', 'test', 'fuzz', 'runner.js'), ...args],
    {
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    },
  );
  const seen: Observed = {
    seed: null,
    began: performance.now(),
    cases: 0,
    operations: 0,
    hostile: 0,
    failure: null,
    shrunk: null,
    ended: false,
  };
  const output: string[] = [];
  const keep = (line: string): void => {
    output.push(line);
    if (output.length > OUTPUT_LINES) output.shift();
  };
  createInterface({ input: child.stdout! }).on('line', keep);
  createInterface({ input: child.stderr! }).on('line', keep);
  createInterface({ input: child.stdio[3] as Readable }).on('line', (line) => {
    parseReport(seen, line);
  });
  const watchdog = setInterval(() => {
    if (performance.now() - seen.began > bound * 1000) {
      seen.failure ??= `the case does not end within ${String(bound)} s`;
      child.kill('SIGKILL');
    }
    onProgress(seen);
  }, 500);
  const stop = (): void => {
    child.kill('SIGKILL');
  };
  process.once('exit', stop);
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  process.off('exit', stop);
  clearInterval(watchdog);
  if (!seen.ended && seen.failure === null) {
    seen.failure = `the process ended with ${signal ?? `code ${String(code)}`}\n${output.join('\n')}`;
  }
  return seen;
}

function parseReport(seen: Observed, line: string): void {
  const space = line.indexOf(' ');
  const word = space < 0 ? line : line.slice(0, space);
  const rest = line.slice(space + 1);
  if (word === 'case') {
    seen.seed = Number(rest);
    seen.began = performance.now();
  } else if (word === 'ok') {
    seen.cases++;
    [seen.operations = 0, seen.hostile = 0] = rest.split(' ').map(Number);
    seen.began = performance.now();
  } else if (word === 'fail') {
    seen.failure ??= JSON.parse(rest) as string;
  } else if (word === 'shrunk') {
    seen.shrunk = (JSON.parse(rest === 'undefined' ? 'null' : rest) as string | null) ?? null;
  } else if (word === 'end') {
    seen.ended = true;
  }
}

/** Runs cases from `seed` up until one fails, the time ends, or `cases` have run. */
export async function runCampaign(options: CampaignOptions): Promise<CampaignResult> {
  const { target, seed, seconds, bound, cases = Number.MAX_SAFE_INTEGER, root = ROOT, onProgress } = options;
  const begin = performance.now();
  const seen = await watchChild(root, [target, String(seed), String(cases), String(seconds)], bound, (observed) => {
    onProgress?.(observed.cases, observed.operations);
  });
  return {
    cases: seen.cases,
    operations: seen.operations,
    hostile: seen.hostile,
    seconds: (performance.now() - begin) / 1000,
    finding:
      seen.failure === null ? null : { started: seen.seed !== null, seed: seen.seed ?? seed, message: seen.failure },
  };
}

/** Returns a description of the smallest failing form of a case, or null if its target has no shrinker. */
export async function shrinkCase(target: string, seed: number, bound: number): Promise<string | null> {
  return (await watchChild(ROOT, [target, String(seed), 'shrink'], bound, () => undefined)).shrunk;
}
