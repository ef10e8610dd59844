/**
 * The contract of pools and blocks: what every call promises, with units, ranges and errors.
 *
 * The class behind {@link DmaPool} is in `dma-pool.ts`, the one behind {@link DmaBlock} in `pool/block.ts`. Both are
 * declared here as interfaces, in one file because each names the other, so that the declarations that users read show
 * the contract and not how it is built.
 */
import type { Device } from '../device/device.ts';
import type { PoolGeometry } from './geometry.ts';
import type { PoolStatistics } from './statistics.ts';
import type { WaitOptions } from './waiting.ts';

/** A view of shared or unshared memory. */
export type Bytes = Uint8Array<ArrayBuffer | SharedArrayBuffer>;

/**
 * What `console.log` calls on Node, Bun and Deno, if it is there. Not in the interfaces below: programs call `inspect`,
 * not this.
 */
export const INSPECT: unique symbol = Symbol.for('nodejs.util.inspect.custom') as typeof INSPECT;

/** How to allocate a block. An unknown name is refused: always for an object with neither name, else in slow calls. */
export interface AllocOptions {
  /** Zero every byte of the block (Linux: `dma_pool_zalloc`). Default false: the bytes are whatever was there before. */
  readonly zero?: boolean;
  /** Take a new page from the memory source when no block is free. Default true. */
  readonly grow?: boolean;
}

/**
 * Equal, aligned blocks of coherent memory for one device (Linux: `struct dma_pool`).
 *
 * Blocks of a fresh page come out in ascending order of address; a freed block is the next one out (LIFO). A new page is
 * taken only when no block is free. Pages go back at {@link DmaPool.destroy} and {@link DmaPool.trim}, never by
 * themselves.
 *
 * Every free is checked in O(1): the block belongs to this pool and is allocated. Outside debug mode block objects are
 * reused, so after `free(a); b = alloc()` both names may be the same object, and a second `free(a)` then frees `b`. In
 * debug mode each allocation returns a fresh handle, and the second free is an error.
 *
 * The type parameter is the pool's name: a block of one pool given to another does not compile.
 *
 * @example
 * ```ts
 * using device = new Device({ name: '0000:00:02.0' });
 * using pool = DmaPool.create('ehci_qtd', device, { size: 96, align: 32, boundary: 4096 });
 * const qtd = pool.alloc({ zero: true });
 * qtd.view.setUint32(0, 0x1, true); // no next qTD
 * console.log(qtd.dma % 32); // 0
 * pool.free(qtd);
 * ```
 */
export interface DmaPool<N extends string = string> extends Disposable {
  /** Name, as given; shown in messages and in the device's `pools` attribute. */
  readonly name: N;
  /** The device that the blocks are for. */
  readonly device: Device;
  /** How pages are cut into blocks. */
  readonly geometry: PoolGeometry;
  /** Most blocks that may be allocated at one time. */
  readonly maxBlocks: number;

  /**
   * Allocates a block (Linux: `dma_pool_alloc`).
   *
   * @param options Whether to zero the block, and whether to take a new page for it.
   * @throws {@link DmaOutOfMemoryError} when there is no block to be had. Its code gives the reason: the memory source is
   *   exhausted (`ERR_DMAPOOL_NO_MEMORY`), the pool is at its limit (`ERR_DMAPOOL_LIMIT`), or no block is free and `grow`
   *   is false (`ERR_DMAPOOL_NO_FREE_BLOCK`).
   * @throws {@link DmaDestroyedError} after `destroy`. An error that the memory source throws is passed on. Nothing is lost.
   *
   * @example
   * ```ts
   * const pool = DmaPool.create('ehci_qtd', new Device({ name: '0000:00:1d.7' }), { size: 96, align: 32 });
   * const qtd = pool.alloc({ zero: true });
   * pool.free(qtd);
   * ```
   */
  alloc(options?: AllocOptions): DmaBlock<N>;

  /**
   * {@link alloc}, but returns null where that throws {@link DmaOutOfMemoryError}.
   *
   * @example
   * ```ts
   * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048 });
   * pool.reserve(64); // takes pages for 64 blocks now
   * const block = pool.tryAlloc({ grow: false }); // takes none later: null if all 64 are allocated
   * block?.free();
   * ```
   */
  tryAlloc(options?: AllocOptions): DmaBlock<N> | null;

