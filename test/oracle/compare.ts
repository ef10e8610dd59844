/** Streams through the kernel and through our pools; a difference is shrunk to a short list of operations. */
import { describeAnswer, HashedAnswers, SpeltAnswer } from './answers.ts';
import type { FormName } from './forms.ts';
import { CHUNK, describeOperation, type Operation } from './operation.ts';
import { Ours } from './ours.ts';
import { Stream } from './stream.ts';

/** Operations of one stream of a campaign: many short streams see more geometries than a few long ones. */
export const STREAM_OPERATIONS = 4 * CHUNK;
/** Streams that the kernel is ahead of us. */
const AHEAD = 4;

/** What answers as the kernel does: the machine, or a recording of it. */
export interface Oracle {
  stream(seed: number, operations: number): Promise<string>[];
}

/** A difference in a stream. */
export interface Difference {
  readonly seed: number;
  /** The operations up to the end of the first chunk that differs. */
  readonly operations: readonly Operation[];
}

/** How a campaign went. */
export interface Campaign {
  readonly streams: number;
  readonly operations: number;
  readonly difference: Difference | null;
}

/** Our hashes of a stream, made as they are read. */
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

/** Compares streams of seeds `first`, `first + 1`, ... until so many operations are done, or one differs. */
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
  let asked = 0;
  for (let index = 0; index < streams; index++) {
    while (asked < Math.min(index + AHEAD, streams)) ahead.push(oracle.stream(first + asked, lengthOf(asked++)));
    const kernel = ahead.shift()!;
    const seed = first + index;
    let chunk = 0;
    for (const hash of ourHashes(ours, seed, lengthOf(index))) {
      if (hash !== (await kernel[chunk])) {
        await Promise.all(ahead.flat());
        const difference = { seed, operations: recorded(form, seed, lengthOf(index), chunk) };
        return { streams: index + 1, operations: index * STREAM_OPERATIONS + chunk * CHUNK, difference };
      }
      chunk++;
    }
    onProgress(Math.min((index + 1) * STREAM_OPERATIONS, operations));
  }
  return { streams, operations, difference: null };
}

/** The operations of a stream up to the end of a chunk, as the generator gives them on our pools. */
function recorded(form: FormName, seed: number, operations: number, chunk: number): Operation[] {
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

/** Our answers to a list of operations, spelt out. */
export function ourAnswers(form: FormName, operations: readonly Operation[]): string[] {
  const ours = new Ours(form);
  return operations.map((operation) => {
    const answer = new SpeltAnswer();
    ours.operate(operation, answer);
    return String(answer);
  });
}

/** What gives the kernel's answers to a list. */
type Answering = (operations: readonly Operation[]) => Promise<string[]>;

/** A short list whose last operation is answered differently, with both answers; null if no list differs. */
export interface Reproducer {
  readonly operations: readonly Operation[];
  readonly kernel: string;
  readonly ours: string;
}

/** Shortens a list that differs: cuts it after the first difference, then leaves out what is not needed for one. */
export async function shrink(
  kernel: Answering,
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
  kernel: Answering,
  form: FormName,
  operations: readonly Operation[],
): Promise<Reproducer | null> {
  const theirs = await kernel(operations);
  const ours = ourAnswers(form, operations);
  const at = theirs.findIndex((answer, i) => answer !== ours[i]);
  return at === -1 ? null : { operations: operations.slice(0, at + 1), kernel: theirs[at]!, ours: ours[at]! };
}

/** The reproducer for people. */
export function describeReproducer({ operations, kernel, ours }: Reproducer): string {
  const calls = operations.map((operation) => `  ${describeOperation(operation)}`);
  return [...calls, `the kernel: ${describeAnswer(kernel)}`, `ours:       ${describeAnswer(ours)}`].join('\n');
}
