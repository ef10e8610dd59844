/**
 * The layout of blocks in a page, by the rule of Linux 6.4.
 *
 *     page (allocation bytes)
 *     |<-------- boundary -------->|<-------- boundary -------->|
 *     +-------+-------+-------+----+-------+-------+-------+----+--+
 *     | block | block | block |    | block | block | block |    |  |
 *     +-------+-------+-------+----+-------+-------+-------+----+--+
 *       0       1       2      gap   3       4       5      gap  tail
 *
 * Blocks lie in ascending order. A block that would cross a boundary starts at that boundary instead. A block that ends
 * exactly at a boundary does not cross it; kernels before 6.4 skip such a block.
 */
import { checkInteger, checkPowerOfTwo, INT_MAX, type OptionNames, readOptions, roundUp } from '../arguments.ts';
import { DmaArgumentError } from '../errors.ts';

/**
 * Linux raises smaller sizes to the size of its free-list entry, which it stores in the block. This package stores no
 * entry there. It raises them too, so that its layouts are equal to Linux's.
 */
const MIN_BLOCK_SIZE = 16;

/** Parameters of a {@link PoolGeometry}. */
export interface GeometryOptions {
  /** Bytes per block, 1 to 2^31-1. */
  readonly size: number;
  /** Alignment of each block in bytes: a power of two up to 2^30. 0 or absent means 1. */
  readonly align?: number;
  /** Blocks cross no multiple of this: a power of two, at least the rounded size. 0 or absent: no boundary. */
  readonly boundary?: number;
  /** Page size of the memory source in bytes: a power of two, 16 to 2^30. Default 4096. */
  readonly pageSize?: number;
}

const GEOMETRY_OPTIONS: OptionNames<GeometryOptions> = { size: true, align: true, boundary: true, pageSize: true };

/**
 * The layout of a pool's pages: sizes, counts, and the position of each block.
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
  /** Bytes per block as requested. */
  readonly size: number;
  /** Alignment as requested; 0 if absent. */
  readonly align: number;
  /** Boundary as requested; 0 if absent. */
  readonly boundary: number;
  /** Bytes per block: `size` raised to 16 and rounded up to `align`. */
  readonly blockSize: number;
  /** Bytes per page of the pool: one coherent allocation. */
  readonly allocation: number;
  /** The effective boundary: at most `allocation`. */
  readonly effectiveBoundary: number;
  /** Blocks per page, at least 1. */
  readonly blocksPerPage: number;
  /** Bytes of a page outside all blocks: `allocation - blocksPerPage * blockSize`. */
  readonly wastedBytes: number;
  /** Blocks between two boundaries. */
  readonly #perSegment: number;

  /** @throws {@link DmaArgumentError} for an invalid option. */
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

  /**
   * Byte offset of block `n` in its page. `n` ranges from 0 to `blocksPerPage - 1`; other numbers give meaningless
   * offsets.
   */
  offsetOf(n: number): number {
    if (typeof n !== 'number') throw new DmaArgumentError('n', n, 'a number');
    const segment = Math.floor(n / this.#perSegment);
    return segment * this.effectiveBoundary + (n - segment * this.#perSegment) * this.blockSize;
  }

  /** Number of the block that contains byte `offset` of a page; -1 if none does. */
  indexAt(offset: number): number {
    if (typeof offset !== 'number') throw new DmaArgumentError('offset', offset, 'a number');
    const segment = Math.floor(offset / this.effectiveBoundary);
    const within = Math.floor((offset - segment * this.effectiveBoundary) / this.blockSize);
    const n = segment * this.#perSegment + within;
    return within < this.#perSegment && n < this.blocksPerPage ? n : -1;
  }
}
