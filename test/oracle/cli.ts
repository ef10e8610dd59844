/**
 * `npm run oracle`: random streams, the grid of arguments and the meant differences, through the kernel in the virtual
 * machine and through our pools. Exit code 0: no difference but the meant ones; 1: another one; 2: wrong usage.
 */
import { parseArgs } from 'node:util';
import { compareStreams, describeReproducer, shrink } from './compare.ts';
import { FORM_NAMES, type FormName } from './forms.ts';
import { KernelOracle } from './kernel.ts';

const USAGE = `Usage: npm run oracle -- [--kernel 6.12] [--operations N] [--seed N] [--form NAME]

  --operations N   operations for each form (default 500000)
  --seed N         seed of the first stream (default 1)
  --form NAME      one of ${FORM_NAMES.join(', ')}; repeatable (default: all)`;

interface Flags {
  readonly operations: number;
  readonly seed: number;
  readonly forms: readonly FormName[];
}

function parse(): Flags {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    options: { kernel: text, operations: text, seed: text, form: { type: 'string', multiple: true } },
  });
  const { kernel = '6.12', operations = '500000', seed = '1', form = FORM_NAMES } = values;
  const forms = FORM_NAMES.filter((name) => form.includes(name));
  // Before 6.4 the kernel's allocator is another one.
  const right = kernel === '6.12' && /^[1-9]\d{0,9}$/.test(operations) && /^\d{1,9}$/.test(seed);
  if (!right || forms.length < new Set(form).size) throw new TypeError(USAGE);
  return { operations: Number(operations), seed: Number(seed), forms };
}

async function main({ operations, seed, forms }: Flags): Promise<number> {
  const say = (line: string): void => {
    console.error(`oracle: ${line}`);
  };
  const kernel = await KernelOracle.open('6.12', say);
  let wrong = 0;
  for (const form of forms) {
    const begin = performance.now();
    const { streams, operations: done, difference } = await compareStreams(kernel, form, operations, seed);
    const rate = Math.round(done / ((performance.now() - begin) / 1000));
    console.log(`${form.padEnd(8)} ${done} operations in ${streams} streams, ${rate} a second: ${difference === null ? 'no difference' : `seed ${difference.seed} differs`}`);
    if (difference === null) continue;
    wrong++;
    const reproducer = await shrink((list) => kernel.answers(list), form, difference.operations);
    console.log(reproducer === null ? 'but not when its operations are given one by one' : describeReproducer(reproducer));
  }
  await kernel.close();
  return wrong === 0 ? 0 : 1;
}

try {
  process.exitCode = await main(parse());
} catch (error) {
  if (!(error instanceof TypeError)) throw error;
  console.error(error.message === USAGE ? USAGE : `${error.message}\n${USAGE}`);
  process.exitCode = 2;
}
