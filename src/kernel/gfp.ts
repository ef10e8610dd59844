/**
 * Allocation flags with the values of Linux 6.4 and later (`include/linux/gfp_types.h`), so that log lines have the same
 * numbers. The values differ between kernel versions: use the names.
 */
import { DmaArgumentError } from '../errors.ts';

/** Allocation flags, ORed together (Linux: `gfp_t`). A whole number from 0 to 2^31-1. */
export type gfp_t = number;

/** The page must be in the lowest zone. Ignored: the device's DMA mask restricts addresses. */
export const GFP_DMA: gfp_t = 0x01;
/** The page must be below 4 GiB. Ignored: the device's DMA mask restricts addresses. */
export const GFP_DMA32: gfp_t = 0x04;
/**
 * Zero the block (`dma_pool_zalloc` sets it). Coherent memory is always zeroed.
 *
 * @example
 * ```ts
 * const pool = dma_pool_create('qh', new Device({ name: '0000:00:1d.7' }), 96, 32, 4096)!;
 * const qh = dma_pool_alloc(pool, GFP_KERNEL | __GFP_ZERO);
 * console.log(qh?.bytes.every((byte) => byte === 0)); // true
 * ```
 */
export const __GFP_ZERO: gfp_t = 0x100;
/** Do not log a failed allocation. */
export const __GFP_NOWARN: gfp_t = 0x2000;
/** For interrupt handlers: must not sleep, may use the reserves. The call may open a page, as in Linux. */
export const GFP_ATOMIC: gfp_t = 0x820;
/** Must not sleep. The call may open a page, as in Linux. */
export const GFP_NOWAIT: gfp_t = 0x800;
/** May sleep, but not start I/O. No call here starts I/O: the same as `GFP_KERNEL`. */
export const GFP_NOIO: gfp_t = 0xc00;
/** May sleep, but not enter a file system. The same as `GFP_KERNEL`. */
export const GFP_NOFS: gfp_t = 0xc40;
/** The usual flags: the caller may sleep. */
export const GFP_KERNEL: gfp_t = 0xcc0;

/** Names; a combination precedes the flags that it contains. */
const NAMES: readonly (readonly [string, gfp_t])[] = [
  ['GFP_KERNEL', GFP_KERNEL],
  ['GFP_NOFS', GFP_NOFS],
  ['GFP_ATOMIC', GFP_ATOMIC],
  ['GFP_NOIO', GFP_NOIO],
  ['GFP_NOWAIT', GFP_NOWAIT],
  ['GFP_DMA', GFP_DMA],
  ['GFP_DMA32', GFP_DMA32],
  ['__GFP_ZERO', __GFP_ZERO],
  ['__GFP_NOWARN', __GFP_NOWARN],
];

/** Flags as Linux logs them: `0xcc0(GFP_KERNEL)`. */
export function formatGfp(flags: gfp_t): string {
  const names: string[] = [];
  let rest = flags;
  for (const [name, value] of NAMES) {
    if ((rest & value) !== value) continue;
    names.push(name);
    rest &= ~value;
  }
  if (rest !== 0) names.push(`0x${rest.toString(16)}`);
  return `0x${flags.toString(16)}(${names.join('|')})`;
}

/** Throws unless `flags` is a number. */
export function checkFlags(argument: string, flags: unknown): asserts flags is gfp_t {
  if (typeof flags !== 'number') throw new DmaArgumentError(argument, flags, 'flags, such as GFP_KERNEL');
}
