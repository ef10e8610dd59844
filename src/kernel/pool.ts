/** `dma_pool_create` and its family (Linux: `include/linux/dmapool.h`). */
import { type Device, isDevice } from '../device/device.ts';
import { DmaArgumentError, DmaBlockError, DmaDestroyedError, DmaError } from '../errors.ts';
import { isBlock } from '../pool/block.ts';
import type { DmaBlock, DmaPool } from '../pool/contract.ts';
import { createPool, isPool } from '../dma-pool.ts';
import { __GFP_ZERO, checkFlags, type gfp_t } from './gfp.ts';
import { checkDmaHandle, type dma_addr_t, type DmaHandle, writeDma } from './handle.ts';
import { reportBadMemory, reportNoPages, reportRefused } from './report.ts';
import { LINUX_TEXTS, pad, pointer, poolName } from './wording.ts';

/** Pools of {@link dmam_pool_create}, for {@link dmam_pool_destroy}. */
const managed = new WeakSet<DmaPool>();

/**
 * Creates a pool: `DmaPool.create` by Linux's name.
 *
 * @param name Name in messages and in the `pools` attribute, cut to 31 bytes.
 * @param dev The device that will access the blocks.
 * @param size Bytes of a block, 1 to 2^31-1.
 * @param align A power of two, or 0 for none.
 * @param boundary A power of two that no block crosses, not below the rounded size, or 0 for none.
 * @returns The pool; null if an argument is out of range. `DmaPool.create`, with the same arguments, throws an error that
 *   names the argument.
 *
 * @example
 * ```ts
 * const device = new Device({ name: '0000:00:1d.7' });
 * const pool = dma_pool_create('ehci_qtd', device, 96, 32, 4096);
 * console.log(pool?.geometry.blocksPerPage); // 42
 * console.log(dma_pool_create('odd', device, 96, 33, 4096)); // null: 33 is no power of two
 * dma_pool_destroy(pool);
 * ```
 */
export function dma_pool_create<const N extends string>(
  name: N,
  dev: Device | null,
  size: number,
  align: number,
  boundary: number,
): DmaPool<N> | null {
  return create(name, dev, size, align, boundary, undefined);
}

/**
 * {@link dma_pool_create}, with pages from a NUMA node (Linux 6.16 and later).
 *
 * @param name Name in messages and in the `pools` attribute, cut to 31 bytes.
 * @param dev The device that will access the blocks.
 * @param size Bytes of a block, 1 to 2^31-1.
 * @param align A power of two, or 0 for none.
 * @param boundary A power of two that no block crosses, or 0 for none.
 * @param node The node, 0 to 1023, or -1 (`NUMA_NO_NODE`) for any. A hint: coherent allocators without nodes ignore it.
 * @returns As {@link dma_pool_create}.
 *
 * @example
 * ```ts
 * const pool = dma_pool_create_node('prp list 256', new Device({ name: 'nvme0' }), 256, 256, 0, 1);
 * console.log(pool?.geometry.blocksPerPage); // 16; its pages come from node 1 if the coherent allocator has nodes
 * ```
 */
export function dma_pool_create_node<const N extends string>(
  name: N,
  dev: Device | null,
  size: number,
  align: number,
  boundary: number,
  node: number,
): DmaPool<N> | null {
  return create(name, dev, size, align, boundary, node);
}

/**
 * {@link dma_pool_create} of a managed pool (devres): `device.detach()` destroys it.
 *
 * @param name Name in messages and in the `pools` attribute, cut to 31 bytes.
 * @param dev The device that will access the blocks.
 * @param size Bytes of a block, 1 to 2^31-1.
 * @param align A power of two, or 0 for none.
 * @param boundary A power of two that no block crosses, or 0 for none.
 * @returns As {@link dma_pool_create}.
 *
 * @example
 * ```ts
 * const device = new Device({ name: '0000:00:1d.7' });
 * const pool = dmam_pool_create('ehci_qh', device, 96, 32, 4096);
 * device.detach();
 * console.log(pool !== null && device.readAttribute('pools') === undefined); // true
 * ```
 */
export function dmam_pool_create<const N extends string>(
  name: N,
  dev: Device | null,
  size: number,
  align: number,
  boundary: number,
): DmaPool<N> | null {
  const pool = create(name, dev, size, align, boundary, undefined, true);
  if (pool !== null) managed.add(pool);
  return pool;
}

function create<const N extends string>(
  name: N,
  dev: Device | null,
  size: number,
  align: number,
  boundary: number,
  node: number | undefined,
  byDetach = false,
): DmaPool<N> | null {
  if (!isDevice(dev)) return null;
  const options = { size, align, boundary, node: node ?? dev.numaNode };
  try {
    return createPool(name, dev, options, LINUX_TEXTS, byDetach);
  } catch (error) {
    if (error instanceof DmaError) return null;
    throw error;
  }
}

