/** What `dmapool bench --workers` measures, in a process of its own for `npm run bench`. Prints one line of JSON. */
import { parseArgs } from 'node:util';

import { runWorkersBench } from '../../src/bench/run-workers.ts';
import { runtimeName } from './runtime-name.ts';

const { values } = parseArgs({
  options: {
    workers: { type: 'string', default: '2' },
    magazine: { type: 'string' },
    rounds: { type: 'string', default: '100' },
    repetitions: { type: 'string', default: '15' },
    warmup: { type: 'string', default: '5' },
  },
});
const { magazine } = values;
const { undisturbed, results, pipeline } = await runWorkersBench({
  workers: Number(values.workers),
  rounds: Number(values.rounds),
  repetitions: Number(values.repetitions),
  warmup: Number(values.warmup),
  ...(magazine === undefined ? {} : { magazine: Number(magazine) }),
});
process.stdout.write(`${JSON.stringify({ runtime: runtimeName(), undisturbed, results, pipeline })}\n`);
