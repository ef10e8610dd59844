/** Transmit queue (manual, 3.3 and 3.4): one legacy descriptor per packet; each reports completion. */
import { loadAcquire32, type Device, DmaArgumentError, storeRelease32 } from 'dmapool';
import type { Bar, DmaStopped } from 'dmapool/pci';
import type { Packet, PacketPool } from './packets.ts';
import { DESCRIPTOR_WORDS, HEADER_BYTES, MAX_PACKET_BYTES, MIN_WIRE_BYTES, REG, TX } from './registers.ts';
import { DescriptorRing } from './ring.ts';

const COMMAND = TX.endOfPacket | TX.insertFcs | TX.reportStatus;

export class TransmitQueue {
  readonly #ring: DescriptorRing;
  readonly #packets: PacketPool;
  readonly #bar: Bar;
  /** Index of the oldest descriptor in flight, and the number of descriptors in flight. */
  #oldest = 0;
  #inFlight = 0;
  /** Packets and bytes transmitted. */
  sent = 0;
  bytes = 0;
  /** Packets that the card abandoned after collisions (half duplex). */
  failed = 0;

  /** @throws `DmaOutOfMemoryError` */
  constructor(device: Device, bar: Bar, packets: PacketPool, size: number) {
    this.#bar = bar;
    this.#packets = packets;
    this.#ring = new DescriptorRing(device, size, 'transmit', {
      baseLow: REG.tdbal,
      baseHigh: REG.tdbah,
      length: REG.tdlen,
      head: REG.tdh,
      tail: REG.tdt,
    });
  }

  /** Installs the ring (14.5). */
  install(): void {
    this.#ring.install(this.#bar);
  }

  /** Packets in flight, as of the last {@link TransmitQueue.reap}. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Queues as many of `packets[from..to)` as fit. The card owns those. @returns Their number. */
  transmit(packets: readonly Packet[], from: number, to: number): number {
    this.reap();
    const { words, slots, size } = this.#ring;
    const count = Math.min(to - from, size - 1 - this.#inFlight);
    if (count <= 0) return 0;
    this.#take(packets, from, count);
    let i = (this.#oldest + this.#inFlight) % size;
    let last = i;
    for (let k = from; k < from + count; k++) {
      const packet = packets[k]!;
      const at = i * DESCRIPTOR_WORDS;
      slots[i] = packet.index;
      this.#packets.writeAddress(words, at, packet.index);
      words[at + 2] = COMMAND | wireLength(packet);
      words[at + 3] = 0;
      last = i;
      i = i + 1 === size ? 0 : i + 1;
    }
    this.#inFlight += count;
    // The store-release orders all plain writes before the tail register. The card stops at the tail (13.4.40).
    storeRelease32(words, last * DESCRIPTOR_WORDS + 3, 0);
    this.#bar.write32(REG.tdt, i);
    return count;
  }

  /** Frees the buffers of transmitted packets. @returns The number of packets still in flight. */
  reap(): number {
    const { words, slots, size } = this.#ring;
    while (this.#inFlight > 0) {
      const i = this.#oldest;
      const status = loadAcquire32(words, i * DESCRIPTOR_WORDS + 3);
      if ((status & TX.done) === 0) break;
      if ((status & (TX.excessCollisions | TX.lateCollision)) === 0) {
        this.sent++;
        this.bytes += words[i * DESCRIPTOR_WORDS + 2]! & 0xffff;
      } else {
        this.failed++;
      }
      const index = slots[i]!;
      slots[i] = -1;
      this.#packets.backFromCard(index);
      this.#oldest = i + 1 === size ? 0 : i + 1;
      this.#inFlight--;
    }
    return this.#inFlight;
  }

  /** {@link TransmitQueue.reap}. @returns True if it freed any buffer. */
  reclaim(): boolean {
    const before = this.#inFlight;
    return this.reap() < before;
  }

  /** Frees all buffers, transmitted or not, and the ring. */
  free(proof: DmaStopped): void {
    this.#inFlight = 0;
    this.#ring.free(proof, (index) => {
      this.#packets.backFromCard(index);
    });
  }

  /** Transfers ownership of packets to the card: of all, or of none if it throws. */
  #take(packets: readonly Packet[], from: number, count: number): void {
    let taken = 0;
    try {
      for (; taken < count; taken++) {
        const packet = packets[from + taken]!;
        this.#packets.toCard(packet);
        const { length } = packet;
        if (!Number.isInteger(length) || length < HEADER_BYTES || length > MAX_PACKET_BYTES) {
          this.#packets.toUser(packet.index, length);
          const accepted = `bytes from ${String(HEADER_BYTES)} to ${String(MAX_PACKET_BYTES)}`;
          throw new DmaArgumentError(`length of packet ${String(packet.index)}`, length, accepted);
        }
      }
    } finally {
      if (taken < count) {
        while (taken-- > 0) {
          const packet = packets[from + taken]!;
          this.#packets.toUser(packet.index, packet.length);
        }
      }
    }
  }
}

/** Bytes to send. Pads with zeros: the card's own padding (TCTL.PSP) would send the buffer's old content. */
function wireLength(packet: Packet): number {
  const { length } = packet;
  if (length >= MIN_WIRE_BYTES) return length;
  packet.bytes.fill(0, length, MIN_WIRE_BYTES);
  return MIN_WIRE_BYTES;
}
