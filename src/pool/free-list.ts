/** Words of the free list, and the slow path's interface to the list. hot-path.ts has the list itself. */

/** End of the list, and head of an empty list. */
export const EMPTY = -1;
/** Word of an allocated block. */
export const ALLOCATED = -2;
/** Word of a block that was written to while free. It is never allocated again. */
export const QUARANTINED = -3;
/** Word of a block whose page was returned. */
export const ABSENT = -4;
/** Word of a block taken by a bulk call in progress. It counts as allocated. */
export const RESERVED = -6;
/** Replaces the mark while the list is held. No word has this value. */
export const NEVER = -5;

/** For {@link ListControl.setFewestOut}: above any number of allocated blocks, so every free takes the slow path. */
export const ALWAYS: number = 2 ** 30 - 1;

/**
 * The free list, for the slow path. {@link openList} creates one for each pool.
 *
 *     out = allocations - frees (mod 2^30)     blocks that are allocated
 *     owned = out + length of the list
 */
export interface ListControl {
  /** Word of a block; undefined for an invalid index. */
  word(index: number): number | undefined;
  setWord(index: number, word: number): void;
  /** Replaces the words with a larger array that begins with the same words. */
  replaceWords(words: Int32Array<ArrayBuffer | SharedArrayBuffer>): void;
  readonly words: Int32Array<ArrayBuffer | SharedArrayBuffer>;
  /** Takes the top of the list, held or not, and counts an allocation. EMPTY if the list is empty. */
  pop(): number;
  /** Puts a block on the list, held or not, and counts a free. Its word may have any value before. */
  push(index: number): void;
  /** Counts a free and an allocation: a freed block goes directly to a waiter. */
  passOn(): void;
  /** Counts all allocated blocks as freed. */
  writeOff(): void;
  /** Puts fresh blocks on the list, which must be empty. */
  append(first: number, count: number): void;
  /** Largest number of allocated blocks so far. */
  readonly mostOut: number;
  /** Subtracts `count` undone allocations. */
  uncount(count: number): void;
  /** Removes the blocks for which `keeps` returns false. Preserves the order. */
  filter(keeps: (index: number) => boolean): void;
  /** Sends every call to the slow path until {@link release}. */
  hold(): void;
  release(): void;
  /** Drops the objects of `count` blocks. */
  dropObjects(first: number, count: number): void;
  /** Extends the table of objects, if there is one, to the length of the words. */
  fitObjects(): void;
  /** Blocks that are allocated. */
  readonly out: number;
  /** Blocks that are allocated or on the list. The slow path updates it. */
  readonly owned: number;
  addOwned(count: number): void;
  /** Sets the word of blocks allocated by this thread. */
  setMark(mark: number): void;
  /** Sets the bound at or below which a free takes the slow path. Negative: never. */
  setFewestOut(count: number): void;
  /** First block of the list; EMPTY if there is none. */
  readonly top: number;
  /** Replaces the list with the one that begins at `index`. */
  setTop(index: number): void;
  /**
   * Counts an allocated block that comes from another worker (1) or goes to one (-1). The bound of `setFewestOut`
   * changes by the same amount as `owned`.
   */
  move(count: 1 | -1): void;
  /** Allocations by this thread so far. */
  readonly allocations: number;
}
