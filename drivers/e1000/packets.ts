/** Packet buffers: blocks of one pool, each with one owner. */
import { type Device, DmaArgumentError, DmaBlockError, DmaPool, lower32Bits, upper32Bits } from 'dmapool';
import { isArray } from 'dmapool/arguments';
import { BUFFER_BYTES } from './registers.ts';

/** Owner of a buffer. */
const FREE = 0;
const USER = 1;
const CARD = 2;

/**
 * A packet in its buffer of 2048 bytes. `receive` returns packets and `transmit` takes them; nothing is copied.
 *
 * There is one `Packet` object per buffer, and it is reused with the buffer. Keep no reference after the packet was
 * freed or transmitted.
 *
 * @example
 * ```ts
 * const machine = await QemuMachine.start({ devices: ['e1000,id=nic0'] });
 * const pci = await machine.open('nic0');
 * const nic = await E1000.open(pci);
 * const packet: Packet = nic.packets.alloc();
 * packet.bytes.fill(0xff, 0, 6); // broadcast
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
  /** Index of its buffer in the pool. */
  readonly index: number;
  /** DMA address of the buffer. */
  readonly dma: number;
  /** The whole buffer. The packet is its first {@link Packet.length} bytes, starting with the destination address. */
  readonly bytes: Uint8Array;
  /** The buffer as 32-bit words. */
  readonly words: Uint32Array;
  /** Length of the packet in bytes, without the Ethernet checksum: 14 to 1518. Set it before `transmit`. */
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

  /** The pool of its buffer. */
  get packets(): PacketPool {
    return this.#packets;
  }

  /** @returns True if `value` is a packet. @internal */
  static is(value: unknown): value is Packet {
    return typeof value === 'object' && value !== null && #packets in value;
  }
}

/**
 * The packet buffers of one card. They come from a `DmaPool`, which grows page by page as needed, up to a limit.
 *
 * Each buffer is free, owned by the caller (from `alloc` or `receive` until `free` or `transmit`), or owned by the
 * card. To free or transmit a buffer that the caller does not own is an error.
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
  /** Maximum number of buffers. */
  readonly limit: number;
  readonly #pool: DmaPool<'e1000 packets'>;
  readonly #device: Device;
  // By buffer index: its packet, its owner, and the two halves of its address, as descriptors hold it.
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

  /** Buffers that are not free: those of the caller and those of the card. */
  get active(): number {
    return this.#pool.statistics().active;
  }

  /**
   * Allocates a buffer. Its content is undefined.
   * @throws `DmaOutOfMemoryError` when none is free. @throws `DmaDestroyedError` after the driver was closed.
   */
  alloc(): Packet {
    return this.#handOut(this.#pool.allocIndex());
  }

  /** {@link alloc}, but returns null when no buffer is free. */
  tryAlloc(): Packet | null {
    const index = this.#pool.tryAllocIndex();
    return index < 0 ? null : this.#handOut(index);
  }

  /**
   * Allocates `count` buffers into `into[0..count)`: all, or none if it throws.
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
   * Frees the buffer of `packet`. It may be called after the driver was closed.
   * @throws `DmaBlockError` when the caller does not own it, for example after an earlier `free` or `transmit`.
   */
  free(packet: Packet): void {
    this.#check(packet);
    this.#owners[packet.index] = FREE;
    this.#pool.freeIndex(packet.index);
  }

  /**
   * Frees `packets[from..to)`, all by default.
   *
   * @param from Index of the first packet.
   * @param to Index after the last packet, at most `packets.length`.
   * @throws `DmaArgumentError` for a range that is not in the array. @throws as {@link free}; the packets before the
   *   invalid one are freed.
   */
  freeBatch(packets: readonly Packet[], from = 0, to: number = countOf(packets)): void {
    checkRange(packets, from, to);
    for (let i = from; i < to; i++) this.free(packets[i]!);
  }

  /** Allocates a buffer for the receive ring. @internal @throws as {@link PacketPool.alloc} */
  allocForCard(): number {
    const index = this.#pool.allocIndex();
    if (this.#packets[index] === undefined) this.#make(index);
    this.#owners[index] = CARD;
    return index;
  }

  /** {@link allocForCard}, but returns -1 when no buffer is free. @internal */
  tryAllocForCard(): number {
    let index: number;
    try {
      index = this.#pool.tryAllocIndex();
    } catch {
      // The caller's coherent allocator threw. In the middle of a batch, an exception would lose the earlier packets.
      return -1;
    }
    if (index < 0) return -1;
    if (this.#packets[index] === undefined) this.#make(index);
    this.#owners[index] = CARD;
    return index;
  }

  /** Transfers a filled buffer from the card to the caller. @internal */
  toUser(index: number, length: number): Packet {
    this.#owners[index] = USER;
    const packet = this.#packets[index]!;
    packet.length = length;
    return packet;
  }

  /** Transfers the caller's packet to the card. @internal @throws as {@link free} */
  toCard(packet: Packet): void {
    this.#check(packet);
    this.#owners[packet.index] = CARD;
  }

  /** Frees a buffer that the card owned. @internal */
  backFromCard(index: number): void {
    this.#owners[index] = FREE;
    this.#pool.freeIndex(index);
  }

  /** Writes a buffer's address to the first two words of a descriptor. @internal */
  writeAddress(words: Uint32Array, at: number, index: number): void {
    words[at] = this.#low[index]!;
    words[at + 1] = this.#high[index]!;
  }

  /** Ends allocation. The memory is released once the caller owns no buffer. @internal */
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

  /** Grows the tables by whole pages. Blocks in quarantine (debug mode) can raise indices above the limit. */
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
      const message = `${name}: packet ${String(packet.index)} belongs to another card; copy it to a packet of this card`;
      throw new DmaBlockError('ERR_DMAPOOL_WRONG_POOL', message);
    }
    const owner = this.#owners[packet.index];
    if (owner === USER) return;
    throw owner === CARD
      ? new DmaBlockError(
          'ERR_DMAPOOL_NOT_OWNER',
          `${name}: packet ${String(packet.index)} is in a ring; the card owns it`,
        )
      : new DmaBlockError('ERR_DMAPOOL_NOT_ALLOCATED', `${name}: packet ${String(packet.index)} is free`);
  }
}

/** @returns The length of `packets`, or 0 if it is not an array. @internal */
export function countOf(packets: readonly Packet[] | undefined): number {
  return isArray(packets) ? packets.length : 0;
}

/** @throws `DmaArgumentError` unless `packets` is an array and `from..to` a range in it. @internal */
export function checkRange(packets: readonly Packet[], from: number, to: number): void {
  if (!isArray(packets)) throw new DmaArgumentError('packets', packets, 'an array');
  if (!Number.isInteger(to) || to < 0 || to > packets.length) {
    throw new DmaArgumentError('to', to, `from 0 to ${String(packets.length)}`);
  }
  if (!Number.isInteger(from) || from < 0 || from > to) {
    throw new DmaArgumentError('from', from, `from 0 to ${String(to)}`);
  }
}