  /**
   * Frees a block (Linux: `dma_pool_free`). It is the next one to be allocated.
   *
   * @param block What {@link alloc} returned.
   * @throws {@link DmaBlockError} for a block that is not allocated (`ERR_DMAPOOL_NOT_ALLOCATED`) or belongs to another pool
   *   (`ERR_DMAPOOL_WRONG_POOL`), and for the handle of an earlier allocation (`ERR_DMAPOOL_STALE_BLOCK`: always found in
   *   debug mode, otherwise only if the block's page was given back in between). Nothing is changed then.
   */
  free(block: DmaBlock<N>): void;

  /**
   * Allocates `count` blocks into `into[0..count)`: all of them, or none and an error. They are the same blocks, in the
   * same order, as `count` single calls would return.
   *
   * @param into Where the blocks go.
   * @param count How many.
   * @param options As for {@link alloc}.
   * @throws as {@link alloc}
   */
  allocBulk(into: DmaBlock<N>[], count: number, options?: AllocOptions): void;

  /**
   * Frees `blocks[0..count)`: all of them, or none and an error.
   *
   * @param count Default: all of `blocks`.
   * @throws as {@link free}. A block that stands there twice is not allocated the second time.
   */
  freeBulk(blocks: readonly DmaBlock<N>[], count?: number): void;

  /**
   * {@link alloc} in the index form: returns the block's index. Indices of a pool are dense and begin at 0.
   *
   * @throws as {@link alloc}
   *
   * @example
   * ```ts
   * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048 });
   * const ring = new DataView(new ArrayBuffer(16));
   * const index = pool.allocIndex();
   * ring.setUint32(8, lower32Bits(pool.dmaOf(index)), true);
   * pool.freeIndex(index);
   * ```
   */
  allocIndex(options?: AllocOptions): number;

  /** {@link allocIndex}, but returns -1 where that throws {@link DmaOutOfMemoryError}. */
  tryAllocIndex(options?: AllocOptions): number;

  /**
   * {@link free} in the index form.
   *
   * @throws {@link DmaBlockError} `ERR_DMAPOOL_NOT_ALLOCATED` for a block that is not allocated. Nothing is changed then.
   * @throws {@link DmaArgumentError} for a value that can't be an index.
   */
  freeIndex(index: number): void;

  /**
   * {@link allocBulk} in the index form.
   *
   * @param into Where the indices go.
   * @param count How many, 0 to `into.length`. Default: `into.length`.
   * @throws as {@link alloc}; {@link DmaArgumentError} when `into` can't hold `count`.
   */
  allocIndexBulk(into: Int32Array, count?: number, options?: AllocOptions): void;

  /**
   * {@link freeBulk} in the index form.
   *
   * @param count How many, 0 to `from.length`. Default: `from.length`.
   * @throws as {@link freeIndex}; the error names the index that could not be freed.
   */
  freeIndexBulk(from: Int32Array, count?: number): void;

  /**
   * Waits for a block: the next one that is freed, or for which the memory source has memory. Waiters are served in the
   * order of their calls, and `alloc` gets no block while there are waiters. The process stays alive while a call waits.
   *
   * @throws (rejects) the signal's reason; {@link DmaTimeoutError}; {@link DmaDestroyedError} when the pool is destroyed
   *   meanwhile; an error that the memory source throws.
   *
   * @example
   * ```ts
   * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048, maxBlocks: 1 });
   * const first = pool.alloc();
   * setTimeout(() => pool.free(first), 10);
   * const block = await pool.allocWait({ timeout: 1000 });
   * console.log(block === first); // true
   * ```
   */
  allocWait(options?: WaitOptions): Promise<DmaBlock<N>>;

  /** Takes pages until `count` blocks can be allocated without a new one. @throws as {@link alloc} */
  reserve(count: number): void;

  /**
   * Gives back every page of which no block is allocated or in quarantine. Block objects of these pages become stale.
   *
   * @returns The number of pages given back.
   * @throws `DmaSharingError` `ERR_DMAPOOL_NOT_TRIMMABLE` on a shared pool: another worker may be about to use a page.
   *
   * @example
   * ```ts
   * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048 });
   * pool.reserve(64);
   * console.log(pool.trim()); // 32: two blocks a page, and none is allocated
   * ```
   */
  trim(): number;

  /**
   * The DMA address of a block, in bytes, for the device. Exact.
   *
   * @throws {@link DmaArgumentError} for an index that is in none of the pool's pages.
   */
  dmaOf(index: number): number;

