/**
 * The pages of a pool, by number: where each is, what memory it has, and where in it a block lies.
 *
 *     pages          0         1         2 (given back)   3
 *                 [b0 .. b41][b42 .. b83][  no page     ][b126 .. b167]      block index = page * blocksPerPage + n
 *
 * Which page contains an address is found in O(1): pages are naturally aligned, so an address says in which aligned unit
 * it lies, and a unit holds at most one page of the pool. So an open-addressing hash from unit to page is enough. Typed
 * arrays, not a Map: a page costs about 20 bytes here, and a Map entry with a boxed address as its key three times that.
 */
import { roundUp } from '../arguments.ts';
import { DmaArgumentError, hex } from '../errors.ts';
import { DmaSourceError } from '../memory/errors.ts';
import type { CoherentMemory } from '../memory/coherent.ts';
import type { PoolGeometry } from './geometry.ts';

type Bytes = Uint8Array<ArrayBuffer | SharedArrayBuffer>;

const NO_PAGE = -1;

export class PoolPages {
  /** Device and pool, for messages. */
  readonly label: string;
  readonly #geometry: PoolGeometry;
  readonly #unit: number;
  /** DMA address of each page, -1 where a number has none. */
  #bases = new Float64Array(4).fill(-1);
  #carved = new Int32Array(4);
  #hash = new Int32Array(8).fill(NO_PAGE);
  #count = 0;
  /** Above the number of every page there ever was; each below this is a page or free for one. */
  #end = 0;
  readonly #perPage: number;
  readonly #perPageInverse: number;
  /** Blocks lie back to back from the start of the page: the usual case, and a multiplication instead of divisions. */
  readonly #flat: boolean;
  readonly #memory: (CoherentMemory | null)[] = [];
  /** Views of whole pages, made when first needed; shorter than the table of memory where none was. */
  readonly #views: (Bytes | undefined)[] = [];
  #freeNumbers: number[] = [];

  /**
   * @param label Device and pool, for messages.
   * @param unit Bytes to which each page is aligned.
   */
  constructor(label: string, geometry: PoolGeometry, unit: number) {
    this.label = label;
    this.#geometry = geometry;
    this.#unit = unit;
    this.#perPage = geometry.blocksPerPage;
    this.#perPageInverse = 1 / this.#perPage;
    this.#flat = geometry.offsetOf(this.#perPage - 1) === (this.#perPage - 1) * geometry.blockSize;
  }

  /** Pages there are. */
  get count(): number {
    return this.#count;
  }

  /** All indices are below this. */
  get limit(): number {
    return this.#end * this.#perPage;
  }

  /** Number of the next page to be added: a free one if there is, so that indices stay dense. */
  get next(): number {
    return this.#freeNumbers.at(-1) ?? this.#end;
  }

