/**
 * A descriptor ring in coherent memory. The driver advances the tail, and the card follows with the head.
 *
 *     |  done  |##### card owns #####|  free  |             manual, 3.2.6 and 3.4
 *              head                  tail                  head == tail: the card owns none
 */
import { type Device, DmaOutOfMemoryError, lower32Bits, upper32Bits } from 'dmapool';
import type { Bar, DmaStopped } from 'dmapool/pci';
import { DESCRIPTOR_BYTES, DESCRIPTOR_WORDS } from './registers.ts';

/** Result of `device.allocCoherent`. */
type Memory = NonNullable<ReturnType<Device['allocCoherent']>>;

/** Offsets of a ring's registers. */
export interface RingRegisters {
  readonly baseLow: number;
  readonly baseHigh: number;
  readonly length: number;
  readonly head: number;
  readonly tail: number;
}

export class DescriptorRing {
  /** Number of descriptors: a multiple of 8, since the length register counts units of 128 bytes (13.4.27, 13.4.38). */
  readonly size: number;
  /** The descriptors, four words each. */
  readonly words: Uint32Array;
  /** By descriptor: index of its packet, or -1. Kept outside DMA memory, since the card could overwrite it there. */
  readonly slots: Int32Array;
  readonly #device: Device;
  readonly #registers: RingRegisters;
  #memory: Memory | null;

  /** @throws `DmaOutOfMemoryError` */
  constructor(device: Device, size: number, what: string, registers: RingRegisters) {
    this.size = size;
    this.#device = device;
    this.#registers = registers;
    const bytes = size * DESCRIPTOR_BYTES;
    this.#memory = device.allocCoherent(bytes);
    if (this.#memory === null) {
      const message = `${device.name}: no memory for ${String(bytes)} bytes of ${what} descriptors`;
      throw new DmaOutOfMemoryError('ERR_DMAPOOL_NO_MEMORY', message);
    }
    const { buffer, byteOffset } = this.#memory;
    this.words = new Uint32Array(buffer, byteOffset, size * DESCRIPTOR_WORDS);
    this.slots = new Int32Array(size).fill(-1);
  }

  /** Writes the address and length of the empty ring to the card (14.4, 14.5). */
  install(bar: Bar): void {
    const { dma } = this.#memory!;
    bar.write32(this.#registers.baseLow, lower32Bits(dma));
    bar.write32(this.#registers.baseHigh, upper32Bits(dma));
    bar.write32(this.#registers.length, this.size * DESCRIPTOR_BYTES);
    bar.write32(this.#registers.head, 0);
    bar.write32(this.#registers.tail, 0);
  }

  /**
   * Frees the ring. Passes the index of each packet in it to `release`.
   *
   * @param _proof Proof that the card does no DMA.
   */
  free(_proof: DmaStopped, release: (index: number) => void): void {
    const { slots } = this;
    for (let i = 0; i < slots.length; i++) {
      const index = slots[i]!;
      slots[i] = -1;
      if (index >= 0) release(index);
    }
    const memory = this.#memory;
    this.#memory = null;
    if (memory !== null) this.#device.freeCoherent(memory);
  }
}
