/** The environment of a device model: memory by device address, relentless DMA, and random numbers. */
import type { DmaTarget, HeapMemory } from 'dmapool';
import type { RelentlessDma } from '../guard/relentless-dma.ts';
import type { Random } from '../support/random.ts';

export class ModelHost {
  readonly dma: RelentlessDma;
  readonly random: Random;
  readonly #heap: HeapMemory;

  constructor(heap: HeapMemory, dma: RelentlessDma, random: Random) {
    this.#heap = heap;
    this.dma = dma;
    this.random = random;
  }

  /** The device, which determines the memory in reach. */
  set target(device: DmaTarget) {
    this.dma.target = device;
  }

  /** The bytes that the device sees at an address; null where nothing is mapped, or the device is stopped. */
  view(dma: number, length: number): Uint8Array | null {
    const { target, isLive } = this.dma;
    if (target === null || !isLive) return null;
    try {
      return this.#heap.translate(target, dma, length);
    } catch {
      // The error was reported when the device received the address, or when the memory was freed.
      return null;
    }
  }

  /** {@link ModelHost.view} as 32-bit words. */
  words(dma: number, count: number): Uint32Array | null {
    const bytes = this.view(dma, count * 4);
    return bytes === null ? null : new Uint32Array(bytes.buffer, bytes.byteOffset, count);
  }
}
