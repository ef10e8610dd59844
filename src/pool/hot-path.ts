/**
 * The hot path: taking and giving one block or many, by index and as objects.
 *
 * Free blocks are a list in an array of words beside the blocks, one word a block; nothing lies in the blocks
 * themselves, so nothing a device writes there can steer the allocator:
 *
 *     head --> 7        words:  index   0    1    2    3    4    5    6    7
 *                               word   [A]  [A]  [E]  [2]  [A]  [A]  [A]  [3]       A allocated, E end of list
 *
 * The word of a free block is the index of the next free one; that of an allocated block is a negative mark. So one
 * load tells both where the list goes on and whether a block may be freed. A shared pool's mark is different in each
 * worker, and the same comparison then also tells whose block it is.
 *
 * Every other state of a pool (debugging, waiters, destroyed) costs the hot path nothing: its list is *held*: `head`
 * reads as empty and no word ever equals the mark, so every call takes the slow path, which knows.
 *
 * What V8 likes, by measurement: all hot fields in one object of one shape (a list object of its own inside the pool
 * costs a quarter more); small integers only (a counter that grows past 2^30 would turn into a boxed double, so it
 * wraps, and the wraps are counted); no closures; and the same six lines written out in each call, because how much
 * is inlined depends on how the caller looks when it is compiled, and half of all processes were unlucky.
 */
import { DmaArgumentError } from '../errors.ts';
import { checkBoolean, checkInteger, type OptionNames, readOptions, typedArrayLength } from '../arguments.ts';
import type { AllocOptions } from './contract.ts';
import { ALLOCATED, ALWAYS, EMPTY, type ListControl, RESERVED } from './free-list.ts';
import { NO_MEMORY, type SlowPath } from './backend.ts';

/** In place of the mark while the list is held: no word ever has this value. */
const NEVER = -5;

/** Small integers have 31 bits where V8 compresses pointers. */
const COUNT_MASK = 0x3fff_ffff;
const COUNT_RANGE: number = COUNT_MASK + 1;

/** Most blocks a pool can have: indices stay small integers in every engine. */
export const MAX_BLOCKS: number = COUNT_MASK;

const NO_SCRATCH = new Int32Array(0);

/** How many of `array`: `count`, or all of them. */
function bulkCount(argument: string, array: Int32Array, count: number | undefined): number {
  const length = typedArrayLength('Int32Array', array);
  if (length < 0) throw new DmaArgumentError(argument, array, 'an Int32Array');
  if (count === undefined) return length;
  checkInteger('count', count, 0, length);
  return count;
}

/** The error for an array that lost elements during the call. */
function tooShort(into: Int32Array, count: number): Error {
  return new DmaArgumentError('into', into, `an Int32Array that keeps its ${count} elements`);
}

const ALLOC_OPTIONS: OptionNames<AllocOptions> = { zero: true, grow: true };
const NO_OPTIONS: AllocOptions = {};

/** True for values of `zero` and `grow` that need no further look: one of them is there, and neither is anything else. */
function isUsual(zero: unknown, grow: unknown): boolean {
  if (typeof zero === 'boolean') return grow === undefined || typeof grow === 'boolean';
  return zero === undefined && typeof grow === 'boolean';
}

/**
 * Reads options and checks names and values. The hot calls come here for an object with neither name, and for one that
 * throws when it is read.
 */
function checkAllocOptions(options: AllocOptions): AllocOptions {
  const read = readOptions('options', options, ALLOC_OPTIONS);
  if (read.zero !== undefined) checkBoolean('zero', read.zero);
  if (read.grow !== undefined) checkBoolean('grow', read.grow);
  return read;
}

/** Whether a slow call may take a page; there is time here to look for names that are unknown. */
function checkedGrow(options: AllocOptions, grow: boolean | undefined): boolean {
  checkAllocOptions(options);
  return grow !== false;
}

/*
 * The inside of a pool, for the rest of the pool. Functions of the module that the package does not export, and not
 * protected methods, which could be called from JavaScript.
 */