/**
 * Allocates a block.
 *
 * @param pool From {@link dma_pool_create}.
 * @param mem_flags `GFP_KERNEL`, `GFP_ATOMIC`, ... Only `__GFP_ZERO` and `__GFP_NOWARN` have an effect. Calls with any
 *   flags may open a page, as in Linux (in the recorded NVMe traffic `GFP_ATOMIC` calls opened every page).
 *   `pool.tryAlloc({ grow: false })` opens none.
 * @param handle Receives the block's DMA address. Optional: `block.dma` has it too.
 * @returns The block, in place of C's pointer: `block.u32`, `block.view` and so on are its memory. Null when there is no
 *   memory. The failure is logged as in Linux, unless `__GFP_NOWARN` is set.
 * @throws `DmaArgumentError` for an invalid pool or flags. @throws `DmaDestroyedError` after the pool was destroyed.
 *
 * @example
 * ```ts
 * const device = new Device({ name: '0000:00:1d.7' });
 * const pool = dma_pool_create('ehci_qtd', device, 96, 32, 4096)!;
 * const qtd = dma_pool_alloc(pool, GFP_ATOMIC);
 * if (qtd !== null) {
 *   qtd.u32[0] = 1; // no next qTD
 *   dma_pool_free(pool, qtd, qtd.dma);
 * }
 * ```
 */
export function dma_pool_alloc<N extends string>(
  pool: DmaPool<N>,
  mem_flags: gfp_t,
  handle?: DmaHandle | null,
): DmaBlock<N> | null {
  checkPool(pool);
  checkFlags('mem_flags', mem_flags);
  checkDmaHandle('handle', handle);
  let block: DmaBlock<N> | null;
  try {
    block = (mem_flags & __GFP_ZERO) === 0 ? pool.tryAlloc() : pool.tryAlloc({ zero: true });
  } catch (error) {
    return reportBadMemory(pool.device, `dma_pool_alloc ${poolName(pool.name)}`, error);
  }
  if (block === null) {
    // Linux has no limit of a pool's blocks, and no message for it.
    if (pool.statistics().active < pool.maxBlocks) reportNoPages(pool.device, pool.geometry.allocation, mem_flags);
    return null;
  }
  const taken = block;
  writeDma('handle', handle, taken.dma, () => {
    pool.free(taken);
  });
  return block;
}

/**
 * {@link dma_pool_alloc}, with every byte of the block zero.
 *
 * @param pool From {@link dma_pool_create}.
 * @param mem_flags `GFP_KERNEL`, `GFP_ATOMIC`, ...
 * @param handle Receives the block's DMA address; optional.
 * @returns As {@link dma_pool_alloc}.
 * @throws as {@link dma_pool_alloc}
 *
 * @example
 * ```ts
 * const device = new Device({ name: '0000:00:1d.7' });
 * const pool = dma_pool_create('ehci_qh', device, 96, 32, 4096)!;
 * const qh = dma_pool_zalloc(pool, GFP_KERNEL);
 * console.log(qh?.u32[0]); // 0
 * ```
 */
export function dma_pool_zalloc<N extends string>(
  pool: DmaPool<N>,
  mem_flags: gfp_t,
  handle?: DmaHandle | null,
): DmaBlock<N> | null {
  checkFlags('mem_flags', mem_flags);
  return dma_pool_alloc(pool, mem_flags | __GFP_ZERO, handle);
}

/**
 * Frees a block. An invalid free changes nothing and is logged as by Linux's debug kernels (others do not check):
 *
 * | line                                               | when                                                         |
 * | -------------------------------------------------- | ------------------------------------------------------------ |
 * | `dma_pool_free NAME, dma 0x... already free`       | the block is not allocated, or was allocated again since     |
 * | `dma_pool_free NAME, POINTER (bad vaddr)/0x...`    | `dma` is in an allocated block, but `vaddr` is another one   |
 * | `dma_pool_free NAME, POINTER/0x... (bad dma)`      | any other case                                               |
 *
 * The next line has the details of the error.
 *
 * @param pool From {@link dma_pool_create}.
 * @param vaddr The result of `dma_pool_alloc`.
 * @param dma Its DMA address. Optional; if given, it must be the block's.
 * @throws `DmaArgumentError` if `pool` is no pool. @throws the coherent allocator's errors, if the pool was destroyed and
 *   this was its last block.
 *
 * @example
 * ```ts
 * const log = { error: console.log, warn: console.log, info: console.log };
 * const pool = dma_pool_create('ehci_qtd', new Device({ name: '0000:00:1d.7', log }), 96, 32, 4096)!;
 * const qtd = dma_pool_alloc(pool, GFP_KERNEL)!;
 * dma_pool_free(pool, qtd, qtd.dma);
 * dma_pool_free(pool, qtd, qtd.dma); // 0000:00:1d.7: dma_pool_free ehci_qtd, dma 0x... already free
 * ```
 */
