/** One buffer that grows in place, up to a reserved maximum. */

import { roundUp } from '../arguments.ts';
import { DmaOutOfMemoryError } from '../errors.ts';

/**
 * A growable SharedArrayBuffer; every worker sees its growth without a message. An engine without it (a web page without
 * cross-origin isolation, an older engine) gets an ArrayBuffer of `limit` bytes. Workers can't share that one, and the
 * operating system commits its pages on first access.
 *
 * All views have a fixed length: a length-tracking view of a growable buffer is 40 times slower.
 */
export class Arena {
  /** The buffer; the same object for the arena's life. `buffer.byteLength <= limit`. */
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
  /** Maximum size in bytes. `limit % pageSize === 0`. */
  readonly limit: number;
  /** Page size in bytes. */
  readonly pageSize: number;
  readonly #step: number;

  /**
   * @param limit Maximum size in bytes, a multiple of `pageSize`.
   * @param step Bytes to grow by, a multiple of `pageSize`.
   * @param pageSize Bytes.
   * @throws {@link DmaOutOfMemoryError} `ERR_DMAPOOL_NO_MEMORY` when the engine can't reserve `limit` bytes.
   */
  constructor(limit: number, step: number, pageSize: number) {
    this.limit = limit;
    this.pageSize = pageSize;
    this.#step = step;
    this.buffer = reserve(limit);
  }

  /** True when the buffer is a SharedArrayBuffer. */
  get shareable(): boolean {
    return 'grow' in this.buffer;
  }

  /** Returns a view of `length` bytes at `from`; `from + length <= buffer.byteLength`. */
  bytes(from: number, length: number): Uint8Array {
    return new Uint8Array(this.buffer, from, length);
  }

  /** Grows the buffer to at least `end` bytes; false when the engine has no memory for them. */
  growTo(end: number): boolean {
    const { buffer } = this;
    if (end <= buffer.byteLength) return true;
    if (!('grow' in buffer)) return false;
    try {
      buffer.grow(Math.min(roundUp(end, this.#step), this.limit));
      return true;
    } catch (error) {
      if (error instanceof RangeError) return false;
      throw error;
    }
  }

  /** Fills bytes `from` to `to - 1` with zeros. Both are multiples of 8, at most `buffer.byteLength`. */
  zero(from: number, to: number): void {
    // V8 fills shared memory element by element: doubles are three times as fast as bytes.
    new Float64Array(this.buffer, from, (to - from) / 8).fill(0);
  }
}

function reserve(limit: number): ArrayBuffer | SharedArrayBuffer {
  try {
    // The types declare SharedArrayBuffer and `grow` as always present; some browsers lack one or both.
    const Shared = (globalThis as { SharedArrayBuffer?: SharedArrayBufferConstructor }).SharedArrayBuffer;
    if (typeof Shared?.prototype.grow === 'function') return new Shared(0, { maxByteLength: limit });
    return new ArrayBuffer(limit);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new DmaOutOfMemoryError('ERR_DMAPOOL_NO_MEMORY', `limit ${limit}: ${error.message}`);
  }
}
