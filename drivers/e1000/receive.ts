/**
 * Receiving (manual, 3.2). Every descriptor always holds a buffer. A filled one is handed to the user as it is, and a
 * fresh one takes its place; one descriptor is kept back, since a full ring and an empty one would look alike.
 */
import { loadAcquire32, type Device, storeRelease32 } from 'dmapool';
import type { Bar, DmaStopped } from 'dmapool/pci';
import type { Packet, PacketPool } from './packets.ts';
import { DESCRIPTOR_WORDS, HEADER_BYTES, MAX_PACKET_BYTES, REG, RX } from './registers.ts';
import { DescriptorRing } from './ring.ts';

/** The tail is written once in so many descriptors, or in a quarter of the ring: each write crosses the bus. */
const TAIL_BATCH = 32;

export class ReceiveQueue {
  readonly #ring: DescriptorRing;
  readonly #packets: PacketPool;
  readonly #bar: Bar;
  readonly #batch: number;
  /** The descriptor that is filled next. */
  #next = 0;
  /** Descriptors with fresh buffers that the card was not told of. */
  #untold = 0;
  /** In the middle of a packet that took more than one buffer. */
  #skipping = false;
  /** Packets and bytes handed to the user. */
  received = 0;
  bytes = 0;
  /** Packets dropped: damaged, too long, or of more than one buffer. */
  dropped = 0;
  /** How often a packet had to wait in the ring because there was no fresh buffer. */
  starved = 0;
  /** The last look left a packet in the ring for want of a fresh buffer. */
  starving = false;
  readonly #reclaim: () => boolean;

  /**
   * @param reclaim Called when there is no fresh buffer: true if it freed some.
   * @throws `DmaOutOfMemoryError` for the ring; the buffers come by {@link ReceiveQueue.fill}.
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

  /** Gives every descriptor a buffer. @throws `DmaOutOfMemoryError` */
  fill(): void {
    for (let i = 0; i < this.#ring.size; i++) {
      this.#refill(i, this.#packets.allocForCard());
    }
  }

  /** Tells the card of the ring (14.4). It may use all but the last descriptor once it is enabled. */
  install(): void {
    const { size, words } = this.#ring;
    this.#ring.install(this.#bar);
    storeRelease32(words, size * DESCRIPTOR_WORDS - 1, 0);
    this.#bar.write32(REG.rdt, size - 1);
  }

  /** True if there is something to receive. */
  get ready(): boolean {
    return (loadAcquire32(this.#ring.words, this.#next * DESCRIPTOR_WORDS + 3) & RX.done) !== 0;
  }

  /** Puts at most `max` packets into `into`, from 0 on; returns how many. */
  receive(into: Packet[], max: number): number {
    const { words, slots, size } = this.#ring;
    let i = this.#next;
    let got = 0;
    this.starving = false;
    // Not more than once around: a card gone mad could mark descriptors faster than they are looked at.
    for (let looked = 0; got < max && looked < size; looked++) {
      // The status last written by the card is the first word read here; all others come after it.
      const status = loadAcquire32(words, i * DESCRIPTOR_WORDS + 3);
      if ((status & RX.done) === 0) break;
      const length = words[i * DESCRIPTOR_WORDS + 2]! & 0xffff;
      let index = slots[i]!;
      if (this.#isGood(status, length)) {
        let fresh = this.#packets.tryAllocForCard();
        if (fresh < 0 && this.#reclaim()) fresh = this.#packets.tryAllocForCard();
        if (fresh < 0) {
          // It stays where it is. When the ring is full the card drops packets and counts them (MPC, RNBC).
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
      this.#untold++;
      i = i + 1 === size ? 0 : i + 1;
    }
    this.#next = i;
    this.received += got;
    if (this.#untold >= this.#batch) this.#tell();
    return got;
  }

  /** Takes all buffers back, and gives the memory of the ring back. */
  free(proof: DmaStopped): void {
    this.#ring.free(proof, (index) => {
      this.#packets.backFromCard(index);
    });
  }

  /** Whether a descriptor holds a packet that is whole and undamaged; counts those that do not. */
  #isGood(status: number, length: number): boolean {
    const whole = (status & RX.endOfPacket) !== 0 && !this.#skipping;
    // What the card says is not to be trusted; and what is received can be transmitted, as forwarders do.
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

  /** Moves the tail to the last fresh descriptor, which is thereby the one kept back (13.4.29). */
  #tell(): void {
    const { words, size } = this.#ring;
    const last = this.#next === 0 ? size - 1 : this.#next - 1;
    // One ordered write behind all the plain ones.
    storeRelease32(words, last * DESCRIPTOR_WORDS + 3, 0);
    this.#bar.write32(REG.rdt, last);
    this.#untold = 0;
  }
}
