/**
 * The lower bound for a pool in JavaScript: free indices in an array, `push` and `pop`, without checks, addresses,
 * state or statistics. Not usable as a pool; no index pool can be much faster.
 *
 * Runs as its own program, so that the engine compiles the array for this use only. Prints a line of JSON for each
 * geometry.
 */
import {
  BULK,
  blocksOf,
  elapsedNs,
  KERNEL_GEOMETRIES,
  MAX_BLOCKS,
  now,
  sampleOf,
  USED_GEOMETRIES,
  WARM_CALLS,
} from '../../src/cli/speed.ts';
import { numbersFromArguments, printLine } from '../ours/program.ts';

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

const { rounds, repetitions, warmup } = numbersFromArguments({ rounds: 100, repetitions: 15, warmup: 3 });
const held = new Int32Array(MAX_BLOCKS);
const subjects = USED_GEOMETRIES.map((geometry) => {
  const blocks = blocksOf(geometry.size);
  return { geometry, blocks, pool: new IndexArray(blocks), times: [] as number[] };
});

// Short calls first, as explained at warmUp.
for (let call = 0; call < WARM_CALLS; call++) {
  for (const { pool } of subjects) round(pool, held, BULK);
}

for (let repetition = -warmup; repetition < repetitions; repetition++) {
  for (const { pool, blocks, times } of subjects) {
    const start = now();
    for (let i = 0; i < rounds; i++) round(pool, held, blocks);
    const elapsed = elapsedNs(start, now());
    if (repetition >= 0) times.push(elapsed / (rounds * blocks));
  }
}

for (const { geometry, blocks, times } of subjects.slice(0, KERNEL_GEOMETRIES.length)) {
  printLine({ ...geometry, blocks, ...sampleOf(times) });
}
