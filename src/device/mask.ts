import { checkInteger } from '../arguments.ts';

/** No preferred NUMA node (Linux: `NUMA_NO_NODE`). */
export const NUMA_NO_NODE = -1;

/**
 * Returns the DMA mask of a device with `bits` address bits (Linux: `DMA_BIT_MASK`).
 *
 * A mask is the highest address that the device can access: 2^bits - 1, or `Number.MAX_SAFE_INTEGER` from 53 bits up, where
 * numbers are no longer exact. Compare addresses with it; do not AND them.
 *
 * @param bits Address bits, 1 to 64.
 * @throws {@link DmaArgumentError} for any other value.
 *
 * @example
 * ```ts
 * const device = new Device({ name: '0000:00:02.0', dmaMask: dmaBitMask(32) });
 * ```
 */
export function dmaBitMask(bits: number): number {
  checkInteger('bits', bits, 1, 64);
  return bits >= 53 ? Number.MAX_SAFE_INTEGER : 2 ** bits - 1;
}
