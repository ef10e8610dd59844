/**
 * A ring with the newest operations of pools, in memory that threads share.
 *
 *     int32    cursor | text cursor | active | pools        4 bytes each
 *     float64  milliseconds from 1970 to the zero of the monotonic clock; 8 bytes unused
 *     int64    nanoseconds of the monotonic clock           for each 64 operations
 *     int32    what, block, site, pool                      for each operation
 *     bytes    length, text | length, text | ...            sites; append-only
 *
 * `what` is `lap << 8 | worker << 2 | kind`. The lap distinguishes the operations of this turn of the ring from older
 * ones, and from a place that is reserved and not yet written.
 *
 * Order: an operation reserves its place by one atomic addition. A free does so before the block can be allocated
 * again, and an allocation after it took the block, so the order of the places is the order of the operations.
 */

/** Kinds of operations. 0 is a place that was never written. */
export const OPERATION_KIND = { alloc: 1, free: 2 } as const;

/** Operations for each reading of the clock. */
const PER_TIME = 64;
const CURSOR = 0;
const TEXT_CURSOR = 1;
const ACTIVE = 2;
const POOLS = 3;
const HEADER_BYTES = 32;
const EPOCH_AT = 16;
const WORDS_AN_OPERATION = 4;
/** Bytes for the texts of sites. Each thread writes each site once, so there is room for thousands. */
const TEXT_BYTES: number = 2 ** 20;
const LAP_MASK = 0xff_ffff;
const NO_SITE = 0;

/** One operation of a recording. */
export interface RecordedOperation {
  /** The operation. */
  readonly kind: 'alloc' | 'free';
  /** The worker that called; 0 in a pool of one thread. */
  readonly worker: number;
  /** Index of the block. */
  readonly index: number;
  /** Milliseconds since 1970. The clock is read once for 64 operations. */
  readonly time: number;
  /** Place of the call in the program; null without debug mode. */
  readonly site: string | null;
}

/** An operation with the number of its pool in the ring. */
export interface RingEntry extends RecordedOperation {
  readonly pool: number;
}

export class OperationRing {
  readonly buffer: SharedArrayBuffer;
  /** Capacity in operations. */
  readonly places: number;
  readonly #mask: number;
  readonly #shift: number;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #operationsAt: number;
  readonly #times: BigInt64Array<SharedArrayBuffer>;
  readonly #epoch: Float64Array<SharedArrayBuffer>;
  /** Text of site n: its length in bytes in word n, its bytes from word n + 1 on. */
  readonly #lengths: Int32Array<SharedArrayBuffer>;
  readonly #text: Uint8Array<SharedArrayBuffer>;
  /** Sites that this thread wrote. */
  readonly #sites = new Map<string, number>();

  /**
   * @param places Capacity in operations: a power of two, 64 or more.
   * @param buffer The ring of another thread; default: a new one.
   */
  constructor(places: number, buffer?: SharedArrayBuffer) {
    this.places = places;
    this.#mask = places - 1;
    this.#shift = Math.log2(places);
    const times = places / PER_TIME;
    this.#operationsAt = (HEADER_BYTES + times * 8) / 4;
    const textAt = (this.#operationsAt + places * WORDS_AN_OPERATION) * 4;
    this.buffer = buffer ?? new SharedArrayBuffer(textAt + TEXT_BYTES);
    this.#words = new Int32Array(this.buffer);
    this.#times = new BigInt64Array(this.buffer, HEADER_BYTES, times);
    this.#epoch = new Float64Array(this.buffer, EPOCH_AT, 1);
    this.#lengths = new Int32Array(this.buffer, textAt, TEXT_BYTES / 4);
    this.#text = new Uint8Array(this.buffer, textAt, TEXT_BYTES);
    if (buffer === undefined) {
      this.#epoch[0] = Date.now() - Number(process.hrtime.bigint()) / 1e6;
      this.#words[ACTIVE] = 1;
    }
  }

  /** False after {@link end}, in every thread. */
  get active(): boolean {
    return Atomics.load(this.#words, ACTIVE) === 1;
  }

  /** Marks the recording as ended. Threads that start later do not join it. */
  end(): void {
    Atomics.store(this.#words, ACTIVE, 0);
  }

  /** Reserves a number for a pool. */
  nextPool(): number {
    return Atomics.add(this.#words, POOLS, 1);
  }

  /**
   * Adds an operation. Allocates no heap memory.
   *
   * @param site Result of {@link siteOf}.
   */
  push(kind: number, worker: number, pool: number, index: number, site: number): void {
    const words = this.#words;
    const number = Atomics.add(words, CURSOR, 1);
    const place = number & this.#mask;
    if ((place & (PER_TIME - 1)) === 0) this.#setTime(place);
    const at = this.#operationsAt + place * WORDS_AN_OPERATION;
    words[at + 1] = index;
    words[at + 2] = site;
    words[at + 3] = pool;
    words[at] = (((number >>> this.#shift) + 1) << 8) | (worker << 2) | kind;
  }

  /** A function of its own, so that the engine inlines the clock and allocates no BigInt for it. Other clocks allocate a number. */
  #setTime(place: number): void {
    this.#times[place / PER_TIME] = process.hrtime.bigint();
  }

  #time(place: number): number {
    return this.#epoch[0]! + Number(this.#times[Math.floor(place / PER_TIME)]!) / 1e6;
  }

  /** Number of a site, for {@link push}; 0 for undefined, and when the space for texts is full. */
  siteOf(text: string | undefined): number {
    if (text === undefined) return NO_SITE;
    const known = this.#sites.get(text);
    if (known !== undefined) return known;
    const bytes = new TextEncoder().encode(text);
    const words = 1 + Math.ceil(bytes.length / 4);
    // From word 1 on, because 0 is NO_SITE.
    const word = 1 + Atomics.add(this.#words, TEXT_CURSOR, words);
    if (word + words > this.#lengths.length) {
      Atomics.sub(this.#words, TEXT_CURSOR, words);
      return NO_SITE;
    }
    this.#lengths[word] = bytes.length;
    this.#text.set(bytes, (word + 1) * 4);
    this.#sites.set(text, word);
    return word;
  }

  #siteText(word: number): string | null {
    if (word === NO_SITE) return null;
    const begin = (word + 1) * 4;
    // A copy, because decoders reject shared memory.
    return new TextDecoder().decode(this.#text.slice(begin, begin + this.#lengths[word]!));
  }

  /** Operations so far, modulo 2^32. */
  get total(): number {
    return Atomics.load(this.#words, CURSOR) >>> 0;
  }

  /** The operations in the ring, oldest first, without those that another thread is writing. */
  read(): RingEntry[] {
    const first = this.total - this.places;
    const found: RingEntry[] = [];
    const texts = new Map<number, string | null>();
    for (let i = 0; i < this.places; i++) {
      const number = first + i;
      const place = number & this.#mask;
      const at = this.#operationsAt + place * WORDS_AN_OPERATION;
      const word = this.#words[at]!;
      const kind = word & 3;
      if (kind === 0 || ((word >>> 8) & LAP_MASK) !== (((number >>> this.#shift) + 1) & LAP_MASK)) continue;
      const site = this.#words[at + 2]!;
      let text = texts.get(site);
      if (text === undefined) texts.set(site, (text = this.#siteText(site)));
      found.push({
        kind: kind === OPERATION_KIND.alloc ? 'alloc' : 'free',
        worker: (word >> 2) & 63,
        index: this.#words[at + 1]!,
        time: this.#time(place),
        site: text,
        pool: this.#words[at + 3]!,
      });
    }
    return found;
  }
}
