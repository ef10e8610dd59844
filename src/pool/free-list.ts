/** The words of the free list, and the list as the slow path sees it. The list itself is in hot-path.ts. */

/** End of the list; also the head of an empty one. */
export const EMPTY = -1;
/** Word of a block that is handed out. */
export const ALLOCATED = -2;
/** Word of a block that is never handed out again, because something wrote to it while it was free. */
export const QUARANTINED = -3;
/** Word of a block whose page was given back. */
export const ABSENT = -4;
/** Word of a block that a bulk call in progress has: counted as out, in nobody's hands. -5 is taken, see NEVER. */
export const RESERVED = -6;

/** For {@link ListControl.setFewestOut}: more than can be out, so every free takes the slow path. */
export const ALWAYS: number = 2 ** 30 - 1;

/** The list as the slow path sees it. Made by {@link openList}, once for each pool. */
export interface ListControl {
  /** Word of a block; undefined for what is no index. */
  word(index: number): number | undefined;
  setWord(index: number, word: number): void;
  /** Replaces the words by a larger array that begins with the same ones. */
  replaceWords(words: Int32Array<ArrayBuffer | SharedArrayBuffer>): void;
  readonly words: Int32Array<ArrayBuffer | SharedArrayBuffer>;
  /** Takes the top of the list, held or not; EMPTY if there is none. Counts an allocation. */
  pop(): number;
  /** Puts a block on the list, held or not. Its word may be anything before. */
  push(index: number): void;
  /** A block goes from one holder to the next: counts a free and an allocation. */
  passOn(): void;
  /** All blocks that are out are lost: counts them as given back. */
  writeOff(): void;
  /** Puts blocks that were never handed out on the list, which must be empty. */
  append(first: number, count: number): void;
  /** Most blocks that were ever out at one time. */
  readonly mostOut: number;
  /** Takes back the counting of `count` allocations that were undone. */
  uncount(count: number): void;
  /** Keeps of the list, in its order, only the blocks that `keeps` says. */
  filter(keeps: (index: number) => boolean): void;
  /** Sends every call to the slow path, until released. */
  hold(): void;
  release(): void;
  /** Drops the object of a block. */
  dropObject(index: number): void;
  /** Makes the table of objects as long as that of the words, if there is one. */
  fitObjects(): void;
  /** Blocks that are out. */
  readonly out: number;
  /** Blocks that are out or on the list: for the slow path to keep. */
  readonly owned: number;
  addOwned(count: number): void;
  /** Sets the word of blocks that are handed out here. */
  setMark(mark: number): void;
  /** With so few blocks out, or fewer, a free takes the slow path; below 0: never. */
  setFewestOut(count: number): void;
  /** First block of the list, EMPTY if there is none. */
  readonly top: number;
  /** Replaces the list by the one that begins there. */
  setTop(index: number): void;
  /**
   * A block that is out comes from another worker (1), or goes to one (-1); the bound of `setFewestOut` goes up or down
   * with what is owned.
   */
  move(count: 1 | -1): void;
  /** Blocks ever handed out by an allocation here. */
  readonly allocations: number;
}
