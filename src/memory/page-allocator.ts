/**
 * Buddy allocator for the pages of an address region: lowest naturally aligned address first, in O(log n).
 *
 *     tree[node] = order + 1                                    if all 2^order pages of the node are free
 *                = max(tree[2 * node], tree[2 * node + 1])      otherwise
 *     so 0 means no free page, and v means that the largest free aligned chunk has 2^(v-1) pages
 *
 *                 2                   one byte per node, in level order: the root is node 1, the children of node i are
 *           1           2             2i and 2i+1
 *         0   1       1   1
 *       used free   free free         pages, ascending
 *
 * The bytes below a node that is all free or all used may be stale; a descent refreshes them. So marking a range of any
 * length is O(log n).
 *
 * The tree covers an aligned window of pages [start, start + 2^order) that contains the region's first page. It doubles when
 * the window is full, so a region of terabytes costs about two bytes for each page below the highest used one.
 */

import { checkInteger, checkPowerOfTwo } from '../arguments.ts';
import { DmaArgumentError, hex } from '../errors.ts';
import { DmaMappingError } from './errors.ts';

/** Maximum pages of a region. Node numbers stay below 2^31, so that the engine stores them as small integers. */
export const MAX_REGION_PAGES: number = 2 ** 29;

/** The first tree has 2^5 leaves. V8 stores its 64 bytes inside the array object. */
const FIRST_ORDER = 5;

/** A region of addresses, allocated in pages. `base + size <= 2^53`. */
export interface PageRegion {
  /** First address, in bytes: a multiple of `pageSize`. */
  readonly base: number;
  /** Bytes: a multiple of `pageSize`, 1 to 2^29 pages. */
  readonly size: number;
  /** Page size in bytes: a power of two. */
  readonly pageSize: number;
}

/**
 * Allocates pages of an address region. It manages addresses and accesses no memory.
 *
 * @example
 * ```ts
 * const pages = new PageAllocator({ base: 0x1000, size: 2 ** 30, pageSize: 4096 });
 * const address = pages.alloc(3 * 4096); // 0x4000: the lowest address aligned to four pages
 * pages.free(address, 3 * 4096);
 * ```
 */
export class PageAllocator {
  /** Page size in bytes. */
  readonly pageSize: number;
  /** Pages of the region. */
  readonly pages: number;

  // Page numbers are relative to the origin: the highest multiple of the largest chunk at or below the base. So a relative
  // number has the alignment of its address, and fits 30 bits. The region has the pages first <= page < end.
  readonly #origin: number;
  readonly #first: number;
  readonly #end: number;

  #tree: Uint8Array = new Uint8Array(2 << FIRST_ORDER);
  #order: number = FIRST_ORDER;
  #start: number;
  #used = 0;
  #highWater: number;

  /** @throws {@link DmaArgumentError} for a region outside the ranges of {@link PageRegion}. */
  constructor(region: PageRegion) {
    const { base, size, pageSize } = region;
    checkPowerOfTwo('pageSize', pageSize, 1, 2 ** 53);
    checkMultiple('base', base, pageSize);
    checkMultiple('size', size, pageSize, pageSize, Math.min(MAX_REGION_PAGES * pageSize, 2 ** 53 - base));
    this.pageSize = pageSize;
    this.pages = size / pageSize;
    const largest = 1 << orderOf(this.pages);
    const basePage = base / pageSize;
    this.#first = basePage % largest;
    this.#origin = basePage - this.#first;
    this.#end = this.#first + this.pages;
    this.#start = this.#first - (this.#first % (1 << FIRST_ORDER));
    this.#highWater = base;
    this.#open(this.#start);
  }

  /** Allocated pages. */
  get usedPages(): number {
    return this.#used;
  }

  /** End address of the highest page that `alloc` ever returned, or the region's base. No page from there up was ever used. */
  get highWater(): number {
    return this.#highWater;
  }

