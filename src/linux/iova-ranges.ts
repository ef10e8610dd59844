/** The addresses that a device behind the kernel's IOMMU may be given: which are handed out. */
import { MAX_REGION_PAGES, PageAllocator } from '../memory/page-allocator.ts';

const FOUR_GIB = 2 ** 32;

/** A range that the kernel allows: first and last byte. */
export interface IovaRange {
  readonly first: number;
  readonly last: number;
}

/** Where a kernel that does not say lets addresses be: all but what x86 keeps for interrupts. */
const USUAL_RANGES: readonly IovaRange[] = [
  { first: 0, last: 0xfedf_ffff },
  { first: 0xfef0_0000, last: 2 ** 39 - 1 },
];

/**
 * Hands out IOVAs within the kernel's ranges, in two halves as `HeapMemory` does: those above 4 GiB first, to devices
 * that reach them, so that a driver that loses the upper half of an address fails in its first test; and low ones are
 * kept for devices of 32 bits.
 */
export class IovaRanges {
  /** Ascending; none has addresses on both sides of 4 GiB. */
  readonly #parts: { readonly base: number; readonly end: number; readonly pages: PageAllocator }[] = [];

  /** @param pageSize Bytes of a page, a power of two. */
  constructor(ranges: readonly IovaRange[] = USUAL_RANGES, pageSize = 4096) {
    for (const { first, last } of ranges) {
      // Never address 0: to many devices it means that there is nothing.
      const from = Math.max(pageSize, Math.ceil(first / pageSize) * pageSize);
      const to = Math.floor((Math.min(last, 2 ** 53 - pageSize) + 1) / pageSize) * pageSize;
      this.#add(from, Math.min(to, FOUR_GIB), pageSize);
      this.#add(Math.max(from, FOUR_GIB), to, pageSize);
    }
    this.#parts.sort((a, b) => a.base - b.base);
  }

  #add(base: number, to: number, pageSize: number): void {
    const size = Math.min(to - base, MAX_REGION_PAGES * pageSize);
    if (size <= 0) return;
    this.#parts.push({ base, end: base + size, pages: new PageAllocator({ base, size, pageSize }) });
  }

  /** A naturally aligned address for `bytes`, all of which lie at or below `limit`; -1 if there is none. */
  alloc(bytes: number, limit: number): number {
    for (const high of [true, false]) {
      for (const { base, pages } of this.#parts) {
        if (base >= FOUR_GIB !== high || base > limit) continue;
        const address = pages.alloc(bytes, limit);
        if (address !== -1) return address;
      }
    }
    return -1;
  }

  /** Takes addresses back; throws `DmaMappingError` when they are not handed out. */
  free(iova: number, bytes: number): void {
    const part = this.#parts.find(({ base, end }) => iova >= base && iova < end);
    (part ?? this.#parts[0])?.pages.free(iova, bytes);
  }
}
