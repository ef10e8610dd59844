/**
 * Two structures for free blocks, each with the checks and counters of src/pool/hot-path.ts: the linked list that the
 * pools use, and a stack of indices beside an array of marks. bench/free-lists.ts compares them.
 *
 *     list:   words[i] = next free block, or the mark           head
 *     stack:  marks[i] = FREE or the mark, stack[0 .. top-1] = free blocks
 *
 * Runs one structure per process (`--stack 1`: the stack), so that the engine compiles it alone. Prints a line of JSON.
 */
import { BULK, elapsedNs, MAX_BLOCKS, now, sampleOf, WARM_CALLS } from '../../src/cli/speed.ts';
import { numbersFromArguments, printLine, runtimeName } from '../ours/program.ts';

const FREE = 0;
const EMPTY = -1;
const MARK = -2;
const COUNT_MASK = 0x3fff_ffff;

interface FreeBlocks {
  alloc(): number;
  free(index: number): void;
  allocBulk(into: Int32Array, count: number): void;
  freeBulk(from: Int32Array, count: number): void;
}

class List implements FreeBlocks {
  #head = EMPTY;
  #mark = MARK;
  #allocations = 0;
  #frees = 0;
  #mostOut = 0;
  #fewestOut = -1;
  readonly #words: Int32Array;

  constructor(blocks: number) {
    this.#words = Int32Array.from({ length: blocks }, (_, i) => (i + 1 < blocks ? i + 1 : EMPTY));
    this.#head = 0;
  }

  alloc(): number {
    const index = this.#head;
    if (index < 0) throw new Error('empty');
    const words = this.#words;
    this.#head = words[index]!;
    words[index] = this.#mark;
    this.#allocations = (this.#allocations + 1) & COUNT_MASK;
    return index;
  }

  free(index: number): void {
    const words = this.#words;
    const out = (this.#allocations - this.#frees) & COUNT_MASK;
    if (words[index] !== this.#mark || out <= this.#fewestOut) throw new Error('not allocated');
    if (out > this.#mostOut) this.#mostOut = out;
    words[index] = this.#head;
    this.#head = index;
    this.#frees = (this.#frees + 1) & COUNT_MASK;
  }

  allocBulk(into: Int32Array, count: number): void {
    const out = (this.#allocations - this.#frees) & COUNT_MASK;
    const words = this.#words;
    if (count > words.length - out) throw new Error('too few');
    const mark = this.#mark;
    let head = this.#head;
    for (let i = 0; i < count; i++) {
      into[i] = head;
      const next = words[head]!;
      words[head] = mark;
      head = next;
    }
    this.#head = head;
    this.#allocations = (this.#allocations + count) & COUNT_MASK;
  }

  freeBulk(from: Int32Array, count: number): void {
    const out = (this.#allocations - this.#frees) & COUNT_MASK;
    const words = this.#words;
    const mark = this.#mark;
    let head = this.#head;
    let freed = 0;
    for (; freed < count; freed++) {
      const index = from[freed]!;
      if (words[index] !== mark) break;
      words[index] = head;
      head = index;
    }
    if (freed < count) throw new Error('not allocated');
    this.#head = head;
    if (out > this.#mostOut) this.#mostOut = out;
    this.#frees = (this.#frees + count) & COUNT_MASK;
  }
}

class Stack implements FreeBlocks {
  #top = 0;
  #mark = MARK;
  #allocations = 0;
  #frees = 0;
  #mostOut = 0;
  #fewestOut = -1;
  readonly #stack: Int32Array;
  readonly #marks: Int32Array;

  constructor(blocks: number) {
    this.#stack = Int32Array.from({ length: blocks }, (_, i) => blocks - 1 - i);
    this.#marks = new Int32Array(blocks);
    this.#top = blocks;
  }

  alloc(): number {
    const top = this.#top - 1;
    if (top < 0) throw new Error('empty');
    const index = this.#stack[top]!;
    this.#marks[index] = this.#mark;
    this.#top = top;
    this.#allocations = (this.#allocations + 1) & COUNT_MASK;
    return index;
  }

  free(index: number): void {
    const marks = this.#marks;
    const out = (this.#allocations - this.#frees) & COUNT_MASK;
    if (marks[index] !== this.#mark || out <= this.#fewestOut) throw new Error('not allocated');
    if (out > this.#mostOut) this.#mostOut = out;
    marks[index] = FREE;
    const top = this.#top;
    this.#stack[top] = index;
    this.#top = top + 1;
    this.#frees = (this.#frees + 1) & COUNT_MASK;
  }

  allocBulk(into: Int32Array, count: number): void {
    const stack = this.#stack;
    const marks = this.#marks;
    const mark = this.#mark;
    let top = this.#top;
    if (count > top) throw new Error('too few');
    for (let i = 0; i < count; i++) {
      const index = stack[--top]!;
      into[i] = index;
      marks[index] = mark;
    }
    this.#top = top;
    this.#allocations = (this.#allocations + count) & COUNT_MASK;
  }

  freeBulk(from: Int32Array, count: number): void {
    const out = (this.#allocations - this.#frees) & COUNT_MASK;
    const stack = this.#stack;
    const marks = this.#marks;
    const mark = this.#mark;
    const top = this.#top;
    let freed = 0;
    for (; freed < count; freed++) {
      const index = from[freed]!;
      if (marks[index] !== mark) break;
      marks[index] = FREE;
      stack[top + freed] = index;
    }
    if (freed < count) throw new Error('not allocated');
    this.#top = top + count;
    if (out > this.#mostOut) this.#mostOut = out;
    this.#frees = (this.#frees + count) & COUNT_MASK;
  }
}

const { stack, rounds, repetitions } = numbersFromArguments({ stack: 0, rounds: 40, repetitions: 15 });
/** Several are alive, as in bench/ours/one-thread.ts; the first four are measured. */
const subjects = [8192, 8192, 2048, 1024, 8192, 8192].map((blocks) => ({
  blocks,
  pool: stack === 0 ? new List(blocks) : new Stack(blocks),
}));
const held = new Int32Array(MAX_BLOCKS);
const bursts = Array.from({ length: MAX_BLOCKS / BULK }, () => new Int32Array(BULK));

function single(pool: FreeBlocks, count: number): void {
  for (let i = 0; i < count; i++) held[i] = pool.alloc();
  for (let i = 0; i < count; i++) pool.free(held[i]!);
}

function bulk32(pool: FreeBlocks, count: number): void {
  for (let i = 0; i < count / BULK; i++) pool.allocBulk(bursts[i]!, BULK);
  for (let i = 0; i < count / BULK; i++) pool.freeBulk(bursts[i]!, BULK);
}

const forms = [single, bulk32].map((round) => ({ round, times: [] as number[] }));
for (const { round } of forms) {
  for (let call = 0; call < WARM_CALLS; call++) for (const { pool } of subjects) round(pool, BULK);
}
for (let repetition = -2; repetition < repetitions; repetition++) {
  for (const { pool, blocks } of subjects.slice(0, 4)) {
    for (const { round, times } of forms) {
      const start = now();
      for (let i = 0; i < rounds; i++) round(pool, blocks);
      const elapsed = elapsedNs(start, now());
      if (repetition >= 0) times.push(elapsed / (rounds * blocks));
    }
  }
}
const [one, many] = forms;
printLine({ runtime: runtimeName(), single: sampleOf(one!.times), bulk32: sampleOf(many!.times) });
