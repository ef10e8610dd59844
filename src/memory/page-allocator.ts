/**
 * Which pages of an address region are free: the lowest naturally aligned ones first, in O(log n).
 *
 *     value of a node: order+1 if all its 2^order pages are free, else the greater of its two children;
 *     so 0 means nothing free, and v means that the largest free aligned chunk below has 2^(v-1) pages
 *
 *                 2                   one tree node a byte, in level order: the children of node i
 *           1           2             are 2i and 2i+1, the root is node 1
 *         0   1       1   1
 *       used free   free free         pages, ascending
 *
 * A node at an extreme (all free, all used) speaks for everything below it, whose bytes may be stale: they are
 * refreshed on the way down. That is what makes marking a range of any length O(log n).
 *
 * The tree covers an aligned window around the region's first page and doubles when the window is full, so a
 * region of terabytes costs about two bytes for each page below the highest one used.
 */

import { checkInteger, checkPowerOfTwo } from '../arguments.ts';
import { DmaArgumentError, hex } from '../errors.ts';
import { DmaMappingError } from './errors.ts';

/** The most pages of one region: node numbers stay below 2^31, where the engine's integers are fast. */
export const MAX_REGION_PAGES: number = 2 ** 29;

/** The first tree has 2^5 leaves: 64 bytes, which V8 keeps inside the array object. */
const FIRST_ORDER = 5;

/** A region of addresses to be handed out by the page. */
export interface PageRegion {
  /** First address, in bytes: a multiple of `pageSize`, which need not be aligned to more. */
  readonly base: number;
  /** Bytes: a multiple of `pageSize`, at least one page and at most 2^29, ending at or below 2^53. */
  readonly size: number;
  /** Bytes of a page: a power of two. */
  readonly pageSize: number;
}

/**
 * Hands out pages of an address region. It knows addresses only, and touches no memory behind them.
 *
 * @example
 * ```ts
 * const pages = new PageAllocator({ base: 0x1000, size: 2 ** 30, pageSize: 4096 });
 * const address = pages.alloc(3 * 4096); // 0x4000: the lowest address aligned to four pages
 * pages.free(address, 3 * 4096);
 * ```
 */
export class PageAllocator {
  /** Bytes of a page. */
  readonly pageSize: number;
  /** Pages of the whole region. */
  readonly pages: number;

  // Page numbers below are relative to the origin: the address at or below the base that is aligned to the largest
  // chunk the region can hold. So alignment of relative numbers is alignment of addresses, and they fit 30 bits.
  readonly #origin: number;
  readonly #first: number;
  readonly #end: number;

  #tree: Uint8Array = new Uint8Array(2 << FIRST_ORDER);
  #order: number = FIRST_ORDER;
  #start: number;
  #used = 0;
  #highWater: number;

  /** Throws `DmaArgumentError` for a region that is out of the ranges stated at {@link PageRegion}. */
  constructor(region: PageRegion) {
    const { base, size, pageSize } = region;
    checkPowerOfTwo('pageSize', pageSize, 1, 2 ** 53);
    checkMultiple('base', base, pageSize);
    checkMultiple('size', size, pageSize, pageSize, Math.min(MAX_REGION_PAGES * pageSize, 2 ** 53 - base));
    this.pageSize = pageSize;
    this.pages = size / pageSize;
    const largest = 2 ** orderOf(this.pages);
    const basePage = base / pageSize;
    this.#first = basePage % largest;
    this.#origin = basePage - this.#first;
    this.#end = this.#first + this.pages;
    this.#start = this.#first - (this.#first % 2 ** FIRST_ORDER);
    this.#highWater = base;
    this.#open(1, FIRST_ORDER, this.#start);
  }

  /** Pages that are allocated. */
  get usedPages(): number {
    return this.#used;
  }

  /** The address just past the highest page that `alloc` ever gave, or the region's base: from there on all is unused. */
  get highWater(): number {
    return this.#highWater;
  }

