/**
 * An 82540EM that receives a packet into each descriptor as soon as the tail passes it, and sends at once. It moves no
 * data. Registers and descriptors as in the driver's registers.ts (PCI/PCI-X Family of Gigabit Ethernet Controllers
 * Software Developer's Manual).
 */
import { InstantFunction } from './instant-function.ts';

const REG = { ctrl: 0x0000, status: 0x0008, eerd: 0x0014, icr: 0x00c0, rctl: 0x0100 } as const;
/** Receive and transmit ring, and offsets in their registers. */
export const RDBAL = 0x2800;
export const TDBAL = 0x3800;
export const RING = { low: 0x00, high: 0x04, length: 0x08, tail: 0x18 } as const;
const CTRL_RESET = 0x0400_0000;
const LINK_UP = 0x83;
const EERD_START = 1;
const EERD_DONE = 0x10;
/** EEPROM: an address in words 0 to 2, and the sum of all 64 words (5.6.35). */
const MAC = [0x5452, 0x1200, 0x5634];
const EEPROM_SUM = 0xbaba;
const LAST_WORD = 0x3f;
const DESCRIPTOR = 16;
const DONE = 1;
const END_OF_PACKET = 2;
export const PACKET_BYTES = 60;
/** Interrupt cause: packets were received. */
const RECEIVED = 0x80;

interface Ring {
  readonly words: Uint32Array;
  readonly size: number;
  head: number;
}

export class InstantE1000 extends InstantFunction {
  readonly #registers = new Map<number, number>();
  #receive: Ring | null = null;
  #transmit: Ring | null = null;

  constructor() {
    super(0x100e_8086, 0x0200_0000, 0x2_0000, 'intx');
  }

  read(_bar: number, offset: number): Promise<number> {
    if (offset === REG.status) return Promise.resolve(LINK_UP);
    if (offset === REG.icr) return Promise.resolve(RECEIVED);
    if (offset === REG.eerd) return Promise.resolve(this.#eeprom((this.#get(REG.eerd) >>> 8) & 0xff));
    return Promise.resolve(this.#get(offset));
  }

  write(_bar: number, offset: number, _width: number, value: number): void {
    if (offset === RDBAL + RING.tail && this.#receive !== null) this.#fill(this.#receive, value);
    else if (offset === TDBAL + RING.tail && this.#transmit !== null) this.#send(this.#transmit, value);
    else this.#configure(offset, value);
  }

  #get(offset: number): number {
    return this.#registers.get(offset) ?? 0;
  }

  #configure(offset: number, value: number): void {
    this.#registers.set(offset, offset === REG.ctrl ? value & ~CTRL_RESET : value);
    if (offset === REG.ctrl && (value & CTRL_RESET) !== 0) this.#receive = this.#transmit = null;
    // The driver writes base and length first, and the tail (0) last.
    if (offset === RDBAL + RING.tail) this.#receive = this.#ring(RDBAL);
    if (offset === TDBAL + RING.tail) this.#transmit = this.#ring(TDBAL);
  }

  #ring(base: number): Ring {
    const bytes = this.#get(base + RING.length);
    const dma = this.#get(base + RING.low) + this.#get(base + RING.high) * 2 ** 32;
    return { words: this.words(dma, bytes), size: bytes / DESCRIPTOR, head: 0 };
  }

  #eeprom(word: number): number {
    const sum = EEPROM_SUM - MAC.reduce((total, part) => total + part, 0);
    const value = word === LAST_WORD ? sum & 0xffff : (MAC[word] ?? 0);
    return (value << 16) | EERD_DONE | EERD_START;
  }

  #fill(ring: Ring, tail: number): void {
    const { words, size } = ring;
    while (ring.head !== tail) {
      words[4 * ring.head + 2] = PACKET_BYTES;
      Atomics.store(words, 4 * ring.head + 3, DONE | END_OF_PACKET);
      ring.head = ring.head + 1 === size ? 0 : ring.head + 1;
    }
    this.raise(0);
  }

  #send(ring: Ring, tail: number): void {
    while (ring.head !== tail) {
      ring.words[4 * ring.head + 3] = DONE;
      ring.head = ring.head + 1 === ring.size ? 0 : ring.head + 1;
    }
  }
}
