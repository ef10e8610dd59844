/** Linux's format of addresses, and its messages of a pool. */
import type { ReportTexts } from '../pool/hooks.ts';
import { cutToBytes, NAME_BYTES } from '../pool/pools-attribute.ts';

/**
 * Formats a pointer as Linux does: 16 hex digits. Linux prints a hash, so that logs do not reveal kernel addresses; here it
 * is the offset in the coherent allocator's buffer.
 */
export function pointer(byteOffset: number): string {
  return byteOffset.toString(16).padStart(16, '0');
}

/** Formats a DMA address as Linux's `%pad`: `0x` and 16 hex digits. */
export function pad(dma: number): string {
  return `0x${dma.toString(16).padStart(16, '0')}`;
}

/** A pool's name, cut to the length that Linux keeps, at a whole character. */
export function poolName(name: string): string {
  return cutToBytes(name, NAME_BYTES);
}

export const LINUX_TEXTS: ReportTexts = {
  busy: (name, holders) => `dma_pool_destroy ${poolName(name)} busy\n  ${holders}`,
  corrupted: (name, byteOffset, details) =>
    `dma_pool_alloc ${poolName(name)}, ${pointer(byteOffset)} (corrupted)\n  ${details}`,
};
