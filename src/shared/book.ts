/**
 * The debug records of a shared pool: for each block its generation and its allocation and free sites.
 *
 *     int32   cursor | generations | allocated at | freed at | time   one of each per block; a site is the offset of its text
 *     bytes   length, text | length, text | ...                       append-only
 */
import { observer } from '../memory/observer.ts';
import type { DebugBook } from '../pool/debug.ts';
import type { Site } from '../pool/site.ts';

/** Bytes for texts. Each worker writes each site once, so there is room for thousands. */
const TEXT_BYTES: number = 2 ** 20;
/** Words of each block. */
const WORDS_A_BLOCK = 4;
/** Times are milliseconds modulo this range (25 days); 0: none. */
const TIME_RANGE: number = 2 ** 31;
/** No site. */
const UNKNOWN = 0;

export class SharedBook implements DebugBook {
  readonly buffer: SharedArrayBuffer;
  readonly #cursor: Int32Array<SharedArrayBuffer>;
  readonly #generations: Int32Array<SharedArrayBuffer>;
  readonly #allocatedAt: Int32Array<SharedArrayBuffer>;
  readonly #freedAt: Int32Array<SharedArrayBuffer>;
  readonly #times: Int32Array<SharedArrayBuffer>;
  readonly #lengths: Int32Array<SharedArrayBuffer>;
  readonly #text: Uint8Array<SharedArrayBuffer>;
  readonly #known = new Map<string, number>();

  /** Size in bytes for `blocks` blocks. */
  static bytesFor(blocks: number): number {
    return 4 + blocks * WORDS_A_BLOCK * 4 + TEXT_BYTES;
  }

  /** @param buffer The buffer of another worker's book; default: a new one. */
  constructor(blocks: number, buffer: SharedArrayBuffer = new SharedArrayBuffer(SharedBook.bytesFor(blocks))) {
    this.buffer = buffer;
    this.#cursor = new Int32Array(buffer, 0, 1);
    this.#generations = new Int32Array(buffer, 4, blocks);
    this.#allocatedAt = new Int32Array(buffer, 4 + blocks * 4, blocks);
    this.#freedAt = new Int32Array(buffer, 4 + blocks * 8, blocks);
    this.#times = new Int32Array(buffer, 4 + blocks * 12, blocks);
    this.#lengths = new Int32Array(buffer, 4 + blocks * WORDS_A_BLOCK * 4, TEXT_BYTES / 4);
    this.#text = new Uint8Array(buffer, 4 + blocks * WORDS_A_BLOCK * 4, TEXT_BYTES);
  }

  allocated(index: number, site: Site | undefined): void {
    Atomics.add(this.#generations, index, 1);
    if (site !== undefined) Atomics.store(this.#allocatedAt, index, this.#place(site.describe()));
    if (observer !== undefined) this.#setTime(index, Date.now());
  }

  freed(index: number, site: Site | undefined): void {
    if (site !== undefined) Atomics.store(this.#freedAt, index, this.#place(site.describe()));
  }

  /** Copies the records of a block from another book. */
  copy(index: number, book: DebugBook): void {
    this.#generations[index] = book.generationOf(index);
    this.#allocatedAt[index] = this.#place(book.allocatedAt(index));
    this.#freedAt[index] = this.#place(book.freedAt(index));
    const when = book.allocatedWhen(index);
    if (when !== undefined) this.#setTime(index, when);
  }

  #setTime(index: number, when: number): void {
    Atomics.store(this.#times, index, Math.max(1, when % TIME_RANGE));
  }

  generationOf(index: number): number {
    return Atomics.load(this.#generations, index);
  }

  allocatedAt(index: number): string | undefined {
    return this.#read(Atomics.load(this.#allocatedAt, index));
  }

  freedAt(index: number): string | undefined {
    return this.#read(Atomics.load(this.#freedAt, index));
  }

  allocatedWhen(index: number): number | undefined {
    const time = Atomics.load(this.#times, index);
    if (time === 0) return undefined;
    const now = Date.now();
    return now - ((now - time) % TIME_RANGE);
  }

  /** Offset of the text; UNKNOWN when the buffer is full. */
  #place(text: string | undefined): number {
    if (text === undefined) return UNKNOWN;
    const known = this.#known.get(text);
    if (known !== undefined) return known;
    const bytes = new TextEncoder().encode(text);
    const words = 1 + Math.ceil(bytes.length / 4);
    // Texts start at word 1, because 0 is UNKNOWN.
    const word = 1 + Atomics.add(this.#cursor, 0, words);
    if (word + words > this.#lengths.length) {
      Atomics.sub(this.#cursor, 0, words);
      return UNKNOWN;
    }
    this.#lengths[word] = bytes.length;
    this.#text.set(bytes, (word + 1) * 4);
    this.#known.set(text, word);
    return word;
  }

  #read(word: number): string | undefined {
    if (word === UNKNOWN) return undefined;
    const begin = (word + 1) * 4;
    // A copy, because decoders reject shared memory.
    return new TextDecoder().decode(this.#text.slice(begin, begin + this.#lengths[word]!));
  }
}
