/**
 * Receive queue (manual, 3.2). Every descriptor holds a buffer at all times. `receive` hands a filled buffer to the
 * caller and puts a fresh one in its place. The card never gets the last descriptor: head == tail means an empty ring.
 */
import { loadAcquire32, type Device, storeRelease32 } from 'dmapool';
import type { Bar, DmaStopped } from 'dmapool/pci';
import type { Packet, PacketPool } from './packets.ts';
import { DESCRIPTOR_WORDS, HEADER_BYTES, MAX_PACKET_BYTES, REG, RX } from './registers.ts';
import { DescriptorRing } from './ring.ts';

/** Maximum number of descriptors refilled before the tail is written; each write is a bus transaction. */
const TAIL_BATCH = 32;

export class ReceiveQueue {
  readonly #ring: DescriptorRing;
  readonly #packets: PacketPool;
  readonly #bar: Bar;
  readonly #batch: number;
  /** Index of the descriptor that the card fills next. */
  #next = 0;
  /** Descriptors refilled since the tail was last written. */
  #refilled = 0;
  /** The last descriptor did not end its packet, so the next one continues it. */
  #skipping = false;
  /** Packets and bytes handed to the caller. */
  received = 0;
  bytes = 0;
  /** Packets dropped: damaged, too long, or spread over several buffers. */
  dropped = 0;
  /** Number of times that a packet stayed in the ring because no buffer was free. */
  starved = 0;
  /** The last `receive` left a packet in the ring because no buffer was free. */
  starving = false;
  readonly #reclaim: () => boolean;

  /**
   * @param reclaim Called when no buffer is free. Returns true if it freed some.
   * @throws `DmaOutOfMemoryError` if there is no memory for the ring; {@link ReceiveQueue.fill} allocates the buffers.
   */
  constructor(device: Device, bar: Bar, packets: PacketPool, size: number, reclaim: () => boolean) {
    this.#bar = bar;
    this.#packets = packets;
    this.#reclaim = reclaim;
    this.#batch = Math.min(TAIL_BATCH, size / 4);
    this.#ring = new DescriptorRing(device, size, 'receive', {
      baseLow: REG.rdbal,
      baseHigh: REG.rdbah,
      length: REG.rdlen,
      head: REG.rdh,
      tail: REG.rdt,
    });
  }

  /** Allocates a buffer for every descriptor. @throws `DmaOutOfMemoryError` */
  fill(): void {
    for (let i = 0; i < this.#ring.size; i++) {
      this.#refill(i, this.#packets.allocForCard());
    }
  }

  /** Installs the ring (14.4). Once enabled, the card may fill all descriptors except the last. */
  install(): void {
    const { size, words } = this.#ring;
    this.#ring.install(this.#bar);
    storeRelease32(words, size * DESCRIPTOR_WORDS - 1, 0);
    this.#bar.write32(REG.rdt, size - 1);
  }

  /** A packet can be received. */
  get ready(): boolean {
    return (loadAcquire32(this.#ring.words, this.#next * DESCRIPTOR_WORDS + 3) & RX.done) !== 0;
  }

  /** Takes up to `max` packets into `into`, from index 0. @returns The number of packets. */
  receive(into: Packet[], max: number): number {
    const { words, slots, size } = this.#ring;
    let i = this.#next;
    let got = 0;
    this.starving = false;
    // At most one round: bounds the work if the card misbehaves and marks descriptors faster than they are read.
    for (let visited = 0; got < max && visited < size; visited++) {
      // The card writes the status last: after this load-acquire, the other words are valid.
      const status = loadAcquire32(words, i * DESCRIPTOR_WORDS + 3);
      if ((status & RX.done) === 0) break;
      const length = words[i * DESCRIPTOR_WORDS + 2]! & 0xffff;
      let index = slots[i]!;
      if (this.#isGood(status, length)) {
        let fresh = this.#packets.tryAllocForCard();
        if (fresh < 0 && this.#reclaim()) fresh = this.#packets.tryAllocForCard();
        if (fresh < 0) {
          // The packet stays in the ring. When the ring is full, the card drops packets and counts them (MPC, RNBC).
          this.starved++;
          this.starving = true;
          break;
        }
        into[got++] = this.#packets.toUser(index, length);
        this.bytes += length;
        index = fresh;
      }
      this.#skipping = (status & RX.endOfPacket) === 0;
      this.#refill(i, index);
      this.#refilled++;
      i = i + 1 === size ? 0 : i + 1;
    }
    this.#next = i;
    this.received += got;
    if (this.#refilled >= this.#batch) this.#writeTail();
    return got;
  }

  /** Frees all buffers and the ring. */
  free(proof: DmaStopped): void {
    this.#ring.free(proof, (index) => {
      this.#packets.backFromCard(index);
    });
  }

  /** @returns True if a descriptor holds one complete, undamaged packet. Counts the others as dropped. */
  #isGood(status: number, length: number): boolean {
    const whole = (status & RX.endOfPacket) !== 0 && !this.#skipping;
    // Check the length: the card is not trusted, and the caller may transmit the packet as it is.
    const good = whole && (status & RX.errors) === 0 && length >= HEADER_BYTES && length <= MAX_PACKET_BYTES;
    if (!good && (status & RX.endOfPacket) !== 0) this.dropped++;
    return good;
  }

  #refill(i: number, index: number): void {
    const { words, slots } = this.#ring;
    const at = i * DESCRIPTOR_WORDS;
    slots[i] = index;
    this.#packets.writeAddress(words, at, index);
    words[at + 2] = 0;
    words[at + 3] = 0;
  }

  /** Moves the tail to the last refilled descriptor, which stays with the driver (13.4.29). */
  #writeTail(): void {
    const { words, size } = this.#ring;
    const last = this.#next === 0 ? size - 1 : this.#next - 1;
    // This store-release orders all plain writes before the tail register.
    storeRelease32(words, last * DESCRIPTOR_WORDS + 3, 0);
    this.#bar.write32(REG.rdt, last);
    this.#refilled = 0;
  }
}
