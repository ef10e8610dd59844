/** Packet buffers: blocks of one pool, each with an owner. */
import { type Device, DmaArgumentError, DmaBlockError, DmaPool, lower32Bits, upper32Bits } from 'dmapool';
import { isArray } from 'dmapool/arguments';
import { BUFFER_BYTES } from './registers.ts';

/** Whose a buffer is. */
const FREE = 0;
const USER = 1;
const CARD = 2;

/**
 * A packet and its buffer of 2048 bytes. What `receive` gives and `transmit` takes; in between nothing is copied.
 *
 * A packet is made once for each buffer and used again, as the buffer is: keep no reference after it was freed or
 * transmitted.
 *
 * @example
 * ```ts
 * const machine = await QemuMachine.start({ devices: ['e1000,id=nic0'] });
 * const pci = await machine.open('nic0');
 * const nic = await E1000.open(pci);
 * const packet: Packet = nic.packets.alloc();
 * packet.bytes.fill(0xff, 0, 6); // to everybody
 * packet.bytes.set(nic.mac, 6);
 * packet.length = 60;
 * nic.transmit([packet]);
 * await nic.drain();
 * await nic.close();
 * await pci.close();
 * await machine.close();
 * ```
 */
export class Packet {
  /** Number of its buffer in the pool. */
  readonly index: number;
  /** Address of the buffer for the card. */
  readonly dma: number;
  /** The whole buffer. The packet is its first {@link Packet.length} bytes, from the destination address on. */
  readonly bytes: Uint8Array;
  /** The same as 32-bit words. */
  readonly words: Uint32Array;
  /** Bytes of the packet, without the Ethernet checksum: 14 to 1518. Set it before `transmit`. */
  length = 0;
  readonly #packets: PacketPool;

  /** @internal */
  constructor(packets: PacketPool, index: number, dma: number, bytes: Uint8Array) {
    this.#packets = packets;
    this.index = index;
    this.dma = dma;
    this.bytes = bytes;
    this.words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  }

  /** The pool that it belongs to. */
  get packets(): PacketPool {
    return this.#packets;
  }

  /** True for a packet, false for anything else. @internal */
  static is(value: unknown): value is Packet {
    return typeof value === 'object' && value !== null && #packets in value;
  }
}

/**
 * The buffers of one card. They come from a `DmaPool` page by page, as they are needed, up to a limit.
 *
 * Each buffer is free, the user's (from `alloc` or `receive`, until `free` or `transmit`), or the card's. Only the user's
 * can be freed and transmitted: everything else is an error, at once.
 *
 * @example
 * ```ts
 * const machine = await QemuMachine.start({ devices: ['e1000,id=nic0'] });
 * const pci = await machine.open('nic0');
 * const nic = await E1000.open(pci);
 * const pool: PacketPool = nic.packets;
 * const batch: Packet[] = [];
 * pool.allocBatch(batch, 32);
 * console.log(pool.active); // 544: these, and the 512 of the receive ring
 * pool.freeBatch(batch);
 * await nic.close();
 * await pci.close();
 * await machine.close();
 * ```
 */
export class PacketPool {
  /** Most buffers that there can be. */
  readonly limit: number;
  readonly #pool: DmaPool<'e1000 packets'>;
  readonly #device: Device;
  // By index of the buffer: its packet, whose it is, and its address in halves, as descriptors have it.
  #packets: (Packet | undefined)[] = [];
  #owners = new Uint8Array(0);
  #low = new Uint32Array(0);
  #high = new Uint32Array(0);

  /** @internal */
  constructor(device: Device, limit: number) {
    this.limit = limit;
    this.#device = device;
    this.#pool = DmaPool.create('e1000 packets', device, { size: BUFFER_BYTES, align: BUFFER_BYTES, maxBlocks: limit });
  }

  /** Buffers that are not free: the user's and the card's. */
  get active(): number {
    return this.#pool.statistics().active;
  }

  /**
   * Takes a buffer. Its bytes are whatever was there before.
   * @throws `DmaOutOfMemoryError` when there is none. @throws `DmaDestroyedError` after the driver was closed.
   */
  alloc(): Packet {
    return this.#handOut(this.#pool.allocIndex());
  }

  /** {@link alloc}, but null when there is none. */
  tryAlloc(): Packet | null {
    const index = this.#pool.tryAllocIndex();
    return index < 0 ? null : this.#handOut(index);
  }

  /**
   * Takes `count` buffers into `into[0..count)`: all, or none and an error.
   * @throws as {@link alloc}
   */
  allocBatch(into: Packet[], count: number): void {
    if (!isArray(into)) throw new DmaArgumentError('into', into, 'an array');
    if (!Number.isInteger(count) || count < 0 || count > this.limit) {
      throw new DmaArgumentError('count', count, `from 0 to ${String(this.limit)}`);
    }
    let got = 0;
    try {
      while (got < count) {
        const packet = this.alloc();
        into[got++] = packet;
      }
    } finally {
      if (got < count) while (got > 0) this.free(into[--got]!);
    }
  }

