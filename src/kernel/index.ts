/**
 * dmapool/kernel: the calls of Linux's DMA pools by their own names, for people who port a driver.
 *
 * A thin face on the classes of `dmapool`: a `struct dma_pool` is a `DmaPool`, a `struct device` a `Device`, what
 * `dma_pool_alloc` returns a `DmaBlock`, and the two ways of calling mix freely. Three rules:
 *
 * - null where Linux returns NULL, a negative error number where Linux returns one;
 * - a line on the device's log where Linux logs, in Linux's words, and what we know beyond them on the lines below;
 * - what Linux leaves undefined (a pool that was destroyed, an argument that is no pool) throws a `DmaError`.
 *
 * `docs/porting.md` has the table of calls, and a piece of a driver before and after.
 *
 * @module dmapool/kernel
 * @packageDocumentation
 */
export { dmaBitMask as DMA_BIT_MASK, NUMA_NO_NODE } from '../device/mask.ts';
export { lower32Bits as lower_32_bits, upper32Bits as upper_32_bits } from '../memory/ordering.ts';
export { dma_alloc_coherent, dma_free_coherent, dma_set_mask_and_coherent } from './coherent.ts';
export { EEXIST, EINVAL, EIO, ENOMEM } from './errno.ts';
export {
  __GFP_NOWARN,
  __GFP_ZERO,
  GFP_ATOMIC,
  GFP_DMA,
  GFP_DMA32,
  GFP_KERNEL,
  GFP_NOFS,
  GFP_NOIO,
  GFP_NOWAIT,
  type gfp_t,
} from './gfp.ts';
export { type dma_addr_t, type DmaHandle } from './handle.ts';
export {
  dma_pool_alloc,
  dma_pool_create,
  dma_pool_create_node,
  dma_pool_destroy,
  dma_pool_free,
  dma_pool_zalloc,
  dmam_pool_create,
  dmam_pool_destroy,
} from './pool.ts';
export { DEVICE_ATTR_RO, type device_attribute, device_create_file, device_remove_file, sysfs_emit } from './sysfs.ts';
