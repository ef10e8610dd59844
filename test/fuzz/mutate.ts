/**
 * `npm run mutants`: applies the mutants one by one and has the fuzzers look for each, at most a minute. Prints a table;
 * exit code 1 when fewer than 95 % are found, or when a fuzzer fails without a mutant.
 *
 * A mutant changes one file of `dist`, in a copy of it: the build that others use stays as it is, whatever interrupts.
 */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import ts from 'typescript';
import { allMutants, misplaced } from './all-mutants.ts';
import { type CampaignOptions, type CampaignResult, runCampaign } from './campaign.ts';
import type { Mutant } from './mutant.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
/** Share of the mutants that must be found. */
const WANTED = 0.95;
/** Seconds that one case may take: a mutant may loop for ever. */
const BOUND = 15;

/** The text of the mutant's file, mutated and compiled. */
function compile({ file, from, to }: Mutant): string {
  const text = readFileSync(join(ROOT, file), 'utf8');
  const { config } = ts.readConfigFile(join(ROOT, 'tsconfig.json'), (path) => ts.sys.readFile(path)) as {
    config: { compilerOptions: object };
  };
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, ROOT);
  const { outputText } = ts.transpileModule(
    text.replace(from, () => to),
    {
      // NodeNext would look for a package.json, and take what it does not find for CommonJS.
      compilerOptions: { ...options, module: ts.ModuleKind.ESNext, sourceMap: false, declaration: false },
      fileName: join(ROOT, file),
    },
  );
  return outputText;
}

/** A copy of what the fuzzers run. */
class Workbench {
  readonly folder: string = mkdtempSync(join(tmpdir(), 'dmapool-mutants-'));

  constructor() {
    // Whatever ends this process, no copy stays; a signal that nobody handles would skip `exit`.
    process.once('exit', () => {
      rmSync(this.folder, { recursive: true, force: true });
    });
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.once(signal, () => {
        process.exit(130);
      });
    }
    cpSync(join(ROOT, 'dist'), join(this.folder, 'dist'), { recursive: true });
    cpSync(join(ROOT, 'package.json'), join(this.folder, 'package.json'));
    symlinkSync(join(ROOT, 'node_modules'), join(this.folder, 'node_modules'));
  }

  async fuzz(mutant: Mutant | null, options: Omit<CampaignOptions, 'root' | 'bound'>): Promise<CampaignResult> {
    const campaign = { ...options, root: this.folder, bound: BOUND };
    if (mutant === null) return runCampaign(campaign);
    const path = join(this.folder, 'dist', mutant.file.replace(/\.ts$/, '.js'));
    const before = readFileSync(path);
    writeFileSync(path, compile(mutant));
    try {
      return await runCampaign(campaign);
    } finally {
      writeFileSync(path, before);
    }
  }
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
    const { finding } = await bench.fuzz(null, { target: name, seed, seconds: Math.min(seconds, 20) });
    if (finding === null) continue;
    clean = false;
    console.log(`without a mutant ${name} fails too, so what it finds proves nothing: ${finding.message}`);
  }
  let foundCount = 0;
  for (const mutant of mutants) {
    const { finding, seconds: took } = await bench.fuzz(mutant, { target: mutant.target, seed, seconds });
    // A mutant that does not load is no mutant.
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
