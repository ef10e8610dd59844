/**
 * A receive ring, as a network card has: descriptors in one block, packet buffers from a pool.
 *
 *     driver --address of a buffer--> descriptor --> card --DMA--> buffer
 *        ^-------- length, DONE --------/
 *
 * The driver gives a packet to the program without a copy, and puts a fresh buffer into the ring in its place. The
 * program frees the packet when it is done with it. The loop works with indices and produces no garbage. The card is
 * emulated: it reaches memory only through the IOMMU, by the addresses in the descriptors.
 */
import {
  Device,
  type DmaBlock,
  DmaPool,
  HeapMemory,
  loadAcquire32,
  readAddress64,
  storeRelease32,
  writeAddress64,
} from 'dmapool';

const ENTRIES = 64;
/** A descriptor has the buffer's address (8 bytes), the packet's length and the status (4 bytes each). */
const DESCRIPTOR = 16;
const LENGTH = 2;
const STATUS = 3;
const DONE = 1;

class Card {
  readonly #memory: HeapMemory;
  readonly #device: Device;
  readonly #ring: number;
  #head = 0;
  /** Packets that found no free descriptor. */
  missed = 0;

  /** @param ring Address of the descriptors. */
  constructor(memory: HeapMemory, device: Device, ring: number) {
    this.#memory = memory;
    this.#device = device;
    this.#ring = ring;
  }

  receive(packet: Uint8Array): void {
    const descriptor = this.#memory.translate(this.#device, this.#ring + this.#head * DESCRIPTOR, DESCRIPTOR);
    const words = new Int32Array(descriptor.buffer, descriptor.byteOffset, DESCRIPTOR / 4);
    if (loadAcquire32(words, STATUS) === DONE) {
      this.missed++;
      return;
    }
    const view = new DataView(descriptor.buffer, descriptor.byteOffset, DESCRIPTOR);
    this.#memory.write(this.#device, readAddress64(view, 0), packet);
    words[LENGTH] = packet.length;
    storeRelease32(words, STATUS, DONE); // last: now the driver may look
    this.#head = (this.#head + 1) % ENTRIES;
  }
}

class Receiver {
  readonly ring: DmaBlock<'rx ring'>;
  readonly buffers: DmaPool<'rx buffer'>;
  readonly #posted = new Int32Array(ENTRIES);
  #next = 0;

  constructor(device: Device) {
    this.ring = DmaPool.createManaged('rx ring', device, { size: ENTRIES * DESCRIPTOR, align: 128 }).alloc();
    // Half of the buffers are in the ring, the other half with the program.
    this.buffers = DmaPool.createManaged('rx buffer', device, { size: 2048, align: 64, maxBlocks: 2 * ENTRIES });
    this.buffers.allocIndexBulk(this.#posted);
    for (let slot = 0; slot < ENTRIES; slot++) this.#post(slot);
  }

  #post(slot: number): void {
    writeAddress64(this.ring.view, slot * DESCRIPTOR, this.buffers.dmaOf(this.#posted[slot]!));
    storeRelease32(this.ring.u32, slot * (DESCRIPTOR / 4) + STATUS, 0); // last: now the card may write
  }

  /**
   * Takes the received packets out of the ring. The program frees each by its index. While it holds all other buffers,
   * packets stay in the ring, and the card counts what it misses.
   */
  poll(handle: (index: number, length: number) => void): void {
    for (;;) {
      const slot = this.#next;
      const word = slot * (DESCRIPTOR / 4);
      if (loadAcquire32(this.ring.u32, word + STATUS) !== DONE) return;
      const fresh = this.buffers.tryAllocIndex();
      if (fresh < 0) return;
      const index = this.#posted[slot]!;
      const length = this.ring.u32[word + LENGTH]!;
      this.#posted[slot] = fresh;
      this.#post(slot);
      this.#next = (slot + 1) % ENTRIES;
      handle(index, length);
    }
  }

  /** Frees what the ring has. Only after the card was stopped. */
  close(): void {
    this.buffers.freeIndexBulk(this.#posted);
    this.ring.free();
  }
}

const memory = new HeapMemory();
const device = new Device({ name: 'eth0', memory });
const receiver = new Receiver(device);
const card = new Card(memory, device, receiver.ring.dma);
const held: number[] = [];
let received = 0;
let wrong = 0;

const keep = (index: number, length: number): void => {
  const bytes = receiver.buffers.bytesOf(index);
  if (length !== 60 + (received % 1000) || bytes[0] !== received % 256 || bytes[length - 1] !== received % 256) wrong++;
  received++;
  held.push(index);
};

const packet = new Uint8Array(1514);
for (let sent = 0; sent < 100_000; sent++) {
  card.receive(packet.subarray(0, 60 + (sent % 1000)).fill(sent));
  if (sent % 16 === 15) receiver.poll(keep);
  // The program works on 32 packets at a time.
  while (held.length > 32) receiver.buffers.freeIndex(held.shift()!);
}
receiver.poll(keep);
console.log(`${received} packets received, ${wrong} wrong, ${card.missed} missed`);

// A program that frees nothing: its share of the buffers is used up, then the ring, then the card misses packets.
for (let sent = 0; sent < 200; sent++) {
  card.receive(packet.subarray(0, 60));
  receiver.poll((index) => held.push(index));
}
console.log(`a program that frees nothing: ${held.length} packets held, ${card.missed} missed`);
console.log(device.readAttribute('pools'));
for (const index of held) receiver.buffers.freeIndex(index);
receiver.close();
device.detach();