  /** Adds a page. Changes nothing when it throws. @throws {@link DmaSourceError} when the pool has a page there. */
  add(memory: CoherentMemory): number {
    // Read once, and before anything else: the memory is the source's object, and a getter of it may call the pool.
    const { dma } = memory;
    if (this.#pageAt(dma) >= 0) {
      throw new DmaSourceError(`${this.label}: memory source gave ${hex(dma)}, which the pool has`);
    }
    const page = this.next;
    // Room first, so that a failure changes nothing.
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

  /** Takes pages out, and returns their memory, which is still to be given back. */
  remove(pages: readonly number[]): CoherentMemory[] {
    const memories = pages.map((page) => this.#memory[page]!);
    for (const page of pages) {
      this.#memory[page] = null;
      if (page < this.#views.length) this.#views[page] = undefined;
      this.#bases[page] = -1;
    }
    this.#count -= pages.length;
    // All at once, because the hash is built anew.
    this.#rehash(this.#hash.length);
    // The lowest last, so that it is the next one used.
    this.#freeNumbers = [...this.#freeNumbers, ...pages].sort((a, b) => b - a);
    return memories;
  }

  /** Numbers of the pages, ascending. */
  numbers(): number[] {
    const pages: number[] = [];
    for (let page = 0; page < this.#end; page++) if (this.#bases[page]! >= 0) pages.push(page);
    return pages;
  }

  /** Memory of the pages, in the order of their numbers, of which none is free. */
  memories(): CoherentMemory[] {
    return this.#memory.map((memory) => memory!);
  }

  /** True if `page` is this memory. */
  holds(page: number, memory: CoherentMemory): boolean {
    return this.#memory[page] === memory;
  }

  /** How many of a page's blocks were ever on the list: they are its first ones. */
  carvedOf(page: number): number {
    return this.#carved[page]!;
  }

  setCarved(page: number, carved: number): void {
    this.#carved[page] = carved;
  }

  /** True for the index of a block that lies in a page. Takes anything. */
  has(index: number): boolean {
    return Number.isInteger(index) && this.#baseOf(this.pageOf(index)) >= 0;
  }

  pageOf(index: number): number {
    // Exact for every index: the half keeps the product at least 1/(2 * blocksPerPage) away from a whole number.
    return Math.floor((index + 0.5) * this.#perPageInverse);
  }

  /** Byte offset in its page of a block that lies in one. */
  offsetOf(index: number): number {
    const n = index - this.pageOf(index) * this.#perPage;
    return this.#flat ? n * this.#geometry.blockSize : this.#geometry.offsetOf(n);
  }

  /** DMA address of a block, -1 if it lies in no page. Takes anything. */
  dmaOf(index: number): number {
    return this.has(index) ? this.#baseOf(this.pageOf(index)) + this.offsetOf(index) : -1;
  }

  /** Pool, index and address of a block that lies in a page, for messages. */
  describe(index: number): string {
    return `${this.label}: block ${index} at ${hex(this.dmaOf(index))}`;
  }

  /** Index of the block that contains `dma`, handed out or not; -1 if none does. */
  indexAt(dma: number): number {
    const page = this.#pageAt(dma);
    if (page < 0) return -1;
    const n = this.#geometry.indexAt(dma - this.#baseOf(page));
    return n < 0 ? -1 : page * this.#perPage + n;
  }

  /** A new view of a block. @throws {@link DmaArgumentError} if it lies in no page. */
  bytesOf(index: number): Bytes {
    this.check(index);
    const { buffer, byteOffset } = this.#memory[this.pageOf(index)]!;
    return new Uint8Array(buffer, byteOffset + this.offsetOf(index), this.#geometry.blockSize);
  }

  /** A view of a whole page, always the same one. */
  viewOf(page: number): Bytes {
    const known = this.#views[page];
    if (known !== undefined) return known;
    const memory = this.#memory[page]!;
    const { buffer, byteOffset } = memory;
    const view = new Uint8Array(buffer, byteOffset, this.#geometry.allocation);
    // Unless a getter of the source's object had the page given back.
    if (this.#memory[page] === memory) this.#views[page] = view;
    return view;
  }

  /** Fills a block that lies in a page. */
  fill(index: number, value: number): void {
    const offset = this.offsetOf(index);
    this.viewOf(this.pageOf(index)).fill(value, offset, offset + this.#geometry.blockSize);
  }

  /** Throws unless a block of that index lies in a page. */
  check(index: number): void {
    if (!this.has(index)) throw this.noSuchBlock(index);
  }

  noSuchBlock(index: number): DmaArgumentError {
    return new DmaArgumentError(`${this.label}: index`, index, 'an index of its blocks');
  }

  /** DMA address of a page, -1 if there is none of that number. */
  #baseOf(page: number): number {
    return page >= 0 && page < this.#end ? this.#bases[page]! : -1;
  }

  /** The page that contains `dma`, or -1. Does not look at the page's end: the unit may be longer. */
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
    this.#hash = new Int32Array(length).fill(NO_PAGE);
    for (let page = 0; page < this.#end; page++) if (this.#bases[page]! >= 0) this.#insert(page);
  }

  #insert(page: number): void {
    const mask = this.#hash.length - 1;
    let at = hashOf(this.#bases[page]! / this.#unit) & mask;
    while (this.#hash[at] !== NO_PAGE) at = (at + 1) & mask;
    this.#hash[at] = page;
  }
}

/** Spreads unit numbers of up to 53 bits; neighbours stay apart, so that runs of pages do not pile up. */
function hashOf(unit: number): number {
  const high = Math.floor(unit / 0x1_0000_0000);
  const mixed = Math.imul((unit ^ high) | 0, 0x9e37_79b1);
  return (mixed ^ (mixed >>> 15)) >>> 0;
}