/** Gives the slow path access to the pool's private fields. */
export let openList: (pool: HotPath) => ListControl;
/** Sets the slow path, before the first call and when the pool becomes a shared one. */
export let setSlowPath: (pool: HotPath, slow: SlowPath) => void;
/** What a pool does with block objects. */
export interface ObjectMaker<B> {
  /** Makes the object of a block that has none. */
  make(index: number): B;
  /** The error for what was given in place of a block of this pool. */
  notOurs(block: unknown): Error;
}

/** Sets what makes block objects; once, before the first call. */
export let setObjectMaker: <B extends Indexed>(pool: HotPath<B>, maker: ObjectMaker<B>) => void;
/** The object of a block, made when first needed. */
export let objectOf: <B extends Indexed>(pool: HotPath<B>, index: number) => B;
export let hasObject: (pool: HotPath, index: number) => boolean;
export let putObject: <B extends Indexed>(pool: HotPath<B>, index: number, block: B) => B;
/** True if `block` is the current object of a block of this pool; false for anything else, whatever it is. */
export let isCurrent: <B extends Indexed>(pool: HotPath<B>, block: unknown) => block is B;
/** True while block `index` is allocated; false for any other value. */
export let isAllocated: (pool: HotPath, index: number) => boolean;
/** Throws the pool's error for anything that is not the current object of a block of this pool. */
export let checkCurrent: (pool: HotPath, block: unknown) => void;
/** The worker that owns an allocated block, for messages; empty where there is only one. */
export let ownerOf: (pool: HotPath, index: number) => string;
/** Space for indices, kept: the steady state makes no garbage. Out of reach while in use, for calls may nest. */
export let borrowScratch: (pool: HotPath, count: number) => Int32Array;
export let returnScratch: (pool: HotPath, scratch: Int32Array) => void;

/** What every block object has. */
interface Indexed {
  readonly index: number;
}

/** Taking and giving blocks; {@link DmaPool} adds everything else. */
export abstract class HotPath<B extends Indexed = Indexed> {
  // Hot. Their order and their initial kinds (small integer, object) are part of the shape the engine compiles for.
  #head = EMPTY;
  #mark = ALLOCATED;
  /** Blocks taken and given back so far, both modulo 2^30: their difference is how many are out. */
  #allocations = 0;
  #frees = 0;
  /** Most blocks out at any free: a peak of use ends with one, so taking need not look. */
  #mostOut = 0;
  /** With so few blocks out, or fewer, a free takes the slow path; below 0: never. */
  #fewestOut = -1;
  #words: Int32Array<ArrayBuffer | SharedArrayBuffer>;
  /** Block objects by index, undefined until first needed. Never shorter than the pages have blocks. */
  #objects: (B | undefined)[] = [];
  // Cold.
  #slow!: SlowPath;
  #maker!: ObjectMaker<B>;
  /** The mark, also while the list is held. */
  #ownMark = ALLOCATED;
  #wraps = 0;
  /** Blocks that are out or on the list. */
  #owned = 0;
  #held = false;
  #heldHead = EMPTY;
  #scratch: Int32Array = NO_SCRATCH;

  protected constructor(words: Int32Array<ArrayBuffer | SharedArrayBuffer>) {
    this.#words = words;
  }

