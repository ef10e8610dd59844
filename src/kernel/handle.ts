/** A DMA address in bytes, 0 to 2^53-1 (Linux: `dma_addr_t`). */
export type dma_addr_t = number;

/**
 * Where an address is to be written: in place of C's `dma_addr_t *`. Any object with a field `dma` will do, such as the
 * driver's own descriptor. Nothing is written when the call fails.
 *
 * @example
 * ```ts
 * const device = new Device({ name: '0000:00:1d.7' });
 * const pool = dma_pool_create('ehci_qtd', device, 96, 32, 4096)!;
 * const handle: DmaHandle = { dma: 0 };
 * const qtd = dma_pool_alloc(pool, GFP_KERNEL, handle);
 * console.log(qtd !== null && handle.dma === qtd.dma); // true
 * ```
 */
export interface DmaHandle {
  /** The address, once a call succeeded. */
  dma: dma_addr_t;
}
