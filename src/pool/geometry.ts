/**
 * How a page is cut into blocks: Linux 6.4's rule.
 *
 *     page (allocation bytes)
 *     |<-------- boundary -------->|<-------- boundary -------->|
 *     +-------+-------+-------+----+-------+-------+-------+----+--+
 *     | block | block | block |    | block | block | block |    |  |
 *     +-------+-------+-------+----+-------+-------+-------+----+--+
 *       0       1       2      gap   3       4       5      gap  tail
 *
 * Blocks lie in ascending order; one that would cross a boundary starts at that boundary instead. One that ends
 * exactly at a boundary does not cross it (kernels before 6.4 thought it did, and wasted it).
 */
import { checkInteger, checkPowerOfTwo, INT_MAX, type OptionNames, readOptions, roundUp } from '../arguments.ts';
import { DmaArgumentError } from '../errors.ts';

/** Linux raises every size to what its free-list entry needs inside a block. Ours needs nothing there; numbers agree. */
const MIN_BLOCK_SIZE = 16;

/** What {@link PoolGeometry} is computed from. */
export interface GeometryOptions {
  /** Bytes of a block, 1 to 2^31-1. */
  readonly size: number;
  /** Alignment of each block: a power of two; 0 or absent means 1. */
  readonly align?: number;
  /** No block crosses a multiple of this: a power of two, not below the rounded size; 0 or absent means none. */
  readonly boundary?: number;
  /** Page size of the memory source: a power of two. Default 4096. */
  readonly pageSize?: number;
}

const GEOMETRY_OPTIONS: OptionNames<GeometryOptions> = { size: true, align: true, boundary: true, pageSize: true };

/**
 * The shape of a pool's pages: sizes, counts, and where each block lies.
 *
 * @example
 * ```ts
 * const geometry = new PoolGeometry({ size: 68, align: 32, boundary: 4096 });
 * geometry.blockSize; // 96
 * geometry.blocksPerPage; // 42
 * geometry.wastedBytes; // 64
 * geometry.offsetOf(41); // 3936
 * ```
 */
export class PoolGeometry {
  /** Bytes of a block as asked for. */
  readonly size: number;
  /** Alignment as asked for; 0 if not given. */
  readonly align: number;
  /** Boundary as asked for; 0 if not given. */
  readonly boundary: number;
  /** Bytes from the start of a block that belong to it: `size` raised to 16 and rounded up to `align`. */
  readonly blockSize: number;
  /** Bytes of one page of the pool: one coherent allocation. */
  readonly allocation: number;
  /** The boundary in force: never above `allocation`. */
  readonly effectiveBoundary: number;
  /** Blocks cut from one page; 1 or more. */
  readonly blocksPerPage: number;
  /** Bytes of a page that lie in no block. */
  readonly wastedBytes: number;
  /** Blocks between two boundaries. */
  readonly #perSegment: number;

  /** @throws {@link DmaArgumentError} that names the argument and what would be accepted. */
  constructor(options: GeometryOptions) {
    const { size, align = 0, boundary = 0, pageSize = 4096 } = readOptions('options', options, GEOMETRY_OPTIONS);
    checkInteger('size', size, 1, INT_MAX);
    if (align !== 0) checkPowerOfTwo('align', align, 1, 2 ** 30);
    checkPowerOfTwo('pageSize', pageSize, MIN_BLOCK_SIZE, 2 ** 30);
    const multiple = Math.max(align, 1);
    const blockSize = roundUp(Math.max(size, MIN_BLOCK_SIZE), multiple);
    const largest = INT_MAX - (INT_MAX % multiple);
    if (blockSize > largest) throw new DmaArgumentError('size', size, `at most ${largest} with align ${align}`);
    if (boundary !== 0) checkPowerOfTwo('boundary', boundary, blockSize, 2 ** 53);
    this.size = size;
    this.align = align;
    this.boundary = boundary;
    this.blockSize = blockSize;
    this.allocation = Math.max(blockSize, pageSize);
    this.effectiveBoundary = boundary === 0 ? this.allocation : Math.min(boundary, this.allocation);
    this.#perSegment = Math.floor(this.effectiveBoundary / blockSize);
    const segments = Math.floor(this.allocation / this.effectiveBoundary);
    const tail = this.allocation - segments * this.effectiveBoundary;
    this.blocksPerPage = segments * this.#perSegment + Math.floor(tail / blockSize);
    this.wastedBytes = this.allocation - this.blocksPerPage * blockSize;
  }

  /** Byte offset in its page of block `n` of it, 0 to `blocksPerPage - 1`. Other numbers give meaningless offsets. */
  offsetOf(n: number): number {
    if (typeof n !== 'number') throw new DmaArgumentError('n', n, 'a number');
    const segment = Math.floor(n / this.#perSegment);
    return segment * this.effectiveBoundary + (n - segment * this.#perSegment) * this.blockSize;
  }

  /** Which block of a page contains byte `offset` of it; -1 for a byte that is in no block. */
  indexAt(offset: number): number {
    if (typeof offset !== 'number') throw new DmaArgumentError('offset', offset, 'a number');
    const segment = Math.floor(offset / this.effectiveBoundary);
    const within = Math.floor((offset - segment * this.effectiveBoundary) / this.blockSize);
    const n = segment * this.#perSegment + within;
    return within < this.#perSegment && n < this.blocksPerPage ? n : -1;
  }
}
