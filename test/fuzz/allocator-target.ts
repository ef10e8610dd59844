/** Fuzz target `allocator`, pools of one thread: random histories against a model, and random arguments to all exports. */
import { Random } from '../support/random.ts';
import { History } from './allocator-history.ts';
import type { FuzzTarget } from './target.ts';
import { callWildly } from './wild-calls.ts';

/** Share of cases with random arguments. */
const WILD = 0.2;

const isWild = (seed: number): boolean => new Random(seed ^ 0x5eed).chance(WILD);

async function fails(seed: number, steps: number): Promise<History | null> {
  const history = new History(seed, steps);
  try {
    await history.run();
    return null;
  } catch {
    return history;
  }
}

export const allocatorTarget: FuzzTarget = {
  name: 'allocator',
  async runCase(seed) {
    if (isWild(seed)) await callWildly(seed);
    else await new History(seed).run();
  },
  async shrink(seed) {
    if (isWild(seed)) return 'a single call, see above';
    // Finds the shortest failing prefix of the history: doubles the length, then tries each length from half of it.
    let steps = 1;
    while (steps < 1024 && (await fails(seed, steps)) === null) steps *= 2;
    for (let shorter = steps >> 1; shorter <= steps; shorter++) {
      const history = await fails(seed, shorter);
      if (history !== null) return `${String(shorter)} operations:\n    ${history.lines.join('\n    ')}`;
    }
    return 'the failure did not recur';
  },
};
