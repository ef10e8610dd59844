/** One buffer that grows in place, up to a maximum that is reserved at the start. */

import { DmaOutOfMemoryError } from '../errors.ts';

/**
 * A growable SharedArrayBuffer, of which any worker sees the growth without a message. Where there is none (a web page
 * without cross-origin isolation, an older engine) a plain ArrayBuffer of the whole limit, which can't be shared; the
 * operating system gives its memory as it is touched.
 *
 * All views of it have a fixed length: one that follows a growable buffer is 40 times slower.
 */
export class Arena {
  /** The buffer; the same one for ever. */
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
  /** The most bytes that it will have. */
  readonly limit: number;
  /** Bytes of a page; `limit` is a multiple of it. */
  readonly pageSize: number;
  readonly #step: number;
  #bytes: Uint8Array;
  // Of doubles, since V8 fills shared memory element by element: this is three times as fast as bytes.
  #words: Float64Array;

  /** Throws `DmaOutOfMemoryError` when the engine can't reserve `limit` bytes. */
  constructor(limit: number, step: number, pageSize: number) {
    this.limit = limit;
    this.pageSize = pageSize;
    this.#step = step;
    this.buffer = reserve(limit);
    this.#bytes = new Uint8Array(this.buffer, 0, this.buffer.byteLength);
    this.#words = new Float64Array(this.buffer, 0, this.buffer.byteLength / 8);
  }

  /** True when workers can see this memory. */
  get shareable(): boolean {
    return isShared(this.buffer);
  }

  /** The bytes there are so far, as a view of fixed length; another one after growth. */
  get bytes(): Uint8Array {
    return this.#bytes;
  }

  /** Sees to it that the first `end` bytes exist. False when the engine has no memory for them. */
  growTo(end: number): boolean {
    if (end <= this.#bytes.length) return true;
    if (!isShared(this.buffer)) return false;
    try {
      // Who holds the buffer can grow it too; it can't be made smaller then.
      if (end > this.buffer.byteLength) {
        this.buffer.grow(Math.min(Math.ceil(end / this.#step) * this.#step, this.limit));
      }
    } catch (error) {
      if (error instanceof RangeError) return false;
      throw error;
    }
    this.#bytes = new Uint8Array(this.buffer, 0, this.buffer.byteLength);
    this.#words = new Float64Array(this.buffer, 0, this.buffer.byteLength / 8);
    return true;
  }

  /** Makes the bytes from `from` to `to` zero: both multiples of 8 and at most `bytes.length`. */
  zero(from: number, to: number): void {
    this.#words.fill(0, from / 8, to / 8);
  }
}

function reserve(limit: number): ArrayBuffer | SharedArrayBuffer {
  try {
    // Both are asked for at run time: the types say that they always exist, browsers say otherwise.
    const Shared = (globalThis as { SharedArrayBuffer?: SharedArrayBufferConstructor }).SharedArrayBuffer;
    if (Shared !== undefined && typeof Shared.prototype.grow === 'function') {
      return new Shared(0, { maxByteLength: limit });
    }
    return new ArrayBuffer(limit);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    const message = `can't reserve ${limit} bytes of memory (${error.message}); ask for a lower limit`;
    throw new DmaOutOfMemoryError('ERR_DMAPOOL_NO_MEMORY', message);
  }
}

function isShared(buffer: ArrayBuffer | SharedArrayBuffer): buffer is SharedArrayBuffer {
  return typeof SharedArrayBuffer === 'function' && buffer instanceof SharedArrayBuffer;
}
