/**
 * The contract of pools and blocks: the behaviour of every call, with units, ranges and errors.
 *
 * {@link DmaPool} and {@link DmaBlock} are interfaces, so that the declarations for users contain the contract and no
 * implementation. They are in one file because each refers to the other. `dma-pool.ts` and `pool/block.ts` implement
 * them.
 */
import type { Device } from '../device/device.ts';
import type { PoolGeometry } from './geometry.ts';
import type { PoolStatistics } from './statistics.ts';
import type { WaitOptions } from './waiting.ts';

/** Bytes in shared or unshared memory. */
export type Bytes = Uint8Array<ArrayBuffer | SharedArrayBuffer>;

/**
 * Key of the method that `console.log` calls on Node, Bun and Deno. The interfaces below do not declare it, because
 * programs call `inspect` instead.
 */
export const INSPECT: unique symbol = Symbol.for('nodejs.util.inspect.custom') as typeof INSPECT;

/**
 * Options of an allocation. An object with neither `zero` nor `grow` is always checked for unknown names; other objects
 * are checked only in slow calls.
 */
export interface AllocOptions {
  /** Zero the block (Linux: `dma_pool_zalloc`). Default false: the contents are undefined. */
  readonly zero?: boolean;
  /** Take a new page from the memory source if no block is free. Default true. */
  readonly grow?: boolean;
}

/**
 * Allocates equal, aligned blocks of coherent memory for one device (Linux: `struct dma_pool`).
 *
 * A fresh page's blocks are allocated in ascending order of address. Freed blocks are reused in LIFO order. The pool
 * takes a new page only if no block is free. It returns pages only in {@link DmaPool.destroy} and {@link DmaPool.trim}.
 *
 * Every free is checked in O(1): the block must belong to this pool and be allocated. Outside debug mode block objects
 * are reused. So after `free(a); b = alloc()`, `a` and `b` may be the same object, and a second `free(a)` frees `b`. In
 * debug mode each allocation returns a new handle, and the second `free(a)` throws.
 *
 * The type parameter is the pool's name. So a free into the wrong pool does not compile.
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
  /** Name in messages and in the device's `pools` attribute. */
  readonly name: N;
  /** The device that accesses the blocks. */
  readonly device: Device;
  /** Layout of blocks in pages. */
  readonly geometry: PoolGeometry;
  /** Limit of allocated blocks. */
  readonly maxBlocks: number;

  /**
   * Allocates a block (Linux: `dma_pool_alloc`).
   *
   * @param options Whether to zero the block, and whether the call may take a page.
   * @throws {@link DmaOutOfMemoryError} if no block is available: the memory source is exhausted
   *   (`ERR_DMAPOOL_NO_MEMORY`), the pool reached `maxBlocks` (`ERR_DMAPOOL_LIMIT`), or no block is free and `grow` is
   *   false (`ERR_DMAPOOL_NO_FREE_BLOCK`).
   * @throws {@link DmaDestroyedError} after `destroy`. Errors of the memory source are passed on. Nothing is lost.
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
   * Like {@link alloc}, but returns null instead of a {@link DmaOutOfMemoryError}.
   *
   * @example
   * ```ts
   * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048 });
   * pool.reserve(64); // takes pages for 64 blocks now
   * const block = pool.tryAlloc({ grow: false }); // takes no page: null if all blocks are allocated
   * block?.free();
   * ```
   */
  tryAlloc(options?: AllocOptions): DmaBlock<N> | null;

  /**
   * Frees a block (Linux: `dma_pool_free`). It becomes the next block to be allocated.
   *
   * @param block A block that this pool allocated.
   * @throws {@link DmaBlockError} if the block is not allocated (`ERR_DMAPOOL_NOT_ALLOCATED`), belongs to another pool
   *   (`ERR_DMAPOOL_WRONG_POOL`), or is the handle of an earlier allocation (`ERR_DMAPOOL_STALE_BLOCK`: always detected
   *   in debug mode, otherwise only if the block's page was returned meanwhile). The call changes nothing then.
   */
  free(block: DmaBlock<N>): void;

  /**
   * Allocates `count` blocks into `into[0..count)`: all or none. They are the same blocks, in the same order, as
   * `count` single calls return.
   *
   * @param into Receives the blocks.
   * @param count Number of blocks, 0 to 2^30-1.
   * @param options As for {@link alloc}.
   * @throws as {@link alloc}
   */
  allocBulk(into: DmaBlock<N>[], count: number, options?: AllocOptions): void;

  /**
   * Frees `blocks[0..count)`: all or none.
   *
   * @param count Number of blocks, 0 to `blocks.length`. Default: `blocks.length`.
   * @throws as {@link free}. The second occurrence of a block counts as not allocated.
   */
  freeBulk(blocks: readonly DmaBlock<N>[], count?: number): void;

  /**
   * Like {@link alloc}, but returns the block's index. The indices of a pool are dense and begin at 0.
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

  /** Like {@link allocIndex}, but returns -1 instead of a {@link DmaOutOfMemoryError}. */
  tryAllocIndex(options?: AllocOptions): number;

  /**
   * Frees a block by index.
   *
   * @throws {@link DmaBlockError} `ERR_DMAPOOL_NOT_ALLOCATED` if the block is not allocated. The call changes nothing
   *   then.
   * @throws {@link DmaArgumentError} if no block can have this index.
   */
  freeIndex(index: number): void;

  /**
   * Like {@link allocBulk}, but with indices.
   *
   * @param into Receives the indices.
   * @param count Number of blocks, 0 to `into.length`. Default: `into.length`.
   * @throws as {@link alloc}; {@link DmaArgumentError} if `into` is shorter than `count`.
   */
  allocIndexBulk(into: Int32Array, count?: number, options?: AllocOptions): void;

  /**
   * Like {@link freeBulk}, but with indices.
   *
   * @param count Number of blocks, 0 to `from.length`. Default: `from.length`.
   * @throws as {@link freeIndex}, for the first index that can't be freed.
   */
  freeIndexBulk(from: Int32Array, count?: number): void;

  /**
   * Waits for a block: a freed one, or one from memory that becomes available. Waiters are served in FIFO order, before
   * `alloc`. A pending wait keeps the process alive.
   *
   * @throws (rejects) the signal's reason; {@link DmaTimeoutError}; {@link DmaDestroyedError} if the pool is destroyed
   *   meanwhile; errors of the memory source.
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

  /** Takes pages until `count` blocks can be allocated without a new page. @throws as {@link alloc} */
  reserve(count: number): void;

  /**
   * Releases every page without allocated or quarantined blocks to the memory source. Block objects of these pages
   * become stale.
   *
   * @returns The number of pages released.
   * @throws `DmaSharingError` `ERR_DMAPOOL_NOT_TRIMMABLE` in a shared pool, where another worker may be about to use a
   *   page.
   *
   * @example
   * ```ts
   * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048 });
   * pool.reserve(64);
   * console.log(pool.trim()); // 32: a page has two blocks, and none is allocated
   * ```
   */
  trim(): number;

  /**
   * The DMA address of a block, in bytes. Exact.
   *
   * @throws {@link DmaArgumentError} if the index is in no page of the pool.
   */
  dmaOf(index: number): number;

  /**
   * A new view of a block's bytes, valid while the block is allocated. Other allocations may use the memory of a page
   * that was returned.
   *
   * @throws {@link DmaArgumentError} if the index is in no page of the pool.
   */
  bytesOf(index: number): Bytes;

  /**
   * Finds the allocated block that contains a DMA address, such as one from a device's completion. O(1).
   *
   * @param dma Any address within the block.
   * @returns Null if no allocated block contains it.
   */
  blockAt(dma: number): DmaBlock<N> | null;

  /** Like {@link blockAt}, but returns the index, or -1 if no allocated block contains `dma`. */
  indexAt(dma: number): number;

  /**
   * Frees the block that begins at a DMA address.
   *
   * @throws {@link DmaBlockError} `ERR_DMAPOOL_BAD_ADDRESS` if no block of the pool begins there; otherwise as {@link
   *   free}.
   */
  freeAt(dma: number): void;

  /**
   * Iterates over the allocated blocks in ascending order of index. Blocks may be freed during the iteration.
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

  /** Current figures of the pool, over all workers of a shared pool. */
  statistics(): PoolStatistics;

  /**
   * Ends the pool (Linux: `dma_pool_destroy`). Later allocations throw, and pages return to the memory source.
   *
   * Blocks that are still allocated are reported on the device's log, with their allocation sites in debug mode. The
   * pool keeps their pages, because the device may still write there. The last free returns them, or `device.reclaim()`
   * after a reset of the device. A second `destroy` does nothing.
   *
   * In a worker that attached to a shared pool, `destroy` detaches the worker. The other workers detect the end of a
   * shared pool at the next call that needs more than their magazine, or at the next turn of their event loop. Until
   * then they may allocate the blocks of their magazines.
   */
  destroy(): void;

  /** Returns {@link statistics}, for `JSON.stringify(pool)`. */
  toJSON(): PoolStatistics;
}

