/** All mutants, and a check that each mutant's line is in its file. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Mutant } from './mutant.ts';
import { mutants } from './mutants.ts';
import { mutants as drivers } from './mutants-drivers.ts';
import { mutants as ehciAndE1000 } from './mutants-ehci-e1000.ts';
import { mutants as readers } from './mutants-readers.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

export const allMutants: readonly Mutant[] = [...mutants, ...readers, ...drivers, ...ehciAndE1000];

/** Returns a message for each mutant whose line is not found exactly once in its file. */
export function misplaced(some: readonly Mutant[]): string[] {
  return some
    .filter(({ file, from }) => readFileSync(join(ROOT, file), 'utf8').split(from).length !== 2)
    .map(({ file, name }) => `mutant '${name}': its line is not found exactly once in ${file}`);
}
