/**
 * A pool of 373,959 blocks of 128 bytes, as a real SAS driver has: compares the time of a pair with that in a pool of
 * 8,192. Linux's free once searched all pages and took 9 seconds for this driver.
 *
 * The two pools take turns to allocate and free all of their blocks, with equal numbers of pairs. Prints one line of
 * JSON for each form: nanoseconds for a pair, and the cost of the first fill, page allocations included.
 */
import { createHeldBlocks, ROUNDS, type Sample, sampleOf, timeRounds, warmUp } from '../../src/cli/speed.ts';
import { Device, DmaPool, HeapMemory } from '../../src/index.ts';
import { numbersFromArguments, printLine } from './program.ts';

export interface ManyBlocksLine {
  readonly form: string;
  readonly blocks: number;
  readonly firstFillNsPerPair: number;
  readonly many: Sample;
  readonly few: Sample;
}

const { blocks, repetitions, warmup } = numbersFromArguments({ blocks: 373_959, repetitions: 15, warmup: 3 });
const FEW = 8192;
const ROUNDS_OF_FEW = Math.max(1, Math.round(blocks / FEW));

const device = new Device({ name: 'sas', memory: new HeapMemory({ limit: 2 ** 28 }) });
const many = DmaPool.create<string>('many', device, { size: 128 });
const few = DmaPool.create<string>('few', device, { size: 128 });
const held = createHeldBlocks(blocks);
const rounds = [ROUNDS.object, ROUNDS.index];

// First fill of a third pool, with compiled code: its cost is that of pages and block objects, not of the compiler.
const fresh = DmaPool.create<string>('fresh', device, { size: 128 });
warmUp(rounds, [{ pool: few, blocks: FEW }], held);
const firstFillNsPerPair = timeRounds(ROUNDS.object, fresh, held, blocks, 1);
fresh.destroy();
warmUp(rounds, [{ pool: many, blocks }], held);

for (const form of ['object', 'index'] as const) {
  const ofMany: number[] = [];
  const ofFew: number[] = [];
  for (let repetition = -warmup; repetition < repetitions; repetition++) {
    const fewNs = timeRounds(ROUNDS[form], few, held, FEW, ROUNDS_OF_FEW);
    const manyNs = timeRounds(ROUNDS[form], many, held, blocks, 1);
    if (repetition < 0) continue;
    ofFew.push(fewNs);
    ofMany.push(manyNs);
  }
  const line: ManyBlocksLine = { form, blocks, firstFillNsPerPair, many: sampleOf(ofMany), few: sampleOf(ofFew) };
  printLine(line);
}
