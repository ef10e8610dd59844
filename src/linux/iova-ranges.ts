/** Allocates IOVAs for a device behind the kernel's IOMMU. */
import { MAX_REGION_PAGES, PageAllocator } from '../memory/page-allocator.ts';

const FOUR_GIB = 2 ** 32;

/** A range of usable IOVAs: first and last byte. */
export interface IovaRange {
  readonly first: number;
  readonly last: number;
}

/** Assumed where an old kernel reports no ranges: all addresses but the interrupt range of x86. */
const DEFAULT_RANGES: readonly IovaRange[] = [
  { first: 0, last: 0xfedf_ffff },
  { first: 0xfef0_0000, last: 2 ** 39 - 1 },
];

/**
 * Allocates IOVAs within the kernel's ranges. As in `HeapMemory`, devices that can address more than 4 GiB get high
 * addresses first. This keeps low addresses for 32-bit devices, and exposes drivers that truncate addresses.
 */
export class IovaRanges {
  /** Ascending; no part crosses 4 GiB. */
  readonly #parts: { readonly base: number; readonly end: number; readonly pages: PageAllocator }[] = [];

  /** @param pageSize Bytes of a page, a power of two. */
  constructor(ranges: readonly IovaRange[] = DEFAULT_RANGES, pageSize = 4096) {
    for (const { first, last } of ranges) {
      // Address 0 is never used: many devices take it as "none".
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

  /** Returns a naturally aligned address for `bytes` that ends at or below `limit`; -1 if there is none. */
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

  /** Frees addresses. @throws `DmaMappingError` when they are not allocated. */
  free(iova: number, bytes: number): void {
    const part = this.#parts.find(({ base, end }) => iova >= base && iova < end);
    (part ?? this.#parts[0])?.pages.free(iova, bytes);
  }
}
