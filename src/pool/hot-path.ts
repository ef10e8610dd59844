/**
 * The hot path: allocates and frees one block or many, by index and as objects.
 *
 * Free blocks form a list in an array of words outside the blocks, one word per block. A device that writes to a free
 * block therefore can't steer the allocator.
 *
 *     head --> 7        words:  index   0    1    2    3    4    5    6    7
 *                               word   [A]  [A]  [E]  [2]  [A]  [A]  [A]  [3]       A allocated, E end of list
 *
 *     words[i] = index of the next free block, or EMPTY     if block i is on the list
 *     words[i] = mark of the owner (negative)               if block i is allocated
 *     allocated blocks = #allocations - #frees (mod 2^30)
 *     #owned = allocated blocks + length of the list
 *
 * One load thus gives both the next link and whether a block may be freed. In a shared pool each worker has its own
 * mark, so the same comparison also checks the owner.
 *
 * All other states of a pool (debug mode, waiters, destroyed) hold the list: `head` is EMPTY and `mark` is NEVER, so
 * every call takes the slow path. The hot path has no test for them.
 *
 * Measured on V8, and the reason for the form of this file:
 *
 * - All hot fields are in one object of one shape. A separate list object costs a quarter more.
 * - All fields are small integers. A counter above 2^30 would become a boxed double, so counters wrap,
 *   and `#wraps` counts the wraps.
 * - No closures.
 * - Each call contains its own copy of the same six lines. Inlining depends on early type feedback: with a shared
 *   function, about half of the processes missed it.
 */
import { DmaArgumentError } from '../errors.ts';
import { checkBoolean, checkInteger, type OptionNames, readOptions, typedArrayLength } from '../arguments.ts';
import type { AllocOptions } from './contract.ts';
import { ALLOCATED, ALWAYS, EMPTY, type ListControl, NEVER, RESERVED } from './free-list.ts';
import type { SlowPath } from './backend.ts';
import { NO_MEMORY } from './refusal.ts';

/** Small integers have 31 bits where V8 compresses pointers. */
const COUNT_MASK = 0x3fff_ffff;
const COUNT_RANGE: number = COUNT_MASK + 1;

/** Limit of blocks per pool. Indices stay small integers in every engine. */
export const MAX_BLOCKS: number = COUNT_MASK;

const NO_SCRATCH = new Int32Array(0);

/** Checks `array` and `count`, and returns the count. Default: the array's length. */
function bulkCount(argument: string, array: Int32Array, count: number | undefined): number {
  const length = typedArrayLength('Int32Array', array);
  if (length < 0) throw new DmaArgumentError(argument, array, 'an Int32Array');
  if (count === undefined) return length;
  checkInteger('count', count, 0, length);
  return count;
}

/** The error for an array that shrank during the call. */
function tooShort(into: Int32Array, count: number): Error {
  return new DmaArgumentError('into', into, `an Int32Array of ${count} elements`);
}

const ALLOC_OPTIONS: OptionNames<AllocOptions> = { zero: true, grow: true };

/** True if at least one of `zero` and `grow` is present, and each is a boolean or absent. */
function isUsual(zero: unknown, grow: unknown): boolean {
  if (typeof zero === 'boolean') return grow === undefined || typeof grow === 'boolean';
  return zero === undefined && typeof grow === 'boolean';
}

/**
 * Checks the names and values of options. The hot calls use it for an object without `zero` and `grow`, and for one
 * that throws when read.
 */
function checkAllocOptions(options: AllocOptions): AllocOptions {
  const read = readOptions('options', options, ALLOC_OPTIONS);
  if (read.zero !== undefined) checkBoolean('zero', read.zero);
  if (read.grow !== undefined) checkBoolean('grow', read.grow);
  return read;
}

/** Checks the options of a slow call, unknown names included. Returns whether the call may take a page. */
function checkedGrow(options: AllocOptions, grow: boolean | undefined): boolean {
  checkAllocOptions(options);
  return grow !== false;
}

/*
 * Private state of a pool, for the rest of the package. These are functions of the module, not protected methods,
 * because JavaScript callers could call protected methods. The package does not export them.
 */

