/**
 * The pages of a pool: where each is, what memory it has, and where in it a block lies.
 *
 *     slots          0         1         2 (given back)   3
 *                 [b0 .. b41][b42 .. b83][  no page     ][b126 .. b167]      block index = slot * blocksPerPage + n
 *
 * Which page contains an address is found in O(1): pages are naturally aligned, so an address says in which aligned unit
 * it lies, and a unit holds at most one page of the pool. So an open-addressing hash from unit to slot is enough. Typed
 * arrays, not a Map: a page costs about 20 bytes here, and a Map entry with a boxed address as its key three times that.
 */
import { roundUp } from '../arguments.ts';
import { DmaArgumentError, DmaSourceError, hex } from '../errors.ts';
import type { CoherentMemory } from '../memory/coherent.ts';
import type { PoolGeometry } from './geometry.ts';

type Bytes = Uint8Array<ArrayBuffer | SharedArrayBuffer>;

const NO_SLOT = -1;

export class PoolPages {
  readonly #owner: string;
  readonly #geometry: PoolGeometry;
  readonly #unit: number;
  /** DMA address of the page in each slot, -1 where there is none. */
  #bases = new Float64Array(4).fill(-1);
  #carved = new Int32Array(4);
  #hash = new Int32Array(8).fill(NO_SLOT);
  #count = 0;
  /** Slots there ever were; each below this is a page or free for one. */
  #slots = 0;
  readonly #perPage: number;
  readonly #perPageInverse: number;
  /** Blocks lie back to back from the start of the page: the usual case, and a multiplication instead of divisions. */
  readonly #flat: boolean;
  readonly #memory: (CoherentMemory | null)[] = [];
  /** Views of whole pages, made when first needed; shorter than the slots where none was. */
  readonly #views: (Bytes | undefined)[] = [];
  #freeSlots: number[] = [];

  /**
   * @param owner Device and pool, for messages.
   * @param unit Bytes to which each page is aligned.
   */
  constructor(owner: string, geometry: PoolGeometry, unit: number) {
    this.#owner = owner;
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
    return this.#slots * this.#perPage;
  }

  /** Slot of the next page to be added: a free one if there is, so that indices stay dense. */
  get nextSlot(): number {
    return this.#freeSlots.at(-1) ?? this.#slots;
  }

