/**
 * The last operations of a pool, of all its workers in one order, in shared memory.
 *
 *     int32    cursor | one a block of time: seconds and microseconds | two an operation: what, block
 *
 * An operation takes its place by one atomic addition, so the places are the order: a free takes its place before the
 * block can be allocated again, and an allocation after it has the block.
 *
 * The first word of an operation is `lap << 8 | worker << 2 | kind`. The lap tells operations of this time around from
 * older ones, and a place that was taken but not yet written from both.
 */

/** What an operation is. */
export const OPERATION_KIND = { alloc: 1, free: 2 } as const;

/** One clock reading serves so many operations. */
const PER_TIME = 64;
const CURSOR = 0;
const TIMES_AT = 2;
const LAP_MASK = 0xff_ffff;

/** One operation of a recording. */
export interface RecordedOperation {
  /** What was done. */
  readonly kind: 'alloc' | 'free';
  /** The worker that did it; 0 in a pool of one thread. */
  readonly worker: number;
  /** The block. */
  readonly index: number;
  /** When, in milliseconds since 1970; read once for 64 operations. */
  readonly time: number;
}

export class OperationRing {
  readonly buffer: SharedArrayBuffer;
  readonly #places: number;
  readonly #shift: number;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #operationsAt: number;

  /**
   * @param places Operations that are kept: a power of two, 64 or more.
   * @param buffer The ring of another thread; default: a new one.
   */
  constructor(places: number, buffer?: SharedArrayBuffer) {
    this.#places = places;
    this.#shift = Math.log2(places);
    this.#operationsAt = TIMES_AT + (places / PER_TIME) * 2;
    this.buffer = buffer ?? new SharedArrayBuffer((this.#operationsAt + places * 2) * 4);
    this.#words = new Int32Array(this.buffer);
  }

  /** Operations that are kept. */
  get places(): number {
    return this.#places;
  }

  /** Records an operation. */
  push(kind: number, worker: number, index: number): void {
    const words = this.#words;
    const number = Atomics.add(words, CURSOR, 1);
    const place = number & (this.#places - 1);
    if ((place & (PER_TIME - 1)) === 0) this.#setTime(place);
    const at = this.#operationsAt + place * 2;
    words[at + 1] = index;
    words[at] = (((number >>> this.#shift) + 1) << 8) | (worker << 2) | kind;
  }

  #setTime(place: number): void {
    const at = TIMES_AT + (place / PER_TIME) * 2;
    const now = performance.timeOrigin + performance.now();
    const seconds = Math.floor(now / 1000);
    this.#words[at] = seconds;
    this.#words[at + 1] = (now - seconds * 1000) * 1000;
  }

  #time(place: number): number {
    const at = TIMES_AT + Math.floor(place / PER_TIME) * 2;
    return this.#words[at]! * 1000 + this.#words[at + 1]! / 1000;
  }

  /** Operations so far, those that are kept no more included (modulo 2^32). */
  get total(): number {
    return Atomics.load(this.#words, CURSOR) >>> 0;
  }

  /** The operations that are kept, oldest first; without those that a thread is just writing. */
  read(): RecordedOperation[] {
    const { total } = this;
    const found: RecordedOperation[] = [];
    for (let number = Math.max(0, total - this.#places); number < total; number++) {
      const place = number & (this.#places - 1);
      const at = this.#operationsAt + place * 2;
      const word = this.#words[at]!;
      if (((word >>> 8) & LAP_MASK) !== (((number >>> this.#shift) + 1) & LAP_MASK)) continue;
      const kind = (word & 3) === OPERATION_KIND.alloc ? 'alloc' : 'free';
      found.push({ kind, worker: (word >> 2) & 63, index: this.#words[at + 1]!, time: this.#time(place) });
    }
    return found;
  }
}
