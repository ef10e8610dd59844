/**
 * The floor of the e1000 loads: the barest code that receives, frees and sends on the same card. It checks nothing, has
 * no packet objects, and keeps its free buffers on a stack of numbers.
 */
import { type Device, loadAcquire32, lower32Bits, storeRelease32, upper32Bits } from 'dmapool';
import { type InstantE1000, RDBAL, RING, TDBAL } from './instant-e1000.ts';

const DESCRIPTOR_BYTES = 16;
const DESCRIPTOR_WORDS = 4;
const DONE = 1;
/** The driver's default. */
const RING_SIZE = 512;
const BUFFERS = 3 * RING_SIZE;
const BUFFER_BYTES = 2048;
/** Descriptors for each write of the receive ring's tail, as in the driver. */
const TAIL_BATCH = 32;

interface Ring {
  readonly words: Uint32Array;
  /** Buffer of each descriptor. */
  readonly slots: Int32Array;
  next: number;
  tail: number;
}

export class BareE1000 {
  readonly #card: InstantE1000;
  readonly #device: Device;
  readonly #buffers: number;
  readonly #free: Int32Array = Int32Array.from({ length: BUFFERS }, (_, i) => i);
  #freeCount = BUFFERS;
  readonly #receive: Ring;
  readonly #transmit: Ring;
  #refilled = 0;

  constructor(card: InstantE1000, device: Device) {
    this.#card = card;
    this.#device = device;
    this.#buffers = device.allocCoherent(BUFFERS * BUFFER_BYTES)!.dma;
    this.#receive = this.#install(RDBAL);
    this.#transmit = this.#install(TDBAL);
    for (let i = 0; i < RING_SIZE; i++) this.#fill(this.#receive, i, this.#free[--this.#freeCount]!);
    card.write(0, RDBAL + RING.tail, 32, RING_SIZE - 1);
  }

  #install(base: number): Ring {
    const { buffer, byteOffset, dma } = this.#device.allocCoherent(RING_SIZE * DESCRIPTOR_BYTES)!;
    this.#card.write(0, base + RING.low, 32, lower32Bits(dma));
    this.#card.write(0, base + RING.high, 32, upper32Bits(dma));
    this.#card.write(0, base + RING.length, 32, RING_SIZE * DESCRIPTOR_BYTES);
    this.#card.write(0, base + RING.tail, 32, 0);
    const words = new Uint32Array(buffer, byteOffset, RING_SIZE * DESCRIPTOR_WORDS);
    return { words, slots: new Int32Array(RING_SIZE), next: 0, tail: 0 };
  }

  #fill({ words, slots }: Ring, i: number, buffer: number): void {
    const at = i * DESCRIPTOR_WORDS;
    const dma = this.#buffers + buffer * BUFFER_BYTES;
    slots[i] = buffer;
    words[at] = lower32Bits(dma);
    words[at + 1] = upper32Bits(dma);
  }

  receive(into: Int32Array, max: number): number {
    const ring = this.#receive;
    const { words, slots } = ring;
    let got = 0;
    while (got < max && (loadAcquire32(words, ring.next * DESCRIPTOR_WORDS + 3) & DONE) !== 0) {
      into[got++] = slots[ring.next]!;
      this.#fill(ring, ring.next, this.#free[--this.#freeCount]!);
      words[ring.next * DESCRIPTOR_WORDS + 3] = 0;
      ring.next = ring.next + 1 === RING_SIZE ? 0 : ring.next + 1;
    }
    this.#refilled += got;
    if (this.#refilled >= TAIL_BATCH) {
      const last = ring.next === 0 ? RING_SIZE - 1 : ring.next - 1;
      storeRelease32(words, last * DESCRIPTOR_WORDS + 3, 0);
      this.#card.write(0, RDBAL + RING.tail, 32, last);
      this.#refilled = 0;
    }
    return got;
  }

  free(buffers: Int32Array, count: number): void {
    for (let i = 0; i < count; i++) this.#free[this.#freeCount++] = buffers[i]!;
  }

  /** Sends packets, and frees those that were sent before. */
  transmit(buffers: Int32Array, count: number, bytes: number): void {
    const ring = this.#transmit;
    const { words, slots } = ring;
    while (ring.next !== ring.tail && (loadAcquire32(words, ring.next * DESCRIPTOR_WORDS + 3) & DONE) !== 0) {
      this.#free[this.#freeCount++] = slots[ring.next]!;
      ring.next = ring.next + 1 === RING_SIZE ? 0 : ring.next + 1;
    }
    for (let i = 0; i < count; i++) {
      this.#fill(ring, ring.tail, buffers[i]!);
      words[ring.tail * DESCRIPTOR_WORDS + 2] = bytes;
      words[ring.tail * DESCRIPTOR_WORDS + 3] = 0;
      ring.tail = ring.tail + 1 === RING_SIZE ? 0 : ring.tail + 1;
    }
    // Orders all plain writes before the tail register, as in the driver.
    storeRelease32(words, (ring.tail === 0 ? RING_SIZE - 1 : ring.tail - 1) * DESCRIPTOR_WORDS + 3, 0);
    this.#card.write(0, TDBAL + RING.tail, 32, ring.tail);
  }
}
