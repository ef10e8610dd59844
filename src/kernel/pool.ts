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

/** Pools made by {@link dmam_pool_create}, for {@link dmam_pool_destroy}. */
const managed = new WeakSet<DmaPool>();

/**
 * Creates a pool: `DmaPool.create` by Linux's name.
 *
 * @param name Shown in messages and in the `pools` attribute, cut to 31 bytes.
 * @param dev Who will use the blocks.
 * @param size Bytes of a block, 1 to 2^31-1.
 * @param align A power of two, or 0 for none.
 * @param boundary A power of two that no block crosses, not below the rounded size, or 0 for none.
 * @returns The pool; null when an argument is out of its range. Linux does not say which either: `DmaPool.create`, with
 *   the same arguments, throws an error that does.
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
 * @param name As for {@link dma_pool_create}, like the next four.
 * @param dev Who will use the blocks.
 * @param size Bytes of a block, 1 to 2^31-1.
 * @param align A power of two, or 0 for none.
 * @param boundary A power of two that no block crosses, or 0 for none.
 * @param node The node, 0 to 1023, or -1 (`NUMA_NO_NODE`) for any. A wish: sources without nodes ignore it.
 *
 *
 * @example
 * ```ts
 * const pool = dma_pool_create_node('prp list 256', new Device({ name: 'nvme0' }), 256, 256, 0, 1);
 * console.log(pool?.geometry.blocksPerPage); // 16; its pages come from node 1 where the memory source has nodes
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
 * {@link dma_pool_create}, and `device.detach()` destroys the pool.
 *
 * @param name As for {@link dma_pool_create}, like the next four.
 * @param dev Who will use the blocks.
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
 * Takes a block.
 *
 * @param pool From {@link dma_pool_create}.
 * @param mem_flags `GFP_KERNEL`, `GFP_ATOMIC`, ...; only `__GFP_ZERO` and `__GFP_NOWARN` change something. All of them may
 *   open a page, as in Linux (in the recorded NVMe traffic `GFP_ATOMIC` calls opened every page). `pool.tryAlloc({ grow: false
 *   })`, which opens none, is stricter than Linux.
 * @param handle Where to write the block's DMA address. Optional, for the block says it too: `block.dma`.
 * @returns The block, in place of C's pointer: `block.u32`, `block.view` and so on are its memory. Null when no memory
 *   is to be had: logged in Linux's words, unless `__GFP_NOWARN`.
 * @throws `DmaArgumentError` for what is no pool or no flags; `DmaDestroyedError` when the pool was destroyed.
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
    // At a limit of the pool's own there are pages, and Linux has no such limit to have words for.
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
 * @param handle Where to write the block's DMA address; optional.
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
 * Gives a block back. What can't be freed is logged, in the words of Linux's debug kernels, and nothing is changed:
 *
 * | line                                               | when                                                         |
 * | -------------------------------------------------- | ------------------------------------------------------------ |
 * | `dma_pool_free NAME, dma 0x... already free`       | it is not handed out, or was handed out again since          |
 * | `dma_pool_free NAME, POINTER (bad vaddr)/0x...`    | `dma` is in a block that is out, but `vaddr` is another one  |
 * | `dma_pool_free NAME, POINTER/0x... (bad dma)`      | anything else                                                |
 *
 * Linux's other kernels trust the caller. A second line says what ours knows.
 *
 * @param pool From {@link dma_pool_create}.
 * @param vaddr The block, as `dma_pool_alloc` gave it.
 * @param dma Its address. Optional; if given, it must be the block's.
 * @throws `DmaArgumentError` for what is no pool; what the memory source throws, when the pool was destroyed and
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

/** Is it about the block, and not of the memory source? */
function isRefusal(error: unknown): error is DmaError {
  return error instanceof DmaBlockError || error instanceof DmaDestroyedError || error instanceof DmaArgumentError;
}

function reportBadFree(pool: DmaPool, vaddr: unknown, dma: dma_addr_t | null, error: DmaError | null): void {
  const call = `dma_pool_free ${poolName(pool.name)}`;
  const address = typeof dma === 'number' && Number.isSafeInteger(dma) && dma >= 0 ? dma : null;
  const where = address === null ? '(null)' : pad(address);
  let line: string;
  const free = error?.code === 'ERR_DMAPOOL_NOT_ALLOCATED' || error?.code === 'ERR_DMAPOOL_STALE_BLOCK';
  // A block whose page went back is in no page of the pool, and that is what Linux looks at first.
  if (free && isBlock(vaddr) && dmaOf(vaddr) !== null) {
    line = `${call}, dma ${where} already free`;
  } else if (address !== null && pool.indexAt(address) >= 0) {
    line = `${call}, ${formatVaddr(vaddr)} (bad vaddr)/${where}`;
  } else {
    line = `${call}, ${formatVaddr(vaddr)}/${where} (bad dma)`;
  }
  reportRefused(pool.device, call, line, error);
}

/** The block's address, if it still has one. */
function dmaOf(vaddr: DmaBlock): dma_addr_t | null {
  try {
    // By its index, so that a stale handle has one too, for the log.
    return vaddr.pool.dmaOf(vaddr.index);
  } catch (error) {
    if (error instanceof DmaError) return null;
    throw error;
  }
}

/** As Linux's `%p` prints it: NULL and what is no pointer by name. */
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
 * Ends a pool. With blocks still out it says so, `dma_pool_destroy NAME busy`, and keeps their memory, as Linux does; but
 * here they may still be freed, and `device.reclaim()` takes back the rest.
 *
 * @param pool The pool, or null, for which nothing is done.
 * @throws `DmaArgumentError` for anything else; what the memory source throws, after the pool has ended.
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
 * Ends a pool made by {@link dmam_pool_create} before its device does. For any other pool it does nothing but warn, as
 * Linux's does.
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