/**
 * A block of a pool.
 *
 * Block objects are reused: after `free`, a later `alloc` returns the same object. So a reference kept after `free`
 * can't be distinguished from that of the next owner. In debug mode each allocation creates a new object, and any use
 * of an old one throws.
 *
 * @example
 * ```ts
 * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048, align: 64 });
 * const block: DmaBlock<'rx'> = pool.alloc();
 * block.u32[0] = 0x8000_0000; // access by the CPU
 * console.log(block.dma % 64); // 0: address for the device
 * block.free();
 * ```
 */
export interface DmaBlock<N extends string = string> extends Disposable {
  /** The pool that the block belongs to. */
  readonly pool: DmaPool<N>;
  /** Number of the block in its pool, from 0. */
  readonly index: number;
  /** DMA address in bytes. @throws {@link DmaBlockError} for a stale handle. */
  readonly dma: number;
  /** Bytes per block: the requested size, raised to 16 and rounded up to the alignment. */
  readonly size: number;
  /** Number of allocations of the block up to this handle. Counted in debug mode only; otherwise 0. */
  readonly generation: number;
  /** The block's bytes. The same view each time. */
  readonly bytes: Uint8Array;
  /** The block's memory, for accesses of any width and byte order. Devices are little-endian. */
  readonly view: DataView;
  /**
   * The block's memory as 16-bit words in the CPU's byte order. @throws {@link DmaBlockError} `ERR_DMAPOOL_UNALIGNED`
   */
  readonly u16: Uint16Array;
  /** As unsigned 32-bit words in the CPU's byte order. @throws {@link DmaBlockError} `ERR_DMAPOOL_UNALIGNED` */
  readonly u32: Uint32Array;
  /** As signed 32-bit words, the type of bitwise results. @throws {@link DmaBlockError} `ERR_DMAPOOL_UNALIGNED` */
  readonly i32: Int32Array;
  /** Frees the block. @throws as {@link DmaPool.free} */
  free(): void;
  /**
   * For `using`: frees the block if it is allocated. Outside debug mode another allocation may reuse the object. So do
   * not free a block explicitly that a `using` declaration holds.
   */
  [Symbol.dispose](): void;
}
