/** Pseudo-random numbers, reproducible from the seed. */
export class Random {
  #state: number;

  /** @param seed Any integer; its low 32 bits count. Adjacent seeds give unrelated numbers. */
  constructor(seed: number) {
    // A state of 0 would stay 0.
    this.#state = scramble(seed) || 1;
  }

  /** 32 bits. */
  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }

  /** An integer from 0 to `limit - 1`. */
  below(limit: number): number {
    return Math.floor((this.next() / 2 ** 32) * limit);
  }

  /** True in `share` of all calls, 0 to 1. */
  chance(share: number): boolean {
    return this.next() < share * 2 ** 32;
  }

  /** One of `from`, which is not empty. */
  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!;
  }

  bytes(length: number): Uint8Array {
    return this.fill(new Uint8Array(Math.ceil(length / 4) * 4)).subarray(0, length);
  }

  /** Fills a buffer of whole words. */
  fill(bytes: Uint8Array): Uint8Array {
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    for (let i = 0; i < words.length; i++) words[i] = this.next();
    return bytes;
  }
}

/** Spreads a change of any bit over all 32 (the finalizer of MurmurHash3). */
function scramble(seed: number): number {
  let x = seed | 0;
  x = Math.imul(x ^ (x >>> 16), 0x85eb_ca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2_ae35);
  return x ^ (x >>> 16);
}
