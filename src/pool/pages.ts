/**
 * The pages of a pool by number: their addresses, their memory, and the positions of blocks in them.
 *
 *     pages          0         1         2 (returned)     3
 *                 [b0 .. b41][b42 .. b83][  no page     ][b126 .. b167]      block index = page * blocksPerPage + n
 *
 * An address is mapped to its page in O(1). Pages are naturally aligned to a unit, and a unit contains at most one page
 * of the pool. So an open-addressing hash from unit to page suffices. It uses typed arrays: a page costs about 20
 * bytes, a third of a Map entry with a boxed address as its key.
 */
import { roundUp } from '../arguments.ts';
import { DmaArgumentError, hex } from '../errors.ts';
import { DmaSourceError } from '../memory/errors.ts';
import type { CoherentMemory } from '../memory/coherent.ts';
import type { PoolGeometry } from './geometry.ts';

type Bytes = Uint8Array<ArrayBuffer | SharedArrayBuffer>;

const NO_PAGE = -1;

/** Limit of the pattern that fills shared memory, in bytes. */
const MOST_COPIED = 4096;

export class PoolPages {
  /** Device and pool, for messages. */
  readonly label: string;
  readonly #geometry: PoolGeometry;
  readonly #unit: number;
  /** DMA address of each page; -1 for a free page number. */
  #bases = new Float64Array(4).fill(-1);
  #carved = new Int32Array(4);
  #hash = new Int32Array(8).fill(NO_PAGE);
  #count = 0;
  /** Every number below this is either a page's or in `#freeNumbers`: `#end = #count + #freeNumbers.length`. */
  #end = 0;
  readonly #perPage: number;
  readonly #perPageInverse: number;
  /** Blocks lie back to back from the start of the page. Then a multiplication gives a block's offset. */
  readonly #flat: boolean;
  readonly #memory: (CoherentMemory | null)[] = [];
  /** Views of whole pages, created at first use. May be shorter than `#memory`. */
  readonly #views: (Bytes | undefined)[] = [];
  /** Bytes to copy into blocks; only if pages are in a SharedArrayBuffer. As long as a block, at most MOST_COPIED. */
  #pattern: Uint8Array | undefined;
  #freeNumbers: number[] = [];

  /**
   * @param label Device and pool, for messages.
   * @param unit Alignment of each page, in bytes.
   */
  constructor(label: string, geometry: PoolGeometry, unit: number) {
    this.label = label;
    this.#geometry = geometry;
    this.#unit = unit;
    this.#perPage = geometry.blocksPerPage;
    this.#perPageInverse = 1 / this.#perPage;
    this.#flat = geometry.offsetOf(this.#perPage - 1) === (this.#perPage - 1) * geometry.blockSize;
  }

  /** Number of pages. */
  get count(): number {
    return this.#count;
  }

  /** Upper bound of all indices, exclusive. */
  get limit(): number {
    return this.#end * this.#perPage;
  }

  /** Number of the next page to be added. Free numbers are reused first, so that indices stay dense. */
  get next(): number {
    return this.#freeNumbers.at(-1) ?? this.#end;
  }

