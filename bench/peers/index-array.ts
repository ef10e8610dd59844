/**
 * The floor: the least that a pool in JavaScript can do. Free indices in an array, `push` and `pop`; no checks,
 * no addresses, no state, no statistics. Not a pool to use, but what its time is, no pool of indices goes below by much.
 *
 * Run as a program of its own, so that the engine compiles it for nothing else. Prints a line of JSON for each geometry.
 */
import { parseArgs } from 'node:util';

import { elapsedNs, now } from '../../src/bench/clock.ts';
import { COMPANION_GEOMETRIES, KERNEL_GEOMETRIES, MAX_BENCH_BLOCKS, benchBlocks } from '../../src/bench/geometries.ts';
import { median } from '../../src/bench/measure.ts';
import { BULK } from '../../src/bench/rounds.ts';
import { WARM_CALLS } from '../../src/bench/warm-up.ts';

class IndexArray {
  readonly #free: number[] = [];

  constructor(blocks: number) {
    for (let i = blocks - 1; i >= 0; i--) this.#free.push(i);
  }

  alloc(): number {
    return this.#free.pop()!;
  }

  free(index: number): void {
    this.#free.push(index);
  }
}

function round(pool: IndexArray, held: Int32Array, count: number): void {
  for (let i = 0; i < count; i++) held[i] = pool.alloc();
  for (let i = 0; i < count; i++) pool.free(held[i]!);
}

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '100' },
    repetitions: { type: 'string', default: '15' },
    warmup: { type: 'string', default: '3' },
  },
});
const rounds = Number(values.rounds);
const held = new Int32Array(MAX_BENCH_BLOCKS);
const subjects = [...KERNEL_GEOMETRIES, ...COMPANION_GEOMETRIES].map((geometry) => {
  const blocks = benchBlocks(geometry.size);
  return { geometry, blocks, pool: new IndexArray(blocks), times: [] as number[] };
});

// Short calls first, for the reason that warm-up.ts gives.
for (let call = 0; call < WARM_CALLS; call++) {
  for (const { pool } of subjects) round(pool, held, BULK);
}

for (let repetition = -Number(values.warmup); repetition < Number(values.repetitions); repetition++) {
  for (const { pool, blocks, times } of subjects) {
    const start = now();
    for (let i = 0; i < rounds; i++) round(pool, held, blocks);
    const elapsed = elapsedNs(start, now());
    if (repetition >= 0) times.push(elapsed / (rounds * blocks));
  }
}

for (const { geometry, blocks, times } of subjects.slice(0, KERNEL_GEOMETRIES.length)) {
  const line = { ...geometry, blocks, nsPerPairMedian: median(times), nsPerPairBest: Math.min(...times) };
  process.stdout.write(`${JSON.stringify(line)}\n`);
}
