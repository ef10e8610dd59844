/** Compares streams in the kernel and in our pools, and shrinks a difference to a short list of operations. */
import { describeAnswer, HashedAnswers, TextAnswer } from './answers.ts';
import type { FormName } from './forms.ts';
import { CHUNK, describeOperation, type Operation } from './operation.ts';
import { Ours } from './ours.ts';
import { Stream } from './stream.ts';

/** Operations per stream of a campaign. Many short streams cover more geometries than a few long ones. */
export const STREAM_OPERATIONS = 4 * CHUNK;
/** Streams that the kernel may execute ahead of our pools. */
const AHEAD = 4;

/** A source of the kernel's hashes: the kernel in the machine, or a recording. */
export interface Oracle {
  stream(seed: number, operations: number): Promise<string>[];
}

/** A difference in a stream. */
export interface Difference {
  readonly seed: number;
  /** The operations up to the end of the first chunk that differs. */
  readonly operations: readonly Operation[];
}

/** The result of a campaign. */
export interface Campaign {
  readonly streams: number;
  readonly operations: number;
  readonly difference: Difference | null;
}

/** Yields our hashes of a stream, one per chunk. */
export function* ourHashes(ours: Ours, seed: number, operations: number): Generator<string, void> {
  const answers = new HashedAnswers();
  ours.reset();
  const stream = new Stream(seed, ours);
  for (let i = 0; i < operations; i++) {
    if (i > 0 && i % CHUNK === 0) yield String(answers);
    ours.operate(stream.next(), answers);
  }
  for (const operation of stream.end()) ours.operate(operation, answers);
  yield String(answers);
}

/** Compares the streams of seeds `first`, `first + 1`, ... up to the first difference or this number of operations. */
export async function compareStreams(
  oracle: Oracle,
  form: FormName,
  operations: number,
  first: number,
  onProgress: (operations: number) => void = () => undefined,
): Promise<Campaign> {
  const ours = new Ours(form);
  const streams = Math.ceil(operations / STREAM_OPERATIONS);
  const lengthOf = (index: number): number => Math.min(STREAM_OPERATIONS, operations - index * STREAM_OPERATIONS);
  const ahead: Promise<string>[][] = [];
  let requested = 0;
  for (let index = 0; index < streams; index++) {
    while (requested < Math.min(index + AHEAD, streams)) {
      ahead.push(oracle.stream(first + requested, lengthOf(requested++)));
    }
    const kernel = ahead.shift()!;
    const seed = first + index;
    let chunk = 0;
    for (const hash of ourHashes(ours, seed, lengthOf(index))) {
      if (hash !== (await kernel[chunk])) {
        await Promise.all(ahead.flat());
        const difference = { seed, operations: operationsOf(form, seed, lengthOf(index), chunk) };
        return { streams: index + 1, operations: index * STREAM_OPERATIONS + chunk * CHUNK, difference };
      }
      chunk++;
    }
    onProgress(Math.min((index + 1) * STREAM_OPERATIONS, operations));
  }
  return { streams, operations, difference: null };
}

/** Returns the operations of a stream up to the end of a chunk. The generator depends on the state of the pools. */
function operationsOf(form: FormName, seed: number, operations: number, chunk: number): Operation[] {
  const ours = new Ours(form);
  const answers = new HashedAnswers();
  const stream = new Stream(seed, ours);
  const list: Operation[] = [];
  const add = (operation: Operation): void => {
    list.push(operation);
    ours.operate(operation, answers);
  };
  const end = Math.min(operations, (chunk + 1) * CHUNK);
  while (list.length < end) add(stream.next());
  if (end === operations) stream.end().forEach(add);
  return list;
}

/** Returns our answers to a list of operations, as text. */
export function ourAnswers(form: FormName, operations: readonly Operation[]): string[] {
  const ours = new Ours(form);
  return operations.map((operation) => {
    const answer = new TextAnswer();
    ours.operate(operation, answer);
    return String(answer);
  });
}

/** Returns the kernel's answers to a list of operations. */
type KernelAnswers = (operations: readonly Operation[]) => Promise<string[]>;

/** A list of operations with different answers to the last one, and both answers. */
export interface Reproducer {
  readonly operations: readonly Operation[];
  readonly kernel: string;
  readonly ours: string;
}

/** Removes operations from a list while a difference remains. Returns null if the list has none. */
export async function shrink(
  kernel: KernelAnswers,
  form: FormName,
  operations: readonly Operation[],
): Promise<Reproducer | null> {
  let best = await firstDifference(kernel, form, operations);
  if (best === null) return null;
  for (let size = best.operations.length >> 1; size >= 1; size >>= 1) {
    for (let begin: number = best.operations.length - 1 - size; begin >= 0; begin -= size) {
      const fewer: Operation[] = best.operations.filter((_, i) => i < begin || i >= begin + size);
      const found = await firstDifference(kernel, form, fewer);
      if (found !== null) best = found;
      begin = Math.min(begin, best.operations.length - 1);
    }
  }
  return best;
}

async function firstDifference(
  kernel: KernelAnswers,
  form: FormName,
  operations: readonly Operation[],
): Promise<Reproducer | null> {
  const expected = await kernel(operations);
  const ours = ourAnswers(form, operations);
  const at = expected.findIndex((answer, i) => answer !== ours[i]);
  return at === -1 ? null : { operations: operations.slice(0, at + 1), kernel: expected[at]!, ours: ours[at]! };
}

/** Formats a reproducer for messages. */
export function describeReproducer({ operations, kernel, ours }: Reproducer): string {
  const calls = operations.map((operation) => `  ${describeOperation(operation)}`);
  return [...calls, `the kernel: ${describeAnswer(kernel)}`, `ours:       ${describeAnswer(ours)}`].join('\n');
}