/** Gives the slow path access to the pool's private fields. */
export let openList: (pool: HotPath) => ListControl;
/** Sets the slow path: before the first call, and when the pool becomes shared. */
export let setSlowPath: (pool: HotPath, slow: SlowPath) => void;
/** Creates block objects. */
export interface ObjectMaker<B> {
  /** Creates the object of a block that has none. */
  make(index: number): B;
  /** The error for a value that is not a current block of this pool. */
  notOurs(block: unknown): Error;
}

/** Sets the maker of block objects; once, before the first call. */
export let setObjectMaker: <B extends Indexed>(pool: HotPath<B>, maker: ObjectMaker<B>) => void;
/** Returns the object of a block. Creates it at first use. */
export let objectOf: <B extends Indexed>(pool: HotPath<B>, index: number) => B;
export let hasObject: (pool: HotPath, index: number) => boolean;
export let putObject: <B extends Indexed>(pool: HotPath<B>, index: number, block: B) => B;
/** True if `block` is the current object of a block of this pool; false for any other value. */
export let isCurrent: <B extends Indexed>(pool: HotPath<B>, block: unknown) => block is B;
/** True while block `index` is allocated; false for any other value. */
export let isAllocated: (pool: HotPath, index: number) => boolean;
/** Throws the pool's error unless `block` is the current object of a block of this pool. */
export let checkCurrent: (pool: HotPath, block: unknown) => void;
/** Names the worker that owns an allocated block, for messages. Empty in a pool of one thread. */
export let ownerOf: (pool: HotPath, index: number) => string;
/** Lends a reusable array of at least `count` indices. Nested calls get another array. */
export let borrowScratch: (pool: HotPath, count: number) => Int32Array;
export let returnScratch: (pool: HotPath, scratch: Int32Array) => void;

/** The part of a block object that the hot path uses. */
interface Indexed {
  readonly index: number;
}

/** Allocates and frees blocks. {@link DmaPool} adds all other calls. */
export abstract class HotPath<B extends Indexed = Indexed> {
  // Hot. The order and the initial kind (small integer, object) of these fields determine the shape of the object.
  #head = EMPTY;
  #mark = ALLOCATED;
  /** Allocations and frees so far, mod 2^30. Allocated blocks = allocations - frees (mod 2^30). */
  #allocations = 0;
  #frees = 0;
  /** Largest number of allocated blocks at a free. Each peak ends with a free, so allocations need not update it. */
  #mostOut = 0;
  /** A free takes the slow path if at most this many blocks are allocated. Negative: never. */
  #fewestOut = -1;
  #words: Int32Array<ArrayBuffer | SharedArrayBuffer>;
  /** Block objects by index; undefined until first used. The array is empty or as long as the words. */
  #objects: (B | undefined)[] = [];
  // Cold.
  #slow!: SlowPath;
  #maker!: ObjectMaker<B>;
  /** The mark, also valid while the list is held. */
  #ownMark = ALLOCATED;
  #wraps = 0;
  /** Blocks that are allocated or on the list. */
  #owned = 0;
  #held = false;
  #heldHead = EMPTY;
  #scratch: Int32Array = NO_SCRATCH;

  protected constructor(words: Int32Array<ArrayBuffer | SharedArrayBuffer>) {
    this.#words = words;
  }

