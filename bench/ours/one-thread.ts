/** What `dmapool bench` measures, in a process of its own for `npm run bench`. Prints one line of JSON. */
import { parseArgs } from 'node:util';

import { runBench } from '../../src/bench/run.ts';
import { runtimeName } from './runtime-name.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '100' },
    repetitions: { type: 'string', default: '15' },
    warmup: { type: 'string', default: '3' },
  },
});
const report = await runBench({
  rounds: Number(values.rounds),
  repetitions: Number(values.repetitions),
  warmup: Number(values.warmup),
});
process.stdout.write(`${JSON.stringify({ runtime: runtimeName(), results: report.results })}\n`);
