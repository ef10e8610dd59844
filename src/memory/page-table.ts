/**
 * A sparse map from page numbers to small numbers; the page table of the software IOMMU.
 *
 *     page = key * 512 + index        Map: key -> leaf        leaf: Int32Array of 512 entries
 *     entry = value + 1, or 0 for none
 *     leaf.used = nonzero entries of the leaf > 0
 *
 * Dense use costs four bytes per page. Removing a leaf leaves it all zeros.
 */

const LEAF_PAGES = 512;

/** Highest value. An entry stores `value + 1`, so that a new leaf, all zeros, is empty. */
export const MAX_ENTRY: number = 2 ** 31 - 2;

interface Leaf {
  readonly entries: Int32Array;
  /** Nonzero entries. */
  used: number;
}

/** Maps page numbers (0 to 2^41) to values (0 to {@link MAX_ENTRY}). */
export class PageTable {
  readonly #leaves = new Map<number, Leaf>();
  /** An empty leaf for the next use: a device whose only page comes and goes would make one each time. */
  #spare: Leaf | null = null;

  /** Returns the page's value, or -1 if it has none. */
  get(page: number): number {
    const leaf = this.#leaves.get(Math.floor(page / LEAF_PAGES));
    return leaf === undefined ? -1 : leaf.entries[page % LEAF_PAGES]! - 1;
  }

  /**
   * Sets `count` pages without a value to `value`, `value + step`, `value + 2 * step`, ...
   *
   * @throws The engine's RangeError when there is no memory for a leaf; the table is then unchanged.
   */
  set(page: number, count: number, value: number, step: 0 | 1): void {
    let done = 0;
    try {
      for (; done < count; done++) {
        const leaf = this.#leafFor(Math.floor((page + done) / LEAF_PAGES));
        leaf.entries[(page + done) % LEAF_PAGES] = value + step * done + 1;
        leaf.used++;
      }
    } catch (error) {
      this.clear(page, done);
      throw error;
    }
  }

  /** Removes the values of `count` pages that all have one. */
  clear(page: number, count: number): void {
    for (let done = 0; done < count; done++) {
      const key = Math.floor((page + done) / LEAF_PAGES);
      const leaf = this.#leaves.get(key)!;
      leaf.entries[(page + done) % LEAF_PAGES] = 0;
      if (--leaf.used > 0) continue;
      this.#leaves.delete(key);
      this.#spare = leaf;
    }
  }

  #leafFor(key: number): Leaf {
    let leaf = this.#leaves.get(key);
    if (leaf === undefined) {
      leaf = this.#spare ?? { entries: new Int32Array(LEAF_PAGES), used: 0 };
      this.#spare = null;
      this.#leaves.set(key, leaf);
    }
    return leaf;
  }
}