  /**
   * Gives the buffer of `packet` back. Also after the driver was closed.
   * @throws `DmaBlockError` when it is not the user's, as after an earlier `free` or `transmit`.
   */
  free(packet: Packet): void {
    this.#check(packet);
    this.#owners[packet.index] = FREE;
    this.#pool.freeIndex(packet.index);
  }

  /**
   * Gives `packets[from..to)` back, all of them by default: `from` is the first, `to` is behind the last.
   * @throws `DmaArgumentError` for a range that is not in the array. @throws as {@link free}; those before the wrong one
   *   are free then.
   */
  freeBatch(packets: readonly Packet[], from = 0, to: number = countOf(packets)): void {
    checkRange(packets, from, to);
    for (let i = from; i < to; i++) this.free(packets[i]!);
  }

  /** A buffer for the card to fill. @internal @throws as {@link PacketPool.alloc} */
  allocForCard(): number {
    const index = this.#pool.allocIndex();
    if (this.#packets[index] === undefined) this.#make(index);
    this.#owners[index] = CARD;
    return index;
  }

  /** {@link allocForCard}, but -1 when there is none. @internal */
  tryAllocForCard(): number {
    let index: number;
    try {
      index = this.#pool.tryAllocIndex();
    } catch {
      // A memory source of the user's threw. In the middle of a batch that must not lose the packets before this one.
      return -1;
    }
    if (index < 0) return -1;
    if (this.#packets[index] === undefined) this.#make(index);
    this.#owners[index] = CARD;
    return index;
  }

  /** The card filled a buffer: it is the user's now. @internal */
  toUser(index: number, length: number): Packet {
    this.#owners[index] = USER;
    const packet = this.#packets[index]!;
    packet.length = length;
    return packet;
  }

  /** The user's packet becomes the card's. @internal @throws as {@link free} */
  toCard(packet: Packet): void {
    this.#check(packet);
    this.#owners[packet.index] = CARD;
  }

  /** The card has no use for a buffer any more. @internal */
  backFromCard(index: number): void {
    this.#owners[index] = FREE;
    this.#pool.freeIndex(index);
  }

  /** Writes a buffer's address into the first two words of a descriptor. @internal */
  writeAddress(words: Uint32Array, at: number, index: number): void {
    words[at] = this.#low[index]!;
    words[at + 1] = this.#high[index]!;
  }

  /** No more buffers; the memory goes back as soon as none is the user's. @internal */
  destroy(): void {
    this.#pool.destroy();
  }

  #handOut(index: number): Packet {
    const packet = this.#packets[index] ?? this.#make(index);
    this.#owners[index] = USER;
    return packet;
  }

  #make(index: number): Packet {
    if (index >= this.#owners.length) this.#grow(index + 1);
    const dma = this.#pool.dmaOf(index);
    this.#low[index] = lower32Bits(dma);
    this.#high[index] = upper32Bits(dma);
    return (this.#packets[index] = new Packet(this, index, dma, this.#pool.bytesOf(index)));
  }

  /** A page at a time. Blocks in quarantine (debug mode) can bring indices beyond the limit. */
  #grow(least: number): void {
    const { blocksPerPage } = this.#pool.geometry;
    const length = Math.max(Math.ceil(Math.max(least, this.limit) / blocksPerPage) * blocksPerPage, least);
    const enlarge = <T extends Uint8Array | Uint32Array>(old: T, larger: T): T => {
      larger.set(old);
      return larger;
    };
    this.#owners = enlarge(this.#owners, new Uint8Array(length));
    this.#low = enlarge(this.#low, new Uint32Array(length));
    this.#high = enlarge(this.#high, new Uint32Array(length));
    this.#packets = [...this.#packets, ...Array.from({ length: length - this.#packets.length }, () => undefined)];
  }

  #check(packet: Packet): void {
    if (!Packet.is(packet)) throw new DmaArgumentError('packet', packet, 'a Packet from alloc or receive');
    const { name } = this.#device;
    if (packet.packets !== this) {
      const message = `${name}: packet ${String(packet.index)} belongs to another card; copy it into one of this card's`;
      throw new DmaBlockError('ERR_DMAPOOL_WRONG_POOL', message);
    }
    const owner = this.#owners[packet.index];
    if (owner === USER) return;
    throw owner === CARD
      ? new DmaBlockError(
          'ERR_DMAPOOL_NOT_OWNER',
          `${name}: packet ${String(packet.index)} is the card's: it is in a ring`,
        )
      : new DmaBlockError('ERR_DMAPOOL_NOT_ALLOCATED', `${name}: packet ${String(packet.index)} is free`);
  }
}

/** How many `packets` there are, whatever they are. @internal */
export function countOf(packets: readonly Packet[] | undefined): number {
  return isArray(packets) ? packets.length : 0;
}

/** Throws unless `packets` is an array that has a range from `from` to before `to`. @internal */
export function checkRange(packets: readonly Packet[], from: number, to: number): void {
  if (!isArray(packets)) throw new DmaArgumentError('packets', packets, 'an array');
  if (!Number.isInteger(to) || to < 0 || to > packets.length) {
    throw new DmaArgumentError('to', to, `from 0 to ${String(packets.length)}`);
  }
  if (!Number.isInteger(from) || from < 0 || from > to) {
    throw new DmaArgumentError('from', from, `from 0 to ${String(to)}`);
  }
}