  /** Extends the table of objects to the length of the words. */
  #fitObjects(): void {
    const missing = this.#words.length - this.#objects.length;
    if (missing <= 0) return;
    // `push` would reserve half as much again. Without holes, so that a read stays a plain load. `concat` and `slice`
    // copy memory; Array.from calls a function for each element.
    let none: undefined[] = [undefined];
    while (none.length * 2 < missing) none = none.concat(none);
    this.#objects = this.#objects.concat(none, none.slice(0, missing - none.length));
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
      // JavaScript callers may pass undefined, or an index that can't be a property key. A catch costs
      // less than a check.
      throw this.#maker.notOurs(block);
    }
    // Identity with the entry of the table proves that this is the current object of a block of this pool.
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

  // The slow half of the calls above. It does not use those calls itself, because their type feedback must come from
  // hot callers only.

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

  /** @param index An index, or a negative refusal. */
  #zeroedIndex(index: number, zero: boolean | undefined): number {
    if (zero === true && index >= 0) this.#slow.fill(index, 0);
    return index;
  }

  /** Returns the object of a block just allocated. If the engine has no memory for the object, frees the block. */
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

  /** Takes a block from the list or the slow path. Returns its index or a negative refusal. */
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
    // Also converts -0 to 0. V8 would store -0 as a boxed double.
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
    const refusal =
      options === undefined ? this.#takeBulk(into, wanted, true) : this.#takeBulkWith(into, wanted, options);
    if (refusal < 0) throw this.#slow.refused(refusal, wanted);
  }

  #takeBulkWith(into: Int32Array, count: number, options: AllocOptions): number {
    const { zero = false, grow = true } = checkAllocOptions(options);
    return zero ? this.#takeBulkZeroed(into, count, grow) : this.#takeBulk(into, count, grow);
  }

  #takeBulkZeroed(into: Int32Array, count: number, grow: boolean): number {
    // Not directly into `into`: another thread may write to it, and only blocks of this call may be zeroed.
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
    // Not directly into `into`: user code may run during the loop, and the undo needs the indices.
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
   * Reserves a block for the current bulk call. While its word is RESERVED, calls from the log or the memory source can
   * neither free it nor trim its page. The word changes only if the pool ends and its page is returned.
   *
   * In a shared pool the word keeps the worker's mark, so that other workers can recover the block if this worker
   * exits.
   */
  #reserveWord(index: number): void {
    if (this.#ownMark === ALLOCATED) this.#words[index] = RESERVED;
  }

  /** Frees a block that `#reserveWord` reserved. */
  #giveReserved(index: number): void {
    if (this.#ownMark === ALLOCATED) {
      // The pool ended meanwhile, and its page was returned.
      if (this.#words[index] !== RESERVED) return;
      this.#words[index] = ALLOCATED;
    }
    this.#giveSlowly(index);
  }

  #giveSlowly(index: number): void {
    if (this.#held) this.#slow.drain(index);
    else this.freeIndex(index);
  }

  // In reverse order, to restore the list. Restores the counters too.
  #undoBulk(taken: Int32Array, count: number, mostOut: number): void {
    try {
      for (let i = count - 1; i >= 0; i--) this.#giveReserved(taken[i]!);
    } finally {
      // The last free of a destroyed pool returns its memory, and the memory source may throw.
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
      // The rare case is outside the loop: with a call inside, the engine keeps fewer values in registers.
      if (words[index] !== mark) break;
      words[index] = head;
      head = index;
    }
    if (freed < count) throw this.#refuseFrees(head, from[freed]!);
    this.#head = head;
    if (out > this.#mostOut) this.#mostOut = out;
    this.#frees = (this.#frees + count) & COUNT_MASK;
  }

  /** Undoes the frees from `head` to the stored head, and returns the error for `refused`. */
  #refuseFrees(head: number, refused: number): Error {
    // Create the error first: it describes the word, and the undo may change that word.
    const error = this.#slow.badFree(refused);
    // The new `head` is not stored yet, so setting the marks is the whole undo. Follow the links, not the array: it may
    // be in shared memory, and another thread may have changed it.
    const words = this.#words;
    for (let index = head; index !== this.#head;) {
      const next = words[index]!;
      words[index] = this.#mark;
      index = next;
    }
    return error;
  }

  // Checks all blocks before it frees any. A free may poison a block or deliver it to a waiter, which can't be undone.
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
        // Detects a second occurrence of the same block.
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
    /** One class for all pools, so that the engine compiles the slow path for one shape. */
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
        // Ascending, with `first` on top.
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

      dropObjects(first: number, count: number): void {
        this.#pool.#objects.fill(undefined, first, first + count);
      }

      fitObjects(): void {
        // A pool used only by index has no objects.
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
        // The giver counted the allocation of an incoming block, so subtract a free: out = allocations - frees.
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
        // `block` is not an object, or throws when read.
        return false;
      }
    };
    // The check avoids a conversion to a property name, which could run user code.
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