  /**
   * Allocates `n = ceil(bytes / pageSize)` pages at the start of the lowest free chunk of 2^ceil(log2(n)) naturally aligned
   * pages. The rest of the chunk stays free.
   *
   * @param bytes 1 or more.
   * @param limit Highest address that the last byte may have.
   * @returns The address, or -1 when no chunk is free or the engine has no memory for a larger tree.
   * @throws {@link DmaArgumentError} for an argument out of range.
   */
  alloc(bytes: number, limit: number = Number.MAX_SAFE_INTEGER): number {
    checkInteger('bytes', bytes, 1);
    checkInteger('limit', limit);
    const count = Math.ceil(bytes / this.pageSize);
    if (count > this.pages) return -1;
    const order = orderOf(count);
    const chunk = 1 << order;
    // Before the tree grows: a request that does not fit an empty region must not cost memory.
    const lowest = Math.ceil(this.#first / chunk) * chunk;
    const lastStart = limit - bytes + 1;
    if (lowest + chunk > this.#end || this.#address(lowest) > lastStart) return -1;

    while (this.#tree[1]! <= order) {
      // The window has no free chunk of this order, so the chunk would start at or after the window's end. Do not grow
      // the window if the limit is below that.
      if (order <= this.#order && this.#address(this.#windowEnd) > lastStart) return -1;
      if (!this.#grow()) return -1;
    }
    const page = this.#leftmost(order);
    const address = this.#address(page);
    if (address > lastStart) return -1;
    this.#everyChunk(page, page + count, false);
    this.#used += count;
    this.#highWater = Math.max(this.#highWater, address + count * this.pageSize);
    return address;
  }

  /**
   * Frees the pages of a range, which may be part of one allocation or span several. A caller that needs exact pairs of
   * allocation and free checks them itself.
   *
   * @param address In bytes, a multiple of `pageSize`.
   * @param bytes 1 or more; rounded up to whole pages.
   * @throws {@link DmaMappingError} `ERR_DMAPOOL_NOT_MAPPED`, with nothing changed, unless all its pages are allocated.
   */
  free(address: number, bytes: number): void {
    checkMultiple('address', address, this.pageSize);
    checkInteger('bytes', bytes, 1);
    const from = address / this.pageSize - this.#origin;
    const to = from + Math.ceil(bytes / this.pageSize);
    const inside = from >= Math.max(this.#start, this.#first) && to <= Math.min(this.#windowEnd, this.#end);
    if (!inside || !this.#everyChunk(from, to)) {
      throw new DmaMappingError('ERR_DMAPOOL_NOT_MAPPED', `${bytes} bytes at ${hex(address)}: not all allocated`);
    }
    this.#everyChunk(from, to, true);
    this.#used -= to - from;
  }

  get #windowEnd(): number {
    return this.#start + (1 << this.#order);
  }

  #address(page: number): number {
    return (this.#origin + page) * this.pageSize;
  }

  /** Doubles the window. False when it covers the region already, or the engine has no memory for the tree. */
  #grow(): boolean {
    const leaves = 1 << this.#order;
    if (this.#windowEnd >= this.#end) return false;
    let tree: Uint8Array;
    try {
      tree = new Uint8Array(leaves * 4);
    } catch (error) {
      if (error instanceof RangeError) return false;
      throw error;
    }
    // The window stays aligned to its own size, so the old tree becomes the left or the right half.
    const start = this.#start - (this.#start % (leaves * 2));
    const right = start !== this.#start;
    for (let width = 1; width <= leaves; width *= 2) {
      tree.set(this.#tree.subarray(width, width * 2), right ? width * 3 : width * 2);
    }
    this.#tree = tree;
    this.#order++;
    this.#start = start;
    this.#combine(1, this.#order);
    // A new left half lies below the region and stays used. Free the pages of the region in a new right half.
    if (!right) this.#open(start + leaves);
    return true;
  }

  /** Frees the pages of the region from page `start` to the end of the window, which are all used. */
  #open(start: number): void {
    this.#everyChunk(Math.max(start, this.#first), Math.min(this.#windowEnd, this.#end), true);
  }

  /** Returns the first page of the lowest free chunk of 2^order pages; `tree[1] > order`. */
  #leftmost(order: number): number {
    const tree = this.#tree;
    let page = this.#start;
    let node = 1;
    for (let at = this.#order; at > order && tree[node] !== at + 1;) {
      node *= 2;
      at--;
      if (tree[node]! <= order) {
        node++;
        page += 1 << at;
      }
    }
    return page;
  }

  /**
   * Marks the pages of the range as free or used. Without `free`, returns whether all of them are used instead. Visits
   * the largest aligned chunks of the range, at most 2 log2(n), and refreshes the bytes above them.
   */
  #everyChunk(from: number, to: number, free?: boolean): boolean {
    const tree = this.#tree;
    for (let page = from; page < to;) {
      // The node of order 0. Shifted right by n it is the node of order n above it.
      const leaf = (1 << this.#order) + page - this.#start;
      let order = 31 - Math.clz32(Math.min(to - page, leaf & -leaf));
      for (let at = this.#order; at > order; at--) {
        const node = leaf >> at;
        const value = tree[node]!;
        if (value === 0 || value === at + 1) tree[node * 2] = tree[node * 2 + 1] = value && at;
      }
      page += 1 << order;
      let node = leaf >> order;
      if (free !== undefined) {
        tree[node] = free ? order + 1 : 0;
        while (node > 1) this.#combine((node >>= 1), ++order);
      } else if (tree[node] !== 0) {
        return false;
      }
    }
    return true;
  }

  #combine(node: number, order: number): void {
    const left = this.#tree[node * 2]!;
    const right = this.#tree[node * 2 + 1]!;
    this.#tree[node] = left === order && right === order ? order + 1 : Math.max(left, right);
  }
}

/** Returns ceil(log2(count)) for `count` from 1 to 2^31. */
function orderOf(count: number): number {
  return 32 - Math.clz32(count - 1);
}

/** Checks that `value` is a multiple of a power of two, `low` to `high`. @throws `DmaArgumentError` */
export function checkMultiple(
  argument: string,
  value: unknown,
  multiple: number,
  low = 0,
  high: number = Number.MAX_SAFE_INTEGER,
): void {
  checkInteger(argument, value, low, high);
  // The quotient is exact, and faster than the remainder of a double.
  if (!Number.isInteger(value / multiple)) throw new DmaArgumentError(argument, value, `a multiple of ${multiple}`);
}
