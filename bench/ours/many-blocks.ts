/**
 * 373,959 blocks of 128 bytes: what one real SAS driver takes from a pool. Does a pair still cost what it costs in a
 * pool of 8,192? Linux's free was once a search, and took this driver 9 seconds.
 *
 * Both pools do allocate-all and free-all in turn, as many pairs each, so that neither has the better minute.
 * Prints one line of JSON for each form: nanoseconds a pair, and what the very first filling cost, pages and all.
 */
import { parseArgs } from 'node:util';

import { median, nsPerPair, readRounds } from '../../src/bench/measure.ts';
import { type Round, createHeldBlocks, indexRound, objectRound } from '../../src/bench/rounds.ts';
import { warmUp } from '../../src/bench/warm-up.ts';
import { Device, DmaPool, HeapMemory } from '../../src/index.ts';
import { runtimeName } from './runtime-name.ts';

const { values } = parseArgs({
  options: {
    blocks: { type: 'string', default: '373959' },
    repetitions: { type: 'string', default: '15' },
    warmup: { type: 'string', default: '3' },
  },
});
const MANY = Number(values.blocks);
const FEW = 8192;
const ROUNDS_OF_FEW = Math.max(1, Math.round(MANY / FEW));

const device = new Device({ name: 'sas', memory: new HeapMemory({ limit: 2 ** 28 }) });
const many = DmaPool.create<string>('many', device, { size: 128 });
const few = DmaPool.create<string>('few', device, { size: 128 });
const held = createHeldBlocks(MANY);

function time(round: Round, pool: DmaPool, count: number, rounds: number): number {
  return nsPerPair(readRounds(round, pool, held, count, rounds));
}

const forms: readonly (readonly [string, Round])[] = [
  ['object', objectRound],
  ['index', indexRound],
];
// The first filling is of a third pool, with compiled code: what it costs is pages and block objects, not the compiler.
const fresh = DmaPool.create<string>('fresh', device, { size: 128 });
warmUp([objectRound, indexRound], [{ pool: few, blocks: FEW }], held);
const first = time(objectRound, fresh, MANY, 1);
fresh.destroy();
warmUp([objectRound, indexRound], [{ pool: many, blocks: MANY }], held);

for (const [form, round] of forms) {
  const ofMany: number[] = [];
  const ofFew: number[] = [];
  for (let repetition = -Number(values.warmup); repetition < Number(values.repetitions); repetition++) {
    const fewNs = time(round, few, FEW, ROUNDS_OF_FEW);
    const manyNs = time(round, many, MANY, 1);
    if (repetition < 0) continue;
    ofFew.push(fewNs);
    ofMany.push(manyNs);
  }
  const line = {
    runtime: runtimeName(),
    form,
    blocks: MANY,
    firstFillNsPerPair: first,
    many: { nsPerPairMedian: median(ofMany), nsPerPairBest: Math.min(...ofMany) },
    few: { nsPerPairMedian: median(ofFew), nsPerPairBest: Math.min(...ofFew) },
  };
  process.stdout.write(`${JSON.stringify(line)}\n`);
}
