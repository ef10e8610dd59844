/**
 * A sparse table from page numbers to small numbers: what an IOMMU walks.
 *
 *     page number = key * 512 + slot        Map: key -> leaf        leaf: Int32Array of 512 entries, 0 for none
 *
 * Dense use costs four bytes a page. Leaves without entries are dropped.
 */

const LEAF_PAGES = 512;

/** The highest value of an entry: entries are kept one higher, so that fresh memory means "none". */
export const MAX_ENTRY: number = 2 ** 31 - 2;

interface Leaf {
  readonly entries: Int32Array;
  /** Entries in use. */
  used: number;
}

/** Page numbers (0 to 2^41) to values (0 to {@link MAX_ENTRY}). */
export class PageTable {
  readonly #leaves = new Map<number, Leaf>();

  /** The page's value, or -1 if it has none. */
  get(page: number): number {
    const leaf = this.#leaves.get(Math.floor(page / LEAF_PAGES));
    return leaf === undefined ? -1 : leaf.entries[page % LEAF_PAGES]! - 1;
  }

  /**
   * Gives `count` pages, which have no value, the values `value`, `value + step`, `value + 2 * step`, ...
   * Throws the engine's RangeError, and leaves nothing behind, when there is no memory for a leaf.
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

  /** Takes the values of `count` pages away, which all have one. */
  clear(page: number, count: number): void {
    for (let done = 0; done < count; done++) {
      const key = Math.floor((page + done) / LEAF_PAGES);
      const leaf = this.#leaves.get(key);
      if (leaf === undefined) continue;
      leaf.entries[(page + done) % LEAF_PAGES] = 0;
      if (--leaf.used === 0) this.#leaves.delete(key);
    }
  }

  #leafFor(key: number): Leaf {
    let leaf = this.#leaves.get(key);
    if (leaf === undefined) {
      leaf = { entries: new Int32Array(LEAF_PAGES), used: 0 };
      this.#leaves.set(key, leaf);
    }
    return leaf;
  }
}
