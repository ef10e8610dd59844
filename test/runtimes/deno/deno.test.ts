import { test } from 'node:test';
import { missing, reportOutcomes, runPart, type Runtime, testRuntime } from '../suite/run.ts';

const deno: Runtime = {
  name: 'Deno',
  command: '.bin/deno',
  args: ['run', '--quiet', '--no-prompt', '--allow-all'],
  webWorkers: true,
  typescript: true,
};

testRuntime(deno);

test('Deno: a pool needs no permission', { skip: missing(deno), timeout: 120_000 }, async (t) => {
  await reportOutcomes(t, await runPart({ ...deno, args: ['run', '--quiet', '--no-prompt'] }, { part: 'core' }));
});
