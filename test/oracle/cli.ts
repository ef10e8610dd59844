/**
 * `npm run oracle` executes random streams, the grid of arguments and the intended differences, in the kernel in the
 * virtual machine and in our pools. Exit code: 0 if all results are as expected, 1 for another difference, 2 for a usage
 * error.
 */
import { writeFileSync } from 'node:fs';
import { isDeepStrictEqual, parseArgs } from 'node:util';
import { compareStreams, describeReproducer, ourAnswers, shrink, STREAM_OPERATIONS } from './compare.ts';
import { FORM_NAMES, type FormName } from './forms.ts';
import { GRID } from './grid.ts';
import { DEFAULT_FORMS, INTENDED_DIFFERENCES } from './intended-differences.ts';
import { KernelOracle } from './kernel.ts';
import type { Operation } from './operation.ts';
import { RECORDED_STREAMS } from './recorded.ts';

const USAGE = `Usage: npm run oracle -- [--kernel 6.12] [--operations N] [--seed N] [--form NAME] [--record FILE]

  --operations N   operations for each form (default 500000)
  --seed N         seed of the first stream (default 1)
  --form NAME      one of ${FORM_NAMES.join(', ')}; repeatable (default: all)
  --record FILE    only write the kernel's hashes of the first ${RECORDED_STREAMS} streams to a file`;

/** Operations between two progress messages. */
const PROGRESS = 2 ** 20;

interface Flags {
  readonly operations: number;
  readonly seed: number;
  readonly forms: readonly FormName[];
  readonly record: string | undefined;
}

function parse(): Flags {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    options: { kernel: text, operations: text, seed: text, form: { type: 'string', multiple: true }, record: text },
  });
  const { kernel = '6.12', operations = '500000', seed = '1', form = FORM_NAMES } = values;
  const forms = FORM_NAMES.filter((name) => form.includes(name));
  // Kernels before 6.4 have another allocator.
  const isValid = kernel === '6.12' && /^[1-9]\d{0,9}$/.test(operations) && /^\d{1,9}$/.test(seed);
  if (!isValid || forms.length < new Set(form).size) throw new TypeError(USAGE);
  return { operations: Number(operations), seed: Number(seed), forms, record: values.record };
}

/** Writes the kernel's hashes to a file, for comparisons without the machine. */
async function record(kernel: KernelOracle, file: string): Promise<void> {
  let text = '';
  for (let seed = 1; seed <= RECORDED_STREAMS; seed++) {
    text += `${[seed, ...(await Promise.all(kernel.stream(seed, STREAM_OPERATIONS)))].join(' ')}\n`;
  }
  writeFileSync(file, text);
  await kernel.close();
}

async function main({ operations, seed, forms, record: file }: Flags): Promise<number> {
  const log = (line: string): void => {
    console.error(`oracle: ${line}`);
  };
  const kernel = await KernelOracle.open('6.12', log);
  if (file !== undefined) {
    await record(kernel, file);
    return 0;
  }
  const kernelAnswers = (list: readonly Operation[]): Promise<string[]> => kernel.answers(list);
  let unexpected = 0;
  const report = async (form: FormName, list: readonly Operation[]): Promise<void> => {
    unexpected++;
    const reproducer = await shrink(kernelAnswers, form, list);
    console.log(reproducer === null ? '  not reproducible as single operations' : describeReproducer(reproducer));
  };

  for (const form of forms) {
    const begin = performance.now();
    const {
      streams,
      operations: done,
      difference,
    } = await compareStreams(kernel, form, operations, seed, (count) => {
      if (count % PROGRESS < STREAM_OPERATIONS && count < operations)
        log(`${form}: ${count} operations, no difference`);
    });
    const rate = Math.round(done / ((performance.now() - begin) / 1000));
    const verdict = difference === null ? 'no difference' : `seed ${difference.seed} differs`;
    console.log(`${form.padEnd(8)} ${done} operations in ${streams} streams, ${rate} a second: ${verdict}`);
    if (difference !== null) await report(form, difference.operations);
  }

  const expected = await kernel.answers(GRID);
  // sharePool takes all pages at once, so there create already fails for pages that the memory refuses.
  for (const form of forms.filter((name) => name !== 'shared')) {
    const ours = ourAnswers(form, GRID);
    const different = !isDeepStrictEqual(ours, expected);
    console.log(
      `${form.padEnd(8)} ${GRID.length} operations on a grid of arguments: ${different ? 'differs' : 'no difference'}`,
    );
    if (different) await report(form, GRID);
  }

  for (const { name, operations: list, forms: differing = DEFAULT_FORMS, ...intended } of INTENDED_DIFFERENCES) {
    const theirs = await kernel.answers(list);
    const ours = differing.map((form) => ourAnswers(form, list));
    const isIntended = ours.every((answers) => isDeepStrictEqual([theirs, answers], [intended.kernel, intended.ours]));
    console.log(`${isIntended ? 'intended difference' : 'NOT AS INTENDED'}: ${name}`);
    if (isIntended) continue;
    unexpected++;
    console.log({ kernel: theirs, ours });
  }
  await kernel.close();
  return unexpected === 0 ? 0 : 1;
}

try {
  process.exitCode = await main(parse());
} catch (error) {
  if (!(error instanceof TypeError)) throw error;
  console.error(error.message === USAGE ? USAGE : `${error.message}\n${USAGE}`);
  process.exitCode = 2;
}
