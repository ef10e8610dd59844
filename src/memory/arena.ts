/** One buffer that grows in place, up to a maximum that is reserved at the start. */

import { roundUp } from '../arguments.ts';
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

  /** Throws `DmaOutOfMemoryError` when the engine can't reserve `limit` bytes. */
  constructor(limit: number, step: number, pageSize: number) {
    this.limit = limit;
    this.pageSize = pageSize;
    this.#step = step;
    this.buffer = reserve(limit);
  }

  /** True when workers can see this memory. */
  get shareable(): boolean {
    return 'grow' in this.buffer;
  }

  /** A view of `length` bytes that exist. */
  bytes(from: number, length: number): Uint8Array {
    return new Uint8Array(this.buffer, from, length);
  }

  /** Sees to it that the first `end` bytes exist. False when the engine has no memory for them. */
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

  /** Makes the bytes from `from` to `to` zero, which exist: both are multiples of 8. */
  zero(from: number, to: number): void {
    // As doubles, since V8 fills shared memory element by element: three times as fast as bytes.
    new Float64Array(this.buffer, from, (to - from) / 8).fill(0);
  }
}

function reserve(limit: number): ArrayBuffer | SharedArrayBuffer {
  try {
    // Both are asked for at run time: the types say that they always exist, browsers say otherwise.
    const Shared = (globalThis as { SharedArrayBuffer?: SharedArrayBufferConstructor }).SharedArrayBuffer;
    if (typeof Shared?.prototype.grow === 'function') return new Shared(0, { maxByteLength: limit });
    return new ArrayBuffer(limit);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new DmaOutOfMemoryError(
      'ERR_DMAPOOL_NO_MEMORY',
      `can't reserve ${limit} bytes: ${error.message}; lower limit`,
    );
  }
}