  /**
   * A new view of a block's bytes. It stays valid as long as the block is allocated; the memory of a page that was given
   * back may serve something else.
   *
   * @throws {@link DmaArgumentError} for an index that is in none of the pool's pages.
   */
  bytesOf(index: number): Bytes;

  /**
   * The allocated block that contains a DMA address, such as one that a device reports as done. O(1).
   *
   * @param dma Any address, not only a block's first.
   * @returns Null if no allocated block contains it.
   */
  blockAt(dma: number): DmaBlock<N> | null;

  /** {@link blockAt} in the index form; -1 if no allocated block contains `dma`. */
  indexAt(dma: number): number;

  /**
   * Frees the block that begins at a DMA address, for code that keeps only that.
   *
   * @throws {@link DmaBlockError} `ERR_DMAPOOL_BAD_ADDRESS` when no block of the pool begins there; else as {@link free}.
   */
  freeAt(dma: number): void;

  /**
   * The allocated blocks, in ascending order of index. Blocks may be freed while iterating.
   *
   * @example
   * ```ts
   * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048 });
   * pool.allocBulk([], 3);
   * for (const block of pool.allocated()) pool.free(block);
   * console.log(pool.statistics().active); // 0
   * ```
   */
  allocated(): IterableIterator<DmaBlock<N>>;

  /** All figures of the pool at this moment; those of the whole pool if it is shared. */
  statistics(): PoolStatistics;

  /**
   * Ends the pool (Linux: `dma_pool_destroy`): later allocations fail, and memory goes back to the source.
   *
   * Blocks that are still allocated are reported on the device's log, with their holders. Their pages are kept, because
   * the device may still write there: the last free gives them back, or `device.reclaim()` after a reset of the device. A
   * second destroy does nothing. In a worker that attached to a shared pool, `destroy` detaches it.
   *
   * A worker of a shared pool notices the end at its next call that needs more than its own magazine, or at the next turn
   * of its event loop; until then it may go on allocating the blocks of its magazine.
   */
  destroy(): void;

  /** The statistics, for `JSON.stringify(pool)`. */
  toJSON(): PoolStatistics;
}

/**
 * One block of a pool: what a driver holds.
 *
 * Block objects are reused: after `free`, a later `alloc` returns the same object. A reference kept beyond `free` can
 * therefore not be told from the next holder's. In debug mode each allocation makes a fresh object, and every use of an
 * old one by the pool is an error.
 *
 * @example
 * ```ts
 * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048, align: 64 });
 * const block: DmaBlock<'rx'> = pool.alloc();
 * block.u32[0] = 0x8000_0000; // the CPU's side
 * console.log(block.dma % 64); // 0: the device's side
 * block.free();
 * ```
 */
export interface DmaBlock<N extends string = string> extends Disposable {
  /** The pool it belongs to. */
  readonly pool: DmaPool<N>;
  /** Number of the block in its pool: a small integer, from 0. */
  readonly index: number;
  /** The address for the device, in bytes. @throws {@link DmaBlockError} for a handle that is not the current one. */
  readonly dma: number;
  /** Bytes of the block: the size asked for, raised to 16 and rounded up to the alignment. */
  readonly size: number;
  /** How often the block had been allocated when this handle was made; counted in debug mode only, otherwise 0. */
  readonly generation: number;
  /** The block's memory. The same view each time. */
  readonly bytes: Uint8Array;
  /** The block's memory for reads and writes of any width and byte order. Devices are little-endian. */
  readonly view: DataView;
  /** The block's memory as 16-bit words in the machine's byte order. @throws {@link DmaBlockError} `ERR_DMAPOOL_UNALIGNED` */
  readonly u16: Uint16Array;
  /** The block's memory as unsigned 32-bit words in the machine's byte order. @throws {@link DmaBlockError} `ERR_DMAPOOL_UNALIGNED` */
  readonly u32: Uint32Array;
  /** The block's memory as signed 32-bit words, which bitwise operators give. @throws {@link DmaBlockError} `ERR_DMAPOOL_UNALIGNED` */
  readonly i32: Int32Array;
  /** Frees the block. @throws as {@link DmaPool.free} */
  free(): void;
  /**
   * For `using`: frees the block if it is allocated. Outside debug mode the same object may serve a later holder, so a
   * block held with `using` should not be freed otherwise.
   */
  [Symbol.dispose](): void;
}