  /** Adds a page. Changes nothing when it throws. @throws {@link DmaSourceError} when the pool has a page there. */
  add(memory: CoherentMemory): number {
    // Read once, and before anything else: the memory is the source's object, and a getter of it may call the pool.
    const { dma } = memory;
    if (this.#slotAt(dma) >= 0) {
      throw new DmaSourceError(`${this.#owner}: the memory source gave ${hex(dma)}, where the pool has a page`);
    }
    const slot = this.nextSlot;
    // Room first, so that a failure changes nothing.
    if (slot >= this.#bases.length) {
      const length = roundUp(slot + 1 + (slot >> 3), 4);
      const bases = new Float64Array(length).fill(-1);
      const carved = new Int32Array(length);
      bases.set(this.#bases);
      carved.set(this.#carved);
      this.#bases = bases;
      this.#carved = carved;
    }
    if ((this.#count + 1) * 4 > this.#hash.length * 3) this.#rehash(this.#hash.length * 2);
    this.#bases[slot] = dma;
    this.#carved[slot] = 0;
    this.#slots = Math.max(this.#slots, slot + 1);
    this.#count++;
    this.#insert(slot);
    this.#memory[slot] = memory;
    if (this.#freeSlots.length > 0) this.#freeSlots.pop();
    return slot;
  }

  /** Takes pages out, and returns their memory, which is still to be given back. */
  remove(slots: readonly number[]): CoherentMemory[] {
    const memories = slots.map((slot) => this.#memory[slot]!);
    for (const slot of slots) {
      this.#memory[slot] = null;
      if (slot < this.#views.length) this.#views[slot] = undefined;
      this.#bases[slot] = -1;
    }
    this.#count -= slots.length;
    // All at once, because the hash is built anew.
    this.#rehash(this.#hash.length);
    // The lowest last, so that it is the next one used.
    this.#freeSlots = [...this.#freeSlots, ...slots].sort((a, b) => b - a);
    return memories;
  }

  /** Slots that hold a page, ascending. */
  slots(): number[] {
    const slots: number[] = [];
    for (let slot = 0; slot < this.#slots; slot++) if (this.#bases[slot]! >= 0) slots.push(slot);
    return slots;
  }

  /** Memory of the pages, in the order of their slots, of which none is free. */
  memories(): CoherentMemory[] {
    return this.#memory.map((memory) => memory!);
  }

  /** True if the page in `slot` is this memory. */
  holds(slot: number, memory: CoherentMemory): boolean {
    return this.#memory[slot] === memory;
  }

  /** How many of a page's blocks were ever on the list: they are its first ones. */
  carvedOf(slot: number): number {
    return this.#carved[slot]!;
  }

  setCarved(slot: number, carved: number): void {
    this.#carved[slot] = carved;
  }

  /** True for the index of a block that lies in a page. Takes anything. */
  has(index: number): boolean {
    return Number.isInteger(index) && this.#baseOf(this.slotOf(index)) >= 0;
  }

  slotOf(index: number): number {
    // Exact for every index: the half keeps the product at least 1/(2 * blocksPerPage) away from a whole number.
    return Math.floor((index + 0.5) * this.#perPageInverse);
  }

  /** Byte offset in its page of a block that lies in one. */
  offsetOf(index: number): number {
    const n = index - this.slotOf(index) * this.#perPage;
    return this.#flat ? n * this.#geometry.blockSize : this.#geometry.offsetOf(n);
  }

  /** DMA address of a block, -1 if it lies in no page. Takes anything. */
  dmaOf(index: number): number {
    return this.has(index) ? this.#baseOf(this.slotOf(index)) + this.offsetOf(index) : -1;
  }

  /** Index of the block that contains `dma`, handed out or not; -1 if none does. */
  indexAt(dma: number): number {
    const slot = this.#slotAt(dma);
    if (slot < 0) return -1;
    const n = this.#geometry.slotAt(dma - this.#baseOf(slot));
    return n < 0 ? -1 : slot * this.#perPage + n;
  }

  /** A new view of a block. @throws {@link DmaArgumentError} if it lies in no page. */
  bytesOf(index: number): Bytes {
    this.check(index);
    const { buffer, byteOffset } = this.#memory[this.slotOf(index)]!;
    return new Uint8Array(buffer, byteOffset + this.offsetOf(index), this.#geometry.blockSize);
  }

  /** A view of a whole page, always the same one. */
  viewOf(slot: number): Bytes {
    const known = this.#views[slot];
    if (known !== undefined) return known;
    const memory = this.#memory[slot]!;
    const { buffer, byteOffset } = memory;
    const view = new Uint8Array(buffer, byteOffset, this.#geometry.allocation);
    // Unless a getter of the source's object had the page given back.
    if (this.#memory[slot] === memory) this.#views[slot] = view;
    return view;
  }

  /** Fills a block that lies in a page. */
  fill(index: number, value: number): void {
    const offset = this.offsetOf(index);
    this.viewOf(this.slotOf(index)).fill(value, offset, offset + this.#geometry.blockSize);
  }

  /** Throws unless a block of that index lies in a page. */
  check(index: number): void {
    if (!this.has(index)) throw this.noSuchBlock(index);
  }

  noSuchBlock(index: number): DmaArgumentError {
    return new DmaArgumentError(`${this.#owner}: index`, index, 'the index of a block in one of its pages');
  }

  /** DMA address of a page, -1 if there is none in that slot. */
  #baseOf(slot: number): number {
    return slot >= 0 && slot < this.#slots ? this.#bases[slot]! : -1;
  }

  /** Slot of the page that contains `dma`, or -1. Does not look at the page's end: the unit may be longer. */
  #slotAt(dma: number): number {
    if (!(dma >= 0 && dma <= Number.MAX_SAFE_INTEGER)) return NO_SLOT;
    const unit = Math.floor(dma / this.#unit);
    const mask = this.#hash.length - 1;
    for (let at = hashOf(unit) & mask; ; at = (at + 1) & mask) {
      const slot = this.#hash[at]!;
      if (slot === NO_SLOT) return NO_SLOT;
      if (this.#bases[slot] === unit * this.#unit) return slot;
    }
  }

  #rehash(length: number): void {
    this.#hash = new Int32Array(length).fill(NO_SLOT);
    for (let slot = 0; slot < this.#slots; slot++) if (this.#bases[slot]! >= 0) this.#insert(slot);
  }

  #insert(slot: number): void {
    const mask = this.#hash.length - 1;
    let at = hashOf(this.#bases[slot]! / this.#unit) & mask;
    while (this.#hash[at] !== NO_SLOT) at = (at + 1) & mask;
    this.#hash[at] = slot;
  }
}

/** Spreads unit numbers of up to 53 bits; neighbours stay apart, so that runs of pages do not pile up. */
function hashOf(unit: number): number {
  const high = Math.floor(unit / 0x1_0000_0000);
  const mixed = Math.imul((unit ^ high) | 0, 0x9e37_79b1);
  return (mixed ^ (mixed >>> 15)) >>> 0;
}
