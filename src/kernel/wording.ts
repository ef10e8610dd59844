/** Linux's wording of places in memory and of a pool's reports. */
import type { ReportTexts } from '../pool/hooks.ts';
import { cutToBytes, NAME_BYTES } from '../pool/pools-attribute.ts';

/**
 * A place in memory as Linux prints a pointer: 16 hex digits. Linux prints a hash, so that logs do not reveal where the
 * kernel lies; here it is the offset in the memory source's buffer, which reveals nothing either.
 */
export function pointer(byteOffset: number): string {
  return byteOffset.toString(16).padStart(16, '0');
}

/** A DMA address as Linux prints it with `%pad`: `0x` and 16 hex digits. */
export function pad(dma: number): string {
  return `0x${dma.toString(16).padStart(16, '0')}`;
}

/** A pool's name as Linux keeps it; of a character that would be cut in two, nothing. */
export function poolName(name: string): string {
  return cutToBytes(name, NAME_BYTES);
}

export const LINUX_TEXTS: ReportTexts = {
  busy: (name, holders) => `dma_pool_destroy ${poolName(name)} busy\n  ${holders}`,
  corrupted: (name, byteOffset, details) =>
    `dma_pool_alloc ${poolName(name)}, ${pointer(byteOffset)} (corrupted)\n  ${details}`,
};