export function dma_pool_free<N extends string>(
  pool: DmaPool<N>,
  vaddr: DmaBlock<NoInfer<N>> | null,
  dma?: dma_addr_t | null,
): void {
  checkPool(pool);
  if (!isBlock(vaddr)) {
    reportBadFree(pool, vaddr, dma ?? null, null);
    return;
  }
  const own = dmaOf(vaddr);
  if (dma !== undefined && dma !== null && own !== null && dma !== own) {
    reportBadFree(pool, vaddr, dma, null);
    return;
  }
  try {
    pool.free(vaddr);
  } catch (error) {
    if (!isRefusal(error)) throw error;
    reportBadFree(pool, vaddr, dma ?? own, error);
  }
}

/** @returns True for an error about the block, false for one of the coherent allocator. */
function isRefusal(error: unknown): error is DmaError {
  return error instanceof DmaBlockError || error instanceof DmaDestroyedError || error instanceof DmaArgumentError;
}

function reportBadFree(pool: DmaPool, vaddr: unknown, dma: dma_addr_t | null, error: DmaError | null): void {
  const call = `dma_pool_free ${poolName(pool.name)}`;
  const address = typeof dma === 'number' && Number.isSafeInteger(dma) && dma >= 0 ? dma : null;
  const where = address === null ? '(null)' : pad(address);
  let line: string;
  const free = error?.code === 'ERR_DMAPOOL_NOT_ALLOCATED' || error?.code === 'ERR_DMAPOOL_STALE_BLOCK';
  // Linux first searches the pool's pages. A block whose page was freed is in none of them.
  if (free && isBlock(vaddr) && dmaOf(vaddr) !== null) {
    line = `${call}, dma ${where} already free`;
  } else if (address !== null && pool.indexAt(address) >= 0) {
    line = `${call}, ${formatVaddr(vaddr)} (bad vaddr)/${where}`;
  } else {
    line = `${call}, ${formatVaddr(vaddr)}/${where} (bad dma)`;
  }
  reportRefused(pool.device, call, line, error);
}

/** The block's address; null if its page was freed. */
function dmaOf(vaddr: DmaBlock): dma_addr_t | null {
  try {
    // By index: a stale handle has no address.
    return vaddr.pool.dmaOf(vaddr.index);
  } catch (error) {
    if (error instanceof DmaError) return null;
    throw error;
  }
}

/** Formats as Linux's `%p`: null is `(null)`, and anything but a block `(efault)`. */
function formatVaddr(vaddr: unknown): string {
  if (vaddr === null || vaddr === undefined) return '(null)';
  if (!isBlock(vaddr)) return '(efault)';
  try {
    return pointer(vaddr.bytes.byteOffset);
  } catch (error) {
    if (error instanceof DmaError) return '(efault)';
    throw error;
  }
}

/**
 * Destroys a pool. While blocks are allocated it logs `dma_pool_destroy NAME busy` and keeps their memory, as Linux does.
 * Unlike in Linux, these blocks can still be freed, and `device.reclaim()` frees the rest.
 *
 * @param pool The pool. For null the call does nothing.
 * @throws `DmaArgumentError` for any other value. @throws the coherent allocator's errors; the pool is destroyed then.
 *
 * @example
 * ```ts
 * const log = { error: console.log, warn: console.log, info: console.log };
 * const pool = dma_pool_create('ehci_qtd', new Device({ name: '0000:00:1d.7', log }), 96, 32, 4096)!;
 * const qtd = dma_pool_alloc(pool, GFP_KERNEL);
 * dma_pool_destroy(pool); // 0000:00:1d.7: dma_pool_destroy ehci_qtd busy
 * dma_pool_free(pool, qtd);
 * ```
 */
export function dma_pool_destroy(pool: DmaPool | null | undefined): void {
  if (pool === null || pool === undefined) return;
  checkPool(pool);
  pool.destroy();
}

/**
 * Destroys a managed pool before its device is detached. For any other pool it only logs a warning, as in Linux.
 *
 * @param pool From {@link dmam_pool_create}.
 * @throws as {@link dma_pool_destroy}
 *
 * @example
 * ```ts
 * const device = new Device({ name: '0000:00:1d.7' });
 * const pool = dmam_pool_create('ehci_qh', device, 96, 32, 4096)!;
 * dmam_pool_destroy(pool);
 * console.log(device.readAttribute('pools')); // undefined
 * ```
 */
export function dmam_pool_destroy(pool: DmaPool): void {
  checkPool(pool);
  if (managed.delete(pool)) pool.destroy();
  else
    pool.device.report(
      'warn',
      'dmam_pool_destroy',
      `WARNING: dmam_pool_destroy ${poolName(pool.name)}: it is not managed`,
    );
}

function checkPool(pool: unknown): void {
  if (!isPool(pool)) throw new DmaArgumentError('pool', pool, 'a pool from dma_pool_create()');
}
