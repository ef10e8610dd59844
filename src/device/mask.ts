import { checkInteger } from '../arguments.ts';

/** No NUMA node in particular (Linux: `NUMA_NO_NODE`). */
export const NUMA_NO_NODE = -1;

/**
 * The DMA mask of a device that drives `bits` address lines (Linux: `DMA_BIT_MASK`).
 *
 * A mask is the highest address the device reaches, as a number: 2^bits - 1, and `Number.MAX_SAFE_INTEGER` from
 * 53 bits on, where addresses would no longer be exact. Compare addresses with it; do not AND them.
 *
 * @param bits Address lines, 1 to 64.
 * @throws {@link DmaArgumentError} when `bits` is anything else.
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
