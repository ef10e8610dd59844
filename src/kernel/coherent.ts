/** `dma_alloc_coherent` and the DMA mask (Linux: `include/linux/dma-mapping.h`). */
import { checkObject, reading } from '../arguments.ts';
import { type Device, isDevice } from '../device/device.ts';
import { describe, DmaArgumentError, DmaError } from '../errors.ts';
import { DmaMappingError } from '../memory/errors.ts';
import type { CoherentMemory } from '../memory/coherent.ts';
import { pad } from './wording.ts';
import { EIO } from './errno.ts';
import { checkFlags, type gfp_t } from './gfp.ts';
import { checkDmaHandle, type dma_addr_t, type DmaHandle, writeDma } from './handle.ts';
import { reportBadMemory, reportNoPages, reportRefused } from './report.ts';

/**
 * Allocates coherent memory: zeroed, naturally aligned, within the device's DMA mask.
 *
 * @param dev The device that will access the memory.
 * @param size Bytes, 1 to 2^31-1.
 * @param dma_handle Receives the DMA address; null to read it from the result, `memory.dma`.
 * @param gfp Flags, as for `dma_pool_alloc`.
 * @returns The memory, in place of C's pointer: `memory.buffer` from `memory.byteOffset` on. Null when there is none. The
 *   failure is logged as in Linux, unless `__GFP_NOWARN` is set.
 * @throws `DmaArgumentError` for an invalid device, size or flags.
 *
 * @example
 * ```ts
 * const device = new Device({ name: '0000:00:03.0' });
 * const ring = dma_alloc_coherent(device, 4096, null, GFP_KERNEL);
 * if (ring !== null) {
 *   const words = new Uint32Array(ring.buffer, ring.byteOffset, ring.size / 4);
 *   words[0] = 1;
 *   dma_free_coherent(device, 4096, ring, ring.dma);
 * }
 * ```
 */
export function dma_alloc_coherent(
  dev: Device,
  size: number,
  dma_handle: DmaHandle | null,
  gfp: gfp_t,
): CoherentMemory | null {
  checkDevice(dev);
  checkFlags('gfp', gfp);
  checkDmaHandle('dma_handle', dma_handle);
  let memory: CoherentMemory | null;
  try {
    memory = dev.allocCoherent(size);
  } catch (error) {
    return reportBadMemory(dev, 'dma_alloc_coherent', error);
  }
  if (memory === null) reportNoPages(dev, size, gfp);
  else {
    const given = memory;
    writeDma('dma_handle', dma_handle, given.dma, () => {
      dev.freeCoherent(given);
    });
  }
  return memory;
}

/**
 * Frees coherent memory. An invalid free changes nothing and is logged as by Linux's `CONFIG_DMA_API_DEBUG`:
 *
 * - `DMA-API: device driver tries to free DMA memory it has not allocated [device address=0x...] [size=... bytes]`
 * - `DMA-API: device driver frees DMA memory with different size [device address=0x...] [map size=... bytes] [unmap size=... bytes]`
 *
 * @param dev The device that the memory was allocated for.
 * @param size Bytes, as requested.
 * @param cpu_addr The result of `dma_alloc_coherent`. For null the call does nothing.
 * @param dma_handle Its DMA address.
 * @throws `DmaArgumentError` if `dev` is no device. @throws the coherent allocator's own errors.
 *
 * @example
 * ```ts
 * const log = { error: console.log, warn: console.log, info: console.log };
 * const device = new Device({ name: '0000:00:03.0', log });
 * const ring = dma_alloc_coherent(device, 4096, null, GFP_KERNEL)!;
 * dma_free_coherent(device, 512, ring, ring.dma); // DMA-API: device driver frees DMA memory with different size ...
 * dma_free_coherent(device, 4096, ring, ring.dma);
 * ```
 */
export function dma_free_coherent(
  dev: Device,
  size: number,
  cpu_addr: CoherentMemory | null,
  dma_handle: dma_addr_t,
): void {
  checkDevice(dev);
  if (cpu_addr === null || cpu_addr === undefined) return;
  checkObject('cpu_addr', cpu_addr, 'memory from dma_alloc_coherent(), or null');
  const memory = reading('cpu_addr', cpu_addr, 'memory from dma_alloc_coherent()', () => {
    return { dma: cpu_addr.dma, size: cpu_addr.size };
  });
  const unknown = `device driver tries to free DMA memory it has not allocated [device address=${formatDma(dma_handle)}] [size=${describe(size)} bytes]`;
  if (dma_handle !== memory.dma) {
    reportRefused(dev, 'DMA-API', `DMA-API: ${unknown}`, null);
    return;
  }
  if (size !== memory.size) {
    const sizes = `[map size=${describe(memory.size)} bytes] [unmap size=${describe(size)} bytes]`;
    const line = `device driver frees DMA memory with different size [device address=${formatDma(dma_handle)}] ${sizes}`;
    reportRefused(dev, 'DMA-API', `DMA-API: ${line}`, null);
    return;
  }
  try {
    dev.freeCoherent(cpu_addr);
  } catch (error) {
    if (!(error instanceof DmaMappingError)) throw error;
    reportRefused(dev, 'DMA-API', `DMA-API: ${unknown}`, error);
  }
}

/**
 * Sets the highest address that the device can access.
 *
 * @param dev The device.
 * @param mask The highest address, from {@link DMA_BIT_MASK} or any number from 1. Values above 2^53-1 equal 2^53-1.
 * @returns 0, or `-EIO` if the mask is invalid, or if the device has memory above it (Linux does not check the latter;
 *   see {@link Device.setDmaMask}).
 * @throws `DmaArgumentError` if `dev` is no device.
 *
 * @example
 * ```ts
 * const device = new Device({ name: '0000:00:03.0' });
 * if (dma_set_mask_and_coherent(device, DMA_BIT_MASK(64)) !== 0) throw new Error('no 64-bit DMA');
 * ```
 */
export function dma_set_mask_and_coherent(dev: Device, mask: number): number {
  checkDevice(dev);
  try {
    // Ported code may pass C's constant for 64 bits, which a double can't hold.
    dev.setDmaMask(typeof mask === 'number' ? Math.min(mask, Number.MAX_SAFE_INTEGER) : mask);
    return 0;
  } catch (error) {
    if (error instanceof DmaError) return -EIO;
    throw error;
  }
}

function formatDma(dma: unknown): string {
  return typeof dma === 'number' && Number.isSafeInteger(dma) && dma >= 0 ? pad(dma) : '(null)';
}

function checkDevice(dev: unknown): void {
  if (!isDevice(dev)) throw new DmaArgumentError('dev', dev, 'a Device');
}
