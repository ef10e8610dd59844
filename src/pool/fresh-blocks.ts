/** Pages with blocks that were never on the list, in the order in which they will be. */
export class FreshBlocks {
  #slots: number[] = [];
  /** First of `#slots` that still counts: taking from the front of an array one by one would cost its length each time. */
  #first = 0;
  #count = 0;

  /** Blocks in all. */
  get count(): number {
    return this.#count;
  }

  /** The page to carve from, -1 if there is none. */
  get slot(): number {
    return this.#slots[this.#first] ?? -1;
  }

  /** A page came, with so many blocks. */
  add(slot: number, blocks: number): void {
    this.#slots.push(slot);
    this.#count += blocks;
  }

  /** So many of the first page's blocks are fresh no more, and whether it has no others. */
  carved(blocks: number, exhausted: boolean): void {
    this.#count -= blocks;
    if (exhausted && ++this.#first === this.#slots.length) {
      this.#slots = [];
      this.#first = 0;
    }
  }

  /** Pages go; `freshIn` tells how many fresh blocks each has. */
  remove(going: ReadonlySet<number>, freshIn: (slot: number) => number): void {
    const slots = this.#slots.slice(this.#first);
    for (const slot of slots) if (going.has(slot)) this.#count -= freshIn(slot);
    this.#slots = slots.filter((slot) => !going.has(slot));
    this.#first = 0;
  }
}
