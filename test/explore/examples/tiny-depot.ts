/** A stack of free blocks that workers share, and an owner word for each block. */
import { LOCK_WORDS, ParkingLock } from './parking-lock.ts';

const COUNT = LOCK_WORDS;
const STACK: number = COUNT + 1;

/** The owner word of a free block. */
const NO_WORKER = -1;

export class TinyDepot {
  readonly #words: Int32Array;
  readonly #owners: Int32Array;
  readonly #lock: ParkingLock;
  readonly #worker: number;
  readonly #blocks: number;

  private constructor(buffer: SharedArrayBuffer, blocks: number, worker: number) {
    this.#words = new Int32Array(buffer, 0, STACK + blocks);
    this.#owners = new Int32Array(buffer, (STACK + blocks) * 4, blocks);
    this.#lock = new ParkingLock(this.#words, worker);
    this.#worker = worker;
    this.#blocks = blocks;
  }

  static create(blocks: number): SharedArrayBuffer {
    const buffer = new SharedArrayBuffer((STACK + 2 * blocks) * 4);
    const words = new Int32Array(buffer);
    for (let block = 0; block < blocks; block++) {
      words[STACK + block] = block;
      words[STACK + blocks + block] = NO_WORKER;
    }
    words[COUNT] = blocks;
    return buffer;
  }

  static attach(buffer: SharedArrayBuffer, blocks: number, worker: number): TinyDepot {
    return new TinyDepot(buffer, blocks, worker);
  }

  /** Returns a block, or -1. */
  take(): number {
    return this.#locked(() => this.#pop());
  }

  give(block: number): void {
    this.#locked(() => {
      this.#push(block);
      return 0;
    });
  }

  #locked(action: () => number): number {
    this.#lock.lock();
    const result = action();
    this.#lock.unlock();
    return result;
  }

  /** Owner first, then the count: after a death in between, recovery finds the block by its owner. */
  #pop(): number {
    const count = this.#words[COUNT]!;
    if (count === 0) return -1;
    const block = this.#words[STACK + count - 1]!;
    this.#owners[block] = this.#worker;
    this.#words[COUNT] = count - 1;
    return block;
  }

  #push(block: number): void {
    this.#words[STACK + this.#words[COUNT]!] = block;
    this.#words[COUNT]!++;
    this.#owners[block] = NO_WORKER;
  }

  /** Reclaims the blocks of a dead worker. */
  recover(dead: number): void {
    if (!this.#lock.seize(dead)) this.#lock.lock();
    for (let block = 0; block < this.#blocks; block++) {
      if (this.#owners[block] !== dead) continue;
      if (this.#isStacked(block)) this.#owners[block] = NO_WORKER;
      else this.#push(block);
    }
    this.#lock.unlock();
  }

  #isStacked(block: number): boolean {
    for (let at = 0; at < this.#words[COUNT]!; at++) if (this.#words[STACK + at] === block) return true;
    return false;
  }

  /** The free blocks, in order of number. Call it only while no worker runs. */
  free(): number[] {
    return Array.from(this.#words.subarray(STACK, STACK + this.#words[COUNT]!)).sort((a, b) => a - b);
  }

  ownerOf(block: number): number {
    return this.#owners[block]!;
  }
}
