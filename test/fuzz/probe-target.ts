/** A target for the tests of the fuzzer. The seed selects the behaviour of the case. */
import { countOperations } from './operations.ts';
import type { FuzzTarget } from './target.ts';

export const probeTarget: FuzzTarget = {
  name: 'probe',
  async runCase(seed) {
    countOperations(1);
    if (seed === 10) throw new Error('probe: a wrong result');
    if (seed === 20) for (;;);
    if (seed === 30) process.exit(7);
    if (seed === 40) void Promise.reject(new Error('probe: rejected'));
    if (seed === 50) {
      queueMicrotask(() => {
        throw new Error('probe: thrown outside any call');
      });
    }
    if (seed === 60) await new Promise(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 1));
  },
  shrink: (seed) => Promise.resolve(`probe: seed ${String(seed)} alone`),
};