  /** Makes the table of objects as long as that of the words. */
  #fitObjects(): void {
    const missing = this.#words.length - this.#objects.length;
    // `push` would leave room for half as many again. Without holes, so that reading stays a plain load.
    if (missing > 0) this.#objects = this.#objects.concat(Array.from({ length: missing }, () => undefined));
  }

  #borrowScratch(count: number): Int32Array {
    const scratch = this.#scratch;
    this.#scratch = NO_SCRATCH;
    return scratch.length < count ? new Int32Array(count) : scratch;
  }

  #returnScratch(scratch: Int32Array): void {
    if (scratch.length > this.#scratch.length) this.#scratch = scratch;
  }

  alloc(options?: AllocOptions): B {
    if (options === undefined) {
      const index = this.#head;
      if (index >= 0) {
        const block = this.#objects[index];
        if (block !== undefined) {
          const words = this.#words;
          this.#head = words[index]!;
          words[index] = this.#mark;
          if ((this.#allocations = (this.#allocations + 1) & COUNT_MASK) === 0) this.#wraps++;
          return block;
        }
      }
      return this.#allocObjectSlowly(true);
    }
    return this.#allocWith(options);
  }

  #allocWith(options: AllocOptions): B {
    let zero: boolean | undefined;
    let grow: boolean | undefined;
    try {
      ({ zero, grow } = options);
    } catch {
      ({ zero, grow } = checkAllocOptions(options));
    }
    if (!isUsual(zero, grow)) ({ zero, grow } = checkAllocOptions(options));
    const index = this.#head;
    if (index >= 0) {
      const block = this.#objects[index];
      if (block !== undefined) {
        const words = this.#words;
        this.#head = words[index]!;
        words[index] = this.#mark;
        if ((this.#allocations = (this.#allocations + 1) & COUNT_MASK) === 0) this.#wraps++;
        if (zero === true) this.#slow.fill(index, 0);
        return block;
      }
    }
    return this.#zeroed(this.#allocObjectSlowly(checkedGrow(options, grow)), zero);
  }

  tryAlloc(options?: AllocOptions): B | null {
    if (options === undefined) {
      const index = this.#head;
      if (index >= 0) {
        const block = this.#objects[index];
        if (block !== undefined) {
          const words = this.#words;
          this.#head = words[index]!;
          words[index] = this.#mark;
          if ((this.#allocations = (this.#allocations + 1) & COUNT_MASK) === 0) this.#wraps++;
          return block;
        }
      }
      return this.#tryAllocObjectSlowly(true);
    }
    return this.#tryAllocWith(options);
  }

  #tryAllocWith(options: AllocOptions): B | null {
    let zero: boolean | undefined;
    let grow: boolean | undefined;
    try {
      ({ zero, grow } = options);
    } catch {
      ({ zero, grow } = checkAllocOptions(options));
    }
    if (!isUsual(zero, grow)) ({ zero, grow } = checkAllocOptions(options));
    const index = this.#head;
    if (index >= 0) {
      const block = this.#objects[index];
      if (block !== undefined) {
        const words = this.#words;
        this.#head = words[index]!;
        words[index] = this.#mark;
        if ((this.#allocations = (this.#allocations + 1) & COUNT_MASK) === 0) this.#wraps++;
        if (zero === true) this.#slow.fill(index, 0);
        return block;
      }
    }
    return this.#zeroed(this.#tryAllocObjectSlowly(checkedGrow(options, grow)), zero);
  }

  free(block: B): void {
    let index: number;
    let current: B | undefined;
    try {
      ({ index } = block);
      current = this.#objects[index];
    } catch {
      // For callers from JavaScript: nothing at all is a typed error too, and an index that is no key of any object. (To
      // catch costs less than to look first.)
      throw this.#maker.notOurs(block);
    }
    // That the table has this very object says at once that it is a block, of this pool, and current.
    if (current !== block) throw this.#maker.notOurs(block);
    const words = this.#words;
    const out = (this.#allocations - this.#frees) & COUNT_MASK;
    if (words[index] !== this.#mark || out <= this.#fewestOut) {
      this.#slow.drain(index);
      return;
    }
    if (out > this.#mostOut) this.#mostOut = out;
    words[index] = this.#head;
    this.#head = index;
    this.#frees = (this.#frees + 1) & COUNT_MASK;
  }

  tryAllocIndex(options?: AllocOptions): number {
    if (options === undefined) {
      const index = this.#head;
      if (index < 0) return Math.max(this.#slow.refill(true), -1);
      const words = this.#words;
      this.#head = words[index]!;
      words[index] = this.#mark;
      if ((this.#allocations = (this.#allocations + 1) & COUNT_MASK) === 0) this.#wraps++;
      return index;
    }
    return this.#tryAllocIndexWith(options);
  }

  #tryAllocIndexWith(options: AllocOptions): number {
    let zero: boolean | undefined;
    let grow: boolean | undefined;
    try {
      ({ zero, grow } = options);
    } catch {
      ({ zero, grow } = checkAllocOptions(options));
    }
    if (!isUsual(zero, grow)) ({ zero, grow } = checkAllocOptions(options));
    const index = this.#head;
    if (index < 0) return this.#zeroedIndex(Math.max(this.#takeSlowly(checkedGrow(options, grow)), -1), zero);
    const words = this.#words;
    this.#head = words[index]!;
    words[index] = this.#mark;
    if ((this.#allocations = (this.#allocations + 1) & COUNT_MASK) === 0) this.#wraps++;
    if (zero === true) this.#slow.fill(index, 0);
    return index;
  }

  allocIndex(options?: AllocOptions): number {
    if (options === undefined) {
      const index = this.#head;
      if (index < 0) return this.#allocSlowly(true);
      const words = this.#words;
      this.#head = words[index]!;
      words[index] = this.#mark;
      if ((this.#allocations = (this.#allocations + 1) & COUNT_MASK) === 0) this.#wraps++;
      return index;
    }
    return this.#allocIndexWith(options);
  }

  #allocIndexWith(options: AllocOptions): number {
    let zero: boolean | undefined;
    let grow: boolean | undefined;
    try {
      ({ zero, grow } = options);
    } catch {
      ({ zero, grow } = checkAllocOptions(options));
    }
    if (!isUsual(zero, grow)) ({ zero, grow } = checkAllocOptions(options));
    const index = this.#head;
    if (index < 0) return this.#zeroedIndex(this.#allocSlowly(checkedGrow(options, grow)), zero);
    const words = this.#words;
    this.#head = words[index]!;
    words[index] = this.#mark;
    if ((this.#allocations = (this.#allocations + 1) & COUNT_MASK) === 0) this.#wraps++;
    if (zero === true) this.#slow.fill(index, 0);
    return index;
  }

  // The cold half of the calls above. None of it goes through a hot call: what the engine learns of those, it shall
  // learn from hot callers only.

  #allocSlowly(grow: boolean): number {
    const index = this.#takeSlowly(grow);
    if (index < 0) throw this.#slow.refused(index);
    return index;
  }

  #allocObjectSlowly(grow: boolean): B {
    return this.#objectOrNothing(this.#allocSlowly(grow));
  }

  #tryAllocObjectSlowly(grow: boolean): B | null {
    const index = this.#takeSlowly(grow);
    return index < 0 ? null : this.#objectOrNothing(index);
  }

  #zeroed<T extends B | null>(block: T, zero: boolean | undefined): T {
    if (zero === true && block !== null) this.#slow.fill(block.index, 0);
    return block;
  }

  /** @param index An index, or a negative number for none. */
  #zeroedIndex(index: number, zero: boolean | undefined): number {
    if (zero === true && index >= 0) this.#slow.fill(index, 0);
    return index;
  }

  /** The object of a block that was just taken; if the engine has no room for it, the block goes back. */
  #objectOrNothing(index: number): B {
    try {
      return this.#objects[index] ?? this.#maker.make(index);
    } catch (error) {
      this.#giveSlowly(index);
      if (!(error instanceof RangeError)) throw error;
      this.#uncount(1);
      this.#frees = (this.#frees - 1) & COUNT_MASK;
      throw this.#slow.refused(NO_MEMORY);
    }
  }

  /** Takes a block from the list, or else from the slow path; a negative refusal if there is none. */
  #takeSlowly(grow: boolean): number {
    const index = this.#head;
    if (index < 0) return this.#slow.refill(grow);
    this.#head = this.#words[index]!;
    this.#words[index] = this.#mark;
    this.#uncount(-1);
    return index;
  }

  freeIndex(index: number): void {
    if (typeof index !== 'number') throw new DmaArgumentError('index', index, 'an index');
    // Also makes -0 a 0, which V8 would keep as a boxed double for ever after.
    const block = index | 0;
    const words = this.#words;
    const out = (this.#allocations - this.#frees) & COUNT_MASK;
    if (words[block] !== this.#mark || block !== index || out <= this.#fewestOut) {
      this.#slow.drain(index);
      return;
    }
    if (out > this.#mostOut) this.#mostOut = out;
    words[block] = this.#head;
    this.#head = block;
    this.#frees = (this.#frees + 1) & COUNT_MASK;
  }

  allocIndexBulk(into: Int32Array, count?: number, options?: AllocOptions): void {
    const wanted = bulkCount('into', into, count);
    const { zero = false, grow = true } = options === undefined ? NO_OPTIONS : checkAllocOptions(options);
    const refusal = zero ? this.#takeBulkZeroed(into, wanted, grow) : this.#takeBulk(into, wanted, grow);
    if (refusal < 0) throw this.#slow.refused(refusal, wanted);
  }

  #takeBulkZeroed(into: Int32Array, count: number, grow: boolean): number {
    // Not straight into `into`: another thread may write to it, and only blocks of this call may be zeroed.
    const taken = this.#borrowScratch(count);
    try {
      const refusal = this.#takeBulk(taken, count, grow);
      if (refusal < 0) return refusal;
      if (typedArrayLength('Int32Array', into) < count) {
        this.#giveBulk(taken, count);
        throw tooShort(into, count);
      }
      for (let i = 0; i < count; i++) {
        this.#slow.fill(taken[i]!, 0);
        into[i] = taken[i]!;
      }
      return 0;
    } finally {
      this.#returnScratch(taken);
    }
  }

  #takeBulk(into: Int32Array, count: number, grow: boolean): number {
    const out = (this.#allocations - this.#frees) & COUNT_MASK;
    if (count > this.#owned - out || this.#held) return this.#takeBulkSlowly(into, count, grow);
    const words = this.#words;
    const mark = this.#mark;
    let head = this.#head;
    for (let i = 0; i < count; i++) {
      into[i] = head;
      const next = words[head]!;
      words[head] = mark;
      head = next;
    }
    this.#head = head;
    const allocations = this.#allocations + count;
    if (allocations > COUNT_MASK) this.#wraps++;
    this.#allocations = allocations & COUNT_MASK;
    return 0;
  }

  #takeBulkSlowly(into: Int32Array, count: number, grow: boolean): number {
    const refusal = this.#slow.prepare(count, grow);
    if (refusal < 0) return refusal;
    const mostOut = this.#mostOut;
    // Not straight into `into`: the user's code may run in between, and undoing relies on what was taken.
    const taken = this.#borrowScratch(count);
    let got = 0;
    let last = 0;
    let done = false;
    try {
      while (got < count && (last = this.#takeSlowly(grow)) >= 0) {
        this.#reserveWord(last);
        taken[got++] = last;
      }
      if (got < count) return last;
      if (typedArrayLength('Int32Array', into) < count) {
        throw tooShort(into, count);
      }
      for (let i = 0; i < count; i++) {
        into[i] = taken[i]!;
        this.#words[taken[i]!] = this.#ownMark;
      }
      done = true;
      return 0;
    } finally {
      if (!done) this.#undoBulk(taken, got, mostOut);
      this.#returnScratch(taken);
    }
  }

  /**
   * Hides a block that a bulk call in progress has. While its word is RESERVED, other calls, which the log or the
   * memory source may make in between, can't free it or trim its page; the word is another one afterwards only if the
   * pool has ended and the page went.
   *
   * In a shared pool the word keeps the worker's mark: the other workers recover the block by it, should this one die.
   */
  #reserveWord(index: number): void {
    if (this.#ownMark === ALLOCATED) this.#words[index] = RESERVED;
  }

  /** Gives a block back for a bulk call that has it. */
  #giveReserved(index: number): void {
    if (this.#ownMark === ALLOCATED) {
      // The pool ended meanwhile and the page went: there is nothing to give.
      if (this.#words[index] !== RESERVED) return;
      this.#words[index] = ALLOCATED;
    }
    this.#giveSlowly(index);
  }

  #giveSlowly(index: number): void {
    if (this.#held) this.#slow.drain(index);
    else this.freeIndex(index);
  }

  // The last one first, so that the list is as it was; and as if they had never been out.
  #undoBulk(taken: Int32Array, count: number, mostOut: number): void {
    try {
      for (let i = count - 1; i >= 0; i--) this.#giveReserved(taken[i]!);
    } finally {
      // The last block of a destroyed pool takes its memory along, and the source may throw.
      this.#uncount(count);
      this.#frees = (this.#frees - count) & COUNT_MASK;
      this.#mostOut = Math.max(mostOut, this.#out());
    }
  }

  freeIndexBulk(from: Int32Array, count?: number): void {
    this.#giveBulk(from, bulkCount('from', from, count));
  }

  #giveBulk(from: Int32Array, count: number): void {
    const out = (this.#allocations - this.#frees) & COUNT_MASK;
    if (this.#held || out - count < this.#fewestOut) {
      this.#giveBulkSlowly(from, count);
      return;
    }
    const words = this.#words;
    const mark = this.#mark;
    let head = this.#head;
    let freed = 0;
    for (; freed < count; freed++) {
      const index = from[freed]!;
      // Out of the loop for what is rare: with a call inside, the engine keeps less in registers.
      if (words[index] !== mark) break;
      words[index] = head;
      head = index;
    }
    if (freed < count) throw this.#refuseFrees(head, from[freed]!);
    this.#head = head;
    if (out > this.#mostOut) this.#mostOut = out;
    this.#frees = (this.#frees + count) & COUNT_MASK;
  }

  /** The error for `refused`; the blocks from `head` to the head of the list are as they were again. */
  #refuseFrees(head: number, refused: number): Error {
    // The error first: it tells what the word says, and undoing may change just that one.
    const error = this.#slow.badFree(refused);
    // `head` is not stored yet, so marking the blocks again is all there is to undo. The words say which they are: the
    // array may lie in shared memory, and another thread may have written to it since.
    const words = this.#words;
    for (let index = head; index !== this.#head;) {
      const next = words[index]!;
      words[index] = this.#mark;
      index = next;
    }
    return error;
  }

  // Checks all before it frees any: freeing may poison a block or hand it to a waiter, which can't be undone.
  #giveBulkSlowly(from: Int32Array, count: number): void {
    const going = this.#borrowScratch(count);
    try {
      for (let i = 0; i < count; i++) going[i] = from[i]!;
      const words = this.#words;
      const own = this.#ownMark;
      for (let i = 0; i < count; i++) {
        const index = going[i]!;
        if (words[index] !== own) {
          const error = this.#slow.badFree(index);
          for (let k = 0; k < i; k++) words[going[k]!] = own;
          throw error;
        }
        // So that a second mention of the same block is seen.
        words[index] = own === ALLOCATED ? RESERVED : EMPTY;
      }
      if (own !== ALLOCATED) for (let i = 0; i < count; i++) words[going[i]!] = own;
      for (let i = 0; i < count; i++) this.#giveReserved(going[i]!);
    } finally {
      this.#returnScratch(going);
    }
  }

  dmaOf(index: number): number {
    return this.#slow.dmaOf(index);
  }

  bytesOf(index: number): Uint8Array<ArrayBuffer | SharedArrayBuffer> {
    return this.#slow.bytesOf(index);
  }

  #out(): number {
    return (this.#allocations - this.#frees) & COUNT_MASK;
  }

  #uncount(count: number): void {
    const allocations = this.#wraps * COUNT_RANGE + this.#allocations - count;
    this.#wraps = Math.floor(allocations / COUNT_RANGE);
    this.#allocations = allocations - this.#wraps * COUNT_RANGE;
  }

  static {
    /** One class, so that the engine compiles the slow path for one shape, however many pools there are. */
    class List implements ListControl {
      readonly #pool: HotPath;

      constructor(pool: HotPath) {
        this.#pool = pool;
      }

      word(index: number): number | undefined {
        return this.#pool.#words[index];
      }

      setWord(index: number, word: number): void {
        this.#pool.#words[index] = word;
      }

      replaceWords(words: Int32Array<ArrayBuffer | SharedArrayBuffer>): void {
        this.#pool.#words = words;
      }

      get words(): Int32Array<ArrayBuffer | SharedArrayBuffer> {
        return this.#pool.#words;
      }

      pop(): number {
        const pool = this.#pool;
        const index = this.top;
        if (index < 0) return EMPTY;
        this.setTop(pool.#words[index]!);
        pool.#words[index] = pool.#ownMark;
        pool.#uncount(-1);
        return index;
      }

      push(index: number): void {
        const pool = this.#pool;
        pool.#mostOut = this.mostOut;
        pool.#words[index] = this.top;
        this.setTop(index);
        pool.#frees = (pool.#frees + 1) & COUNT_MASK;
      }

      append(first: number, count: number): void {
        // Ascending, the first one on top.
        const words = this.#pool.#words;
        const last = first + count - 1;
        for (let index = first; index < last; index++) words[index] = index + 1;
        words[last] = EMPTY;
        this.setTop(first);
      }

      get mostOut(): number {
        return Math.max(this.#pool.#mostOut, this.#pool.#out());
      }

      passOn(): void {
        this.#pool.#frees = (this.#pool.#frees + 1) & COUNT_MASK;
        this.#pool.#uncount(-1);
      }

      writeOff(): void {
        this.#pool.#mostOut = this.mostOut;
        this.#pool.#frees = this.#pool.#allocations;
      }

      uncount(count: number): void {
        this.#pool.#uncount(count);
      }

      filter(keeps: (index: number) => boolean): void {
        const words = this.#pool.#words;
        let head = EMPTY;
        let last = EMPTY;
        for (let index = this.top; index >= 0;) {
          const next = words[index]!;
          if (keeps(index)) {
            if (last < 0) head = index;
            else words[last] = index;
            last = index;
          }
          index = next;
        }
        if (last >= 0) words[last] = EMPTY;
        this.setTop(head);
      }

      hold(): void {
        const pool = this.#pool;
        if (pool.#held) return;
        pool.#held = true;
        pool.#heldHead = pool.#head;
        pool.#head = EMPTY;
        pool.#mark = NEVER;
      }

      release(): void {
        const pool = this.#pool;
        if (!pool.#held) return;
        pool.#held = false;
        pool.#head = pool.#heldHead;
        pool.#heldHead = EMPTY;
        pool.#mark = pool.#ownMark;
      }

      dropObject(index: number): void {
        if (index < this.#pool.#objects.length) this.#pool.#objects[index] = undefined;
      }

      fitObjects(): void {
        // Who only uses indices needs no objects.
        if (this.#pool.#objects.length > 0) this.#pool.#fitObjects();
      }

      get out(): number {
        return this.#pool.#out();
      }

      get owned(): number {
        return this.#pool.#owned;
      }

      addOwned(count: number): void {
        this.#pool.#owned += count;
      }

      setMark(mark: number): void {
        const pool = this.#pool;
        pool.#ownMark = mark;
        if (!pool.#held) pool.#mark = mark;
      }

      setFewestOut(count: number): void {
        this.#pool.#fewestOut = count;
      }

      get top(): number {
        return this.#pool.#held ? this.#pool.#heldHead : this.#pool.#head;
      }

      setTop(index: number): void {
        if (this.#pool.#held) this.#pool.#heldHead = index;
        else this.#pool.#head = index;
      }

      move(count: 1 | -1): void {
        const pool = this.#pool;
        pool.#mostOut = this.mostOut;
        // One that comes counts as if its free had not been: it was allocated once only.
        pool.#frees = (pool.#frees - count) & COUNT_MASK;
        pool.#owned += count;
        if (pool.#fewestOut !== ALWAYS) pool.#fewestOut += count;
      }

      get allocations(): number {
        return this.#pool.#wraps * COUNT_RANGE + this.#pool.#allocations;
      }
    }
    openList = (pool) => new List(pool);
    setSlowPath = (pool, slow) => {
      pool.#slow = slow;
    };
    setObjectMaker = (pool, maker) => {
      pool.#maker = maker;
    };
    objectOf = (pool, index) => pool.#objects[index] ?? pool.#maker.make(index);
    hasObject = (pool, index) => pool.#objects[index] !== undefined;
    putObject = (pool, index, block) => {
      if (index >= pool.#objects.length) pool.#fitObjects();
      return (pool.#objects[index] = block);
    };
    isCurrent = <B extends Indexed>(pool: HotPath<B>, block: unknown): block is B => {
      try {
        return pool.#objects[(block as Indexed).index] === block;
      } catch {
        // No object at all, or one that throws when it is read.
        return false;
      }
    };
    // Only of a number: any other value would be made a property name, by code of its own.
    isAllocated = (pool, index) => typeof index === 'number' && pool.#words[index] === pool.#ownMark;
    checkCurrent = (pool, block) => {
      if (!isCurrent(pool, block)) throw pool.#maker.notOurs(block);
    };
    ownerOf = (pool, index) => pool.#slow.ownerOf(index);
    borrowScratch = (pool, count) => pool.#borrowScratch(count);
    returnScratch = (pool, scratch) => {
      pool.#returnScratch(scratch);
    };
  }
}
