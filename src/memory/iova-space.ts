/** The bus addresses (IOVAs) of one device behind an IOMMU: which are handed out. */

import { MAX_REGION_PAGES, PageAllocator } from './page-allocator.ts';

const FOUR_GIB = 2 ** 32;

/**
 * Hands out IOVAs in two halves.
 *
 *     0        one page                          4 GiB                            4 GiB + 2^29 pages
 *     | never  |  low: for devices of 32 bits     |  high: first for all that reach it  |
 *              |  or less, else when high is full |
 *
 * A driver that loses the upper half of an address then fails at once, in the first test, and not on the one
 * machine with much memory. And 32-bit devices keep their addresses for themselves as long as possible.
 */
export class IovaSpace {
  readonly #pageSize: number;
  // Made on first use: most devices need one of them only.
  #low: PageAllocator | undefined;
  #high: PageAllocator | undefined;

  /** @param pageSize Bytes of a page: a power of two from 4096 to 2^30. */
  constructor(pageSize: number) {
    this.#pageSize = pageSize;
  }

  /** A naturally aligned address for `bytes`, all of which lie at or below `limit`; -1 if there is none. */
  alloc(bytes: number, limit: number): number {
    if (limit >= FOUR_GIB) {
      const address = this.#halfFor(FOUR_GIB).alloc(bytes, limit);
      if (address !== -1) return address;
    }
    return this.#halfFor(0).alloc(bytes, limit);
  }

  /** Takes addresses back; throws `DmaMappingError` and changes nothing when they are not all handed out. */
  free(iova: number, bytes: number): void {
    this.#halfFor(iova).free(iova, bytes);
  }

  #halfFor(iova: number): PageAllocator {
    const pageSize = this.#pageSize;
    if (iova < FOUR_GIB) {
      return (this.#low ??= new PageAllocator({ base: pageSize, size: FOUR_GIB - pageSize, pageSize }));
    }
    return (this.#high ??= new PageAllocator({
      base: FOUR_GIB,
      size: Math.min(MAX_REGION_PAGES * pageSize, 2 ** 53 - FOUR_GIB),
      pageSize,
    }));
  }
}
