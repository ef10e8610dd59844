/**
 * A ring of descriptors in coherent memory: the driver moves the tail, the card follows with the head.
 *
 *     |  done  |##### the card's #####|  free  |           manual, 3.2.6 and 3.4
 *              head                   tail                 head == tail: none is the card's
 */
import { type Device, DmaOutOfMemoryError, lower32Bits, upper32Bits } from 'dmapool';
import type { Bar, DmaStopped } from 'dmapool/pci';
import { DESCRIPTOR_BYTES, DESCRIPTOR_WORDS } from './registers.ts';

/** What `device.allocCoherent` gives. */
type Memory = NonNullable<ReturnType<Device['allocCoherent']>>;

/** Where the five registers of a ring lie. */
export interface RingRegisters {
  readonly baseLow: number;
  readonly baseHigh: number;
  readonly length: number;
  readonly head: number;
  readonly tail: number;
}

export class DescriptorRing {
  /** How many descriptors: a multiple of 8, since the card counts in 128 bytes (13.4.27, 13.4.38). */
  readonly size: number;
  /** All descriptors, four words each. */
  readonly words: Uint32Array;
  /** By descriptor: index of the packet that it holds, or -1. Here, not in memory that the card can write. */
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

  /** Tells the card where the ring is, with nothing in it (14.4, 14.5). */
  install(bar: Bar): void {
    const { dma } = this.#memory!;
    bar.write32(this.#registers.baseLow, lower32Bits(dma));
    bar.write32(this.#registers.baseHigh, upper32Bits(dma));
    bar.write32(this.#registers.length, this.size * DESCRIPTOR_BYTES);
    bar.write32(this.#registers.head, 0);
    bar.write32(this.#registers.tail, 0);
  }

  /**
   * Gives the memory back, and by `giveBack` each buffer that is in it.
   *
   * @param _proof That the card does not reach them any more.
   */
  free(_proof: DmaStopped, giveBack: (index: number) => void): void {
    const { slots } = this;
    for (let i = 0; i < slots.length; i++) {
      const index = slots[i]!;
      slots[i] = -1;
      if (index >= 0) giveBack(index);
    }
    const memory = this.#memory;
    this.#memory = null;
    if (memory !== null) this.#device.freeCoherent(memory);
  }
}