  /** Adds a page. Changes nothing if it throws. @throws {@link DmaSourceError} if the pool already has a page there. */
  add(memory: CoherentMemory): number {
    // Read it once, and first: the memory is an object of the memory source, and a getter may call the pool.
    const { dma } = memory;
    if (this.#pageAt(dma) >= 0) {
      throw new DmaSourceError(`${this.label}: memory source gave ${hex(dma)} twice`);
    }
    const page = this.next;
    // Allocate first, so that a failure changes nothing.
    if (page >= this.#bases.length) {
      const length = roundUp(page + 1 + (page >> 3), 4);
      const bases = new Float64Array(length).fill(-1);
      const carved = new Int32Array(length);
      bases.set(this.#bases);
      carved.set(this.#carved);
      this.#bases = bases;
      this.#carved = carved;
    }
    if ((this.#count + 1) * 4 > this.#hash.length * 3) this.#rehash(this.#hash.length * 2);
    this.#bases[page] = dma;
    this.#carved[page] = 0;
    this.#end = Math.max(this.#end, page + 1);
    this.#count++;
    this.#insert(page);
    this.#memory[page] = memory;
    if (this.#freeNumbers.length > 0) this.#freeNumbers.pop();
    return page;
  }

  /** Removes pages. Returns their memory, which the caller must free. */
  remove(pages: readonly number[]): CoherentMemory[] {
    const memories = pages.map((page) => this.#memory[page]!);
    for (const page of pages) {
      this.#memory[page] = null;
      if (page < this.#views.length) this.#views[page] = undefined;
      this.#bases[page] = -1;
    }
    this.#count -= pages.length;
    // Once for all pages, because it rebuilds the hash.
    this.#rehash(this.#hash.length);
    // Descending, so that the lowest number is used next.
    this.#freeNumbers = this.#freeNumbers.concat(pages).sort((a, b) => b - a);
    return memories;
  }

  /** Numbers of the pages, ascending. */
  numbers(): number[] {
    const pages: number[] = [];
    for (let page = 0; page < this.#end; page++) if (this.#bases[page]! >= 0) pages.push(page);
    return pages;
  }

  /** Memory of a page; null or undefined for a number without a page. */
  memoryOf(page: number): CoherentMemory | null | undefined {
    return this.#memory[page];
  }

  /** Number of blocks of a page that were ever on the list: blocks 0 to n-1 of the page. */
  carvedOf(page: number): number {
    return this.#carved[page]!;
  }

  setCarved(page: number, carved: number): void {
    this.#carved[page] = carved;
  }

  /** True for the index of a block in a page. Accepts any value. */
  has(index: number): boolean {
    return Number.isInteger(index) && this.#baseOf(this.pageOf(index)) >= 0;
  }

  pageOf(index: number): number {
    // Exact for every index: adding 0.5 keeps the product at least 1/(2 * blocksPerPage) away from an integer.
    return Math.floor((index + 0.5) * this.#perPageInverse);
  }

  /** Byte offset in its page of a block in a page. */
  offsetOf(index: number): number {
    const n = index - this.pageOf(index) * this.#perPage;
    return this.#flat ? n * this.#geometry.blockSize : this.#geometry.offsetOf(n);
  }

  /** DMA address of a block; -1 if it is in no page. Accepts any value. */
  dmaOf(index: number): number {
    return this.has(index) ? this.#baseOf(this.pageOf(index)) + this.offsetOf(index) : -1;
  }

  /** Pool, index and address of a block in a page, for messages. */
  describe(index: number): string {
    return `${this.label}: block ${index} at ${hex(this.dmaOf(index))}`;
  }

  /** Index of the block that contains `dma`, allocated or not; -1 if none does. */
  indexAt(dma: number): number {
    const page = this.#pageAt(dma);
    if (page < 0) return -1;
    const n = this.#geometry.indexAt(dma - this.#baseOf(page));
    return n < 0 ? -1 : page * this.#perPage + n;
  }

  /** A new view of a block. @throws {@link DmaArgumentError} if the block is in no page. */
  bytesOf(index: number): Bytes {
    if (!this.has(index)) throw this.noSuchBlock(index);
    const { buffer, byteOffset } = this.#memory[this.pageOf(index)]!;
    return new Uint8Array(buffer, byteOffset + this.offsetOf(index), this.#geometry.blockSize);
  }

  /** A view of a whole page; the same object each time. */
  viewOf(page: number): Bytes {
    const known = this.#views[page];
    if (known !== undefined) return known;
    const memory = this.#memory[page]!;
    const { buffer, byteOffset } = memory;
    const view = new Uint8Array(buffer, byteOffset, this.#geometry.allocation);
    // A getter of the memory source's object may have called the pool, which may have removed the page.
    if (this.#memory[page] === memory) this.#views[page] = view;
    if (!(buffer instanceof ArrayBuffer)) {
      this.#pattern ??= new Uint8Array(Math.min(MOST_COPIED, this.#geometry.blockSize));
    }
    return view;
  }

  /**
   * Fills a block in a page with one byte value.
   *
   * V8 fills a SharedArrayBuffer byte by byte, but copies to one word by word.
   */
  fill(index: number, value: number): void {
    const view = this.viewOf(this.pageOf(index));
    const offset = this.offsetOf(index);
    const end = offset + this.#geometry.blockSize;
    const pattern = this.#pattern;
    if (pattern === undefined) {
      view.fill(value, offset, end);
      return;
    }
    const { length } = pattern;
    if (pattern[0] !== value) pattern.fill(value);
    // The last copy overlaps the one before, so that a block of any size needs no other loop.
    for (let at = offset; at < end; at += length) view.set(pattern, Math.min(at, end - length));
  }

  noSuchBlock(index: number): DmaArgumentError {
    return new DmaArgumentError(`${this.label}: index`, index, 'an index of its blocks');
  }

  /** DMA address of a page; -1 for a number without a page. */
  #baseOf(page: number): number {
    return this.#bases[page] ?? -1;
  }

  /** The page whose unit contains `dma`; NO_PAGE if none does. The page may end before `dma`. */
  #pageAt(dma: number): number {
    if (!(dma >= 0 && dma <= Number.MAX_SAFE_INTEGER)) return NO_PAGE;
    const unit = Math.floor(dma / this.#unit);
    const mask = this.#hash.length - 1;
    for (let at = hashOf(unit) & mask; ; at = (at + 1) & mask) {
      const page = this.#hash[at]!;
      if (page === NO_PAGE) return NO_PAGE;
      if (this.#bases[page] === unit * this.#unit) return page;
    }
  }

  #rehash(length: number): void {
    if (length > this.#hash.length) this.#hash = new Int32Array(length);
    this.#hash.fill(NO_PAGE);
    for (let page = 0; page < this.#end; page++) if (this.#bases[page]! >= 0) this.#insert(page);
  }

  #insert(page: number): void {
    const mask = this.#hash.length - 1;
    let at = hashOf(this.#bases[page]! / this.#unit) & mask;
    while (this.#hash[at] !== NO_PAGE) at = (at + 1) & mask;
    this.#hash[at] = page;
  }
}

/** Hashes unit numbers of up to 53 bits. Consecutive units get distant hashes, so that runs of pages do not cluster. */
function hashOf(unit: number): number {
  const high = Math.floor(unit / 0x1_0000_0000);
  const mixed = Math.imul((unit ^ high) | 0, 0x9e37_79b1);
  return (mixed ^ (mixed >>> 15)) >>> 0;
}
