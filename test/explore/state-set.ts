/**
 * A set of 53-bit numbers that can exceed the 16 million members of a JavaScript `Set`, at 8 bytes each and some spare
 * room.
 */
export class StateSet {
  #slots: Float64Array = new Float64Array(1 << 16);
  #size = 0;
  readonly #limit: number;

  /** @param limit Maximum number of members; later ones are not kept. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  get size(): number {
    return this.#size;
  }

  #find(slots: Float64Array, state: number): number {
    const mask = slots.length - 1;
    // The high bits went into other lanes: fold them in.
    let at = (Math.imul((state % 0x1_0000_0000) | 0, 0x9e37_79b1 | 0) ^ (state / 0x20_0000)) & mask;
    for (;;) {
      const found = slots[at]!;
      if (found === 0 || found === state) return at;
      at = (at + 1) & mask;
    }
  }

  has(state: number): boolean {
    return this.#slots[this.#find(this.#slots, state)] !== 0;
  }

  add(state: number): void {
    if (state === 0 || this.#size >= this.#limit) return;
    const at = this.#find(this.#slots, state);
    if (this.#slots[at] !== 0) return;
    this.#slots[at] = state;
    if (++this.#size * 3 > this.#slots.length * 2) this.#grow();
  }

  #grow(): void {
    const larger = new Float64Array(this.#slots.length * 2);
    for (const state of this.#slots) if (state !== 0) larger[this.#find(larger, state)] = state;
    this.#slots = larger;
  }
}
