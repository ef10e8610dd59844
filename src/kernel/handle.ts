import { checkObject } from '../arguments.ts';
import { DmaArgumentError } from '../errors.ts';

/** A DMA address in bytes, 0 to 2^53-1 (Linux: `dma_addr_t`). */
export type dma_addr_t = number;

/**
 * Receives an address, in place of C's `dma_addr_t *`: any object with a field `dma`, such as the driver's own descriptor.
 * A failed call writes nothing.
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
  /** The address, after a successful call. */
  dma: dma_addr_t;
}

const ACCEPTED = 'an object with a field dma, or null';

/** Throws unless `handle` is an object, null or undefined. */
export function checkDmaHandle(argument: string, handle: unknown): void {
  if (handle !== null && handle !== undefined) checkObject(argument, handle, ACCEPTED);
}

/** Writes an address. If the setter throws, calls `undo`, which frees the memory. @throws `DmaArgumentError` if so */
export function writeDma(
  argument: string,
  handle: DmaHandle | null | undefined,
  dma: dma_addr_t,
  undo: () => void,
): void {
  if (handle === null || handle === undefined) return;
  try {
    handle.dma = dma;
  } catch (error) {
    undo();
    throw new DmaArgumentError(argument, handle, ACCEPTED, { cause: error });
  }
}
