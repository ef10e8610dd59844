/**
 * dmapool/kernel: the functions of Linux's DMA pools under their own names, for porting drivers.
 *
 * A thin layer on the classes of `dmapool`: a `struct dma_pool` is a `DmaPool`, a `struct device` a `Device`, and
 * `dma_pool_alloc` returns a `DmaBlock`. Both interfaces can be mixed. Three rules:
 *
 * - null where Linux returns NULL, a negative error number where Linux returns one;
 * - a line on the device's log where Linux logs one, worded as in Linux, with details on the lines below;
 * - a `DmaError` where Linux's behaviour is undefined (a destroyed pool, an argument that is no pool).
 *
 * `docs/porting.md` has the table of calls, and a part of a driver before and after.
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