  /**
   * Allocates whole pages for `bytes`, at the lowest address that is aligned to the smallest power of two of pages that
   * holds them, where that many pages are free. Only the pages needed are taken: the rest of the chunk stays free.
   *
   * @param bytes 1 or more.
   * @param limit The highest address that the last of `bytes` may have.
   * @returns the address, or -1 when no such place is free (also when the engine has no memory for a larger tree).
   */
  alloc(bytes: number, limit: number = Number.MAX_SAFE_INTEGER): number {
    checkInteger('bytes', bytes, 1);
    checkInteger('limit', limit);
    const count = Math.ceil(bytes / this.pageSize);
    if (count > this.pages) return -1;
    const order = orderOf(count);
    const chunk = 2 ** order;
    // Asked before the tree grows: a request that could not fit an empty region must not cost memory.
    const lowest = Math.ceil(this.#first / chunk) * chunk;
    const lastStart = limit - bytes + 1;
    if (lowest + chunk > this.#end || this.#address(lowest) > lastStart) return -1;

    while (this.#tree[1]! <= order) {
      // All starts of at most the window's order lie past the window now: no use in growing beyond the limit.
      if (order <= this.#order && this.#address(this.#start + 2 ** this.#order) > lastStart) return -1;
      if (!this.#grow()) return -1;
    }
    const page = this.#leftmost(order);
    const address = this.#address(page);
    if (address > lastStart) return -1;
    this.#mark(1, this.#order, this.#start, page, page + count, false);
    this.#used += count;
    this.#highWater = Math.max(this.#highWater, address + count * this.pageSize);
    return address;
  }

  /**
   * Frees the pages of a range. It need not be one earlier allocation: a part of one, or several neighbours, will do.
   * Callers that want exact pairs keep them themselves.
   *
   * Throws `DmaMappingError` (`ERR_DMAPOOL_NOT_MAPPED`) and changes nothing unless every page of it is in use.
   */
  free(address: number, bytes: number): void {
    checkMultiple('address', address, this.pageSize);
    checkInteger('bytes', bytes, 1);
    const from = address / this.pageSize - this.#origin;
    const to = from + Math.ceil(bytes / this.pageSize);
    const inside =
      from >= Math.max(this.#start, this.#first) && to <= Math.min(this.#start + 2 ** this.#order, this.#end);
    if (!inside || !this.#allUsed(1, this.#order, this.#start, from, to)) {
      throw new DmaMappingError('ERR_DMAPOOL_NOT_MAPPED', `${bytes} bytes at ${hex(address)}: not all allocated`);
    }
    this.#mark(1, this.#order, this.#start, from, to, true);
    this.#used -= to - from;
  }

  #address(page: number): number {
    return (this.#origin + page) * this.pageSize;
  }

  /** Doubles the window. False when it covers the region already, or there is no memory for the larger tree. */
  #grow(): boolean {
    const leaves = 2 ** this.#order;
    if (this.#start + leaves >= this.#end) return false;
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
    // Left of the first page there is nothing to open; right of the old window everything is new.
    if (!right) this.#open(3, this.#order, start + leaves);
    this.#combine(1, this.#order + 1);
    this.#order++;
    this.#start = start;
    return true;
  }

  /** Makes the region's pages below a node of an all-used part of the tree free. */
  #open(node: number, order: number, start: number): void {
    const from = Math.max(start, this.#first);
    const to = Math.min(start + 2 ** order, this.#end);
    if (from < to) this.#mark(node, order, start, from, to, true);
  }

  /** The first page of the lowest free chunk of 2^order pages, of which the root says that there is one. */
  #leftmost(order: number): number {
    const tree = this.#tree;
    let page = this.#start;
    let node = 1;
    for (let at = this.#order; at > order && tree[node] !== at + 1;) {
      node *= 2;
      at--;
      if (tree[node]! <= order) {
        node++;
        page += 2 ** at;
      }
    }
    return page;
  }

  /** True when the node's pages in the range are all used. */
  #allUsed(node: number, order: number, start: number, from: number, to: number): boolean {
    const value = this.#tree[node]!;
    if (value === 0 || value === order + 1) return value === 0;
    // Mixed, so a node wholly in the range has the answer.
    const middle = start + 2 ** (order - 1);
    if (from <= start && to >= start + 2 ** order) return false;
    return (
      (from >= middle || this.#allUsed(node * 2, order - 1, start, from, to)) &&
      (to <= middle || this.#allUsed(node * 2 + 1, order - 1, middle, from, to))
    );
  }

  /** Makes the node's pages in the range free or used. */
  #mark(node: number, order: number, start: number, from: number, to: number, free: boolean): void {
    const tree = this.#tree;
    if (from <= start && to >= start + 2 ** order) {
      tree[node] = free ? order + 1 : 0;
      return;
    }
    const value = tree[node]!;
    if (value === 0 || value === order + 1) {
      const child = value === 0 ? 0 : order;
      tree[node * 2] = child;
      tree[node * 2 + 1] = child;
    }
    const middle = start + 2 ** (order - 1);
    if (from < middle) this.#mark(node * 2, order - 1, start, from, to, free);
    if (to > middle) this.#mark(node * 2 + 1, order - 1, middle, from, to, free);
    this.#combine(node, order);
  }

  #combine(node: number, order: number): void {
    const left = this.#tree[node * 2]!;
    const right = this.#tree[node * 2 + 1]!;
    this.#tree[node] = left === order && right === order ? order + 1 : Math.max(left, right);
  }
}

/** The order of the smallest power of two that is not below `count`, 1 to 2^31. */
function orderOf(count: number): number {
  return 32 - Math.clz32(count - 1);
}

/** Throws unless `value` is a multiple of `multiple` from `low` to `high`. */
export function checkMultiple(
  argument: string,
  value: unknown,
  multiple: number,
  low = 0,
  high: number = Number.MAX_SAFE_INTEGER,
): void {
  checkInteger(argument, value, low, high);
  if (value % multiple !== 0) throw new DmaArgumentError(argument, value, `a multiple of ${multiple}`);
}
