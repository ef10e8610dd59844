/**
 * Which of a pool's pages contains an address, in O(1), and where each page is.
 *
 * Pages are naturally aligned, so an address says in which aligned unit it lies, and a unit holds at most one page of
 * the pool: an open-addressing hash from unit to page slot is enough. Typed arrays, not a Map: a page costs about 20
 * bytes here, and a Map entry with a boxed address as its key three times that.
 */
import { roundUp } from '../arguments.ts';

const NO_SLOT = -1;

export class PageIndex {
  readonly #unit: number;
  #bases = new Float64Array(4).fill(-1);
  #carved = new Int32Array(4);
  #hash = new Int32Array(8).fill(NO_SLOT);
  #pages = 0;
  #slots = 0;

  /** @param unit Bytes to which each page is aligned. */
  constructor(unit: number) {
    this.#unit = unit;
  }

  /** Pages there are. */
  get pages(): number {
    return this.#pages;
  }

  /** Slots there ever were; each below this is a page or free for one. */
  get slots(): number {
    return this.#slots;
  }

  /** DMA address of a page, -1 if there is none in that slot. */
  baseOf(slot: number): number {
    return slot >= 0 && slot < this.#slots ? this.#bases[slot]! : -1;
  }

  /** How many of a page's blocks were ever handed out: they are its first ones. */
  carvedOf(slot: number): number {
    return this.#carved[slot]!;
  }

  setCarved(slot: number, carved: number): void {
    this.#carved[slot] = carved;
  }

  /** Puts a page into a slot: a free one, or the one after the last. Makes room first, so that a failure changes nothing. */
  add(slot: number, base: number): void {
    if (slot >= this.#bases.length) {
      const length = roundUp(slot + 1 + (slot >> 3), 4);
      const bases = new Float64Array(length).fill(-1);
      const carved = new Int32Array(length);
      bases.set(this.#bases);
      carved.set(this.#carved);
      this.#bases = bases;
      this.#carved = carved;
    }
    if ((this.#pages + 1) * 4 > this.#hash.length * 3) this.#rehash(this.#hash.length * 2);
    this.#bases[slot] = base;
    this.#carved[slot] = 0;
    this.#slots = Math.max(this.#slots, slot + 1);
    this.#pages++;
    this.#insert(slot);
  }

  /** Takes pages out. All at once, because the hash is built anew. */
  remove(slots: readonly number[]): void {
    for (const slot of slots) this.#bases[slot] = -1;
    this.#pages -= slots.length;
    this.#rehash(this.#hash.length);
  }

  /** Slot of the page that contains `dma`, or -1. Does not look at the page's end: the unit may be longer. */
  slotAt(dma: number): number {
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
