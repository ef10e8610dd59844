/**
 * The child process that runs cases: `node runner.js TARGET FIRST-SEED CASES SECONDS` or `node runner.js TARGET SEED shrink`.
 *
 * It reports on file descriptor 3 in lines: `case SEED` before a case, `ok OPERATIONS HOSTILE` after it, `fail JSON`. The
 * writes are synchronous, so that the parent has the seed of a case that hangs or ends the process.
 */
import { writeSync } from 'node:fs';
import { inspect } from 'node:util';
import { hostileSoFar, operationsSoFar } from './operations.ts';
import type { FuzzTarget } from './target.ts';

const REPORT = 3;
/** Number of seeds: they have 32 bits. */
const SEEDS = 2 ** 32;

function report(line: string): void {
  writeSync(REPORT, `${line}\n`);
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return `thrown: ${inspect(error, { depth: 2 })}`;
  return `${error.message}\n${inspect(error, { depth: 4 })}`;
}

function fail(error: unknown): never {
  report(`fail ${JSON.stringify(describe(error))}`);
  process.exit(1);
}

/** Loads target `NAME`: the export `NAMETarget` of `NAME-target.js` in this folder. */
async function load(name: string): Promise<FuzzTarget> {
  const module = (await import(new URL(`${name}-target.js`, import.meta.url).href)) as Record<string, FuzzTarget>;
  const target = module[`${name}Target`];
  if (target === undefined) throw new Error(`${name}-target.ts has no export ${name}Target`);
  return target;
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

async function runCases(target: FuzzTarget, first: number, cases: number, seconds: number): Promise<void> {
  const deadline = performance.now() + seconds * 1000;
  for (let n = 0; n < cases && performance.now() < deadline; n++) {
    report(`case ${String((first + n) % SEEDS)}`);
    try {
      await target.runCase((first + n) % SEEDS);
    } catch (error) {
      fail(error);
    }
    // Attributes late errors of the case, such as an unhandled rejection, to this seed.
    await turn();
    report(`ok ${String(operationsSoFar())} ${String(hostileSoFar())}`);
  }
}

process.on('uncaughtException', (error, origin) => {
  fail(new Error(`${origin} outside any call: ${String(error)}`, { cause: error }));
});

const [name = '', first = '0', cases = '1', seconds = '0'] = process.argv.slice(2);
const target = await load(name);
if (cases === 'shrink') {
  report(`case ${first}`);
  report(`shrunk ${JSON.stringify(await target.shrink?.(Number(first)))}`);
} else {
  await runCases(target, Number(first), Number(cases), Number(seconds));
}
await target.close?.();
report('end');
process.exit(0);
