/** Compares our pools with the kernel: with recorded hashes, and with the running kernel if the machine is available. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, it, test } from 'node:test';
import { cachedKernel } from '../../scripts/vm/kernel.ts';
import { modulesUnavailable } from '../../scripts/vm/headers.ts';
import { misplaced } from '../fuzz/all-mutants.ts';
import { checkoutPath } from '../trace/hand-made.ts';
import { vmSkip } from '../vm/machine.ts';
import { compareStreams, describeReproducer, ourAnswers, shrink, STREAM_OPERATIONS } from './compare.ts';
import { FORM_NAMES } from './forms.ts';
import { GRID } from './grid.ts';
import { DEFAULT_FORMS, INTENDED_DIFFERENCES, NOT_SHOWN } from './intended-differences.ts';
import { KernelOracle } from './kernel.ts';
import { oracleMutants } from './mutants.ts';
import { CHUNK, type Operation } from './operation.ts';
import { RecordedOracle } from './recorded.ts';

describe('the recorded hashes of Linux 6.12', () => {
  for (const form of FORM_NAMES) {
    it(`equal those of the ${form} form`, async () => {
      const oracle = new RecordedOracle(checkoutPath('test/oracle/recorded-6.12.txt'));
      const campaign = await compareStreams(oracle, form, 8 * STREAM_OPERATIONS, 1);
      assert.equal(campaign.difference?.seed, undefined);
      assert.equal(campaign.operations, 8 * STREAM_OPERATIONS);
    });
  }

  it('reveal a different answer', async () => {
    const streams = new RecordedOracle(checkoutPath('test/oracle/recorded-6.12.txt'));
    const other = {
      stream: (seed: number, count: number) => streams.stream(seed, count).with(1, Promise.resolve('0')),
    };
    const { difference, operations } = await compareStreams(other, 'object', STREAM_OPERATIONS, 1);
    assert.equal(operations, CHUNK);
    assert.equal(difference?.operations.length, 2 * CHUNK, 'operations up to the end of the different chunk');
  });
});

it('the line of every mutant is in its file', () => {
  assert.deepEqual(misplaced(oracleMutants), []);
});

test('each difference in ARCHITECTURE.md has operations that show it, or a reason why none can', () => {
  const document = readFileSync(checkoutPath('ARCHITECTURE.md'), 'utf8');
  const section = /\n## Differences from Linux\n([^]*?)\n## /.exec(document)![1]!;
  const rows = [...section.matchAll(/^\| (.+?) +\|/gm)].map((match) => match[1]!).slice(2);
  const entries = [...new Set(INTENDED_DIFFERENCES.map(({ row }) => row)), ...Object.keys(NOT_SHOWN)];
  assert.equal(rows.length, entries.length);
  for (const entry of entries) assert.equal(rows.filter((row) => row.startsWith(entry)).length, 1, entry);
});

describe('a difference', () => {
  it('is shrunk to the operations that show it', async () => {
    // A kernel whose pools of 96 bytes have only two blocks.
    const kernel = (operations: readonly Operation[]): Promise<string[]> => {
      const answers = ourAnswers('object', operations);
      const small = operations.findIndex((each) => each.kind === 'create' && each.size === 96);
      const allocs = operations.flatMap((each, i) => (small >= 0 && i > small && each.kind === 'alloc' ? [i] : []));
      return Promise.resolve(allocs.length < 3 ? answers : answers.with(allocs[2]!, 'ffffffff 1'));
    };
    const noise: Operation[] = Array.from({ length: 40 }, (_, i) => ({ kind: 'refuse', count: i % 2 }));
    const create: Operation = { kind: 'create', slot: 3, size: 96, align: 32, boundary: 0, name: 'qh' };
    const alloc: Operation = { kind: 'alloc', slot: 3, flags: 1, count: 1 };
    const found = await shrink(kernel, 'object', [...noise, create, ...noise, alloc, alloc, ...noise, alloc, alloc]);
    assert.deepEqual(found?.operations, [create, alloc, alloc, alloc]);
    assert.match(
      describeReproducer(found),
      /zalloc\(pool\[3\], GFP_KERNEL\)\nthe kernel: refused 1\nours: {7}0 c0 1 1$/,
    );
  });
});

/** The reason to skip the tests with the running kernel, or `false`. With DMAPOOL_REQUIRE_TOOLS=1 they run. */
function skipReason(): string | false {
  if (vmSkip !== false || process.env['DMAPOOL_REQUIRE_TOOLS'] === '1') return vmSkip;
  const kernel = cachedKernel('6.12');
  return kernel === null
    ? 'no kernel 6.12 in the cache: npm run vm -- --kernel 6.12 --prepare'
    : (modulesUnavailable(kernel) ?? false);
}

describe('the running kernel', { skip: skipReason(), timeout: 600_000 }, () => {
  let kernel: KernelOracle;

  before(async () => {
    kernel = await KernelOracle.open('6.12', () => undefined);
  });
  after(async () => {
    await kernel.close();
  });

  it('gives the recorded hashes', async () => {
    const recorded = new RecordedOracle(checkoutPath('test/oracle/recorded-6.12.txt'));
    for (const seed of [1, 8]) {
      const hashes = await Promise.all(kernel.stream(seed, STREAM_OPERATIONS));
      assert.deepEqual(hashes, await Promise.all(recorded.stream(seed, STREAM_OPERATIONS)));
    }
  });

  it('accepts and rejects the same arguments', async () => {
    const arguments_ = GRID.slice(-4000);
    assert.deepEqual(ourAnswers('kernel', arguments_), await kernel.answers(arguments_));
  });

  for (const { name, operations, kernel: theirs, ours, forms = DEFAULT_FORMS } of INTENDED_DIFFERENCES) {
    it(`differs as intended: ${name}`, async () => {
      assert.deepEqual(await kernel.answers(operations), theirs);
      for (const form of forms) assert.deepEqual(ourAnswers(form, operations), ours, form);
    });
  }
});
