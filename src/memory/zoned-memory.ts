/**
 * Coherent memory at predetermined addresses, such as a machine's RAM, in zones of contiguous addresses.
 *
 *     zone      0 (conventional)         1 (low)                        2 (high)
 *     dma      |4 KiB ... 640 KiB|      |1 MiB ............ 64 MiB|    |4 GiB ...... 4 GiB + 64 MiB|
 *
 * A device gets memory from the highest zone within its mask. This leaves low addresses to devices with small masks, and a
 * driver that truncates addresses to 32 bits fails in its first test.
 */
import { roundUp } from '../arguments.ts';
import type { CoherentAllocator, CoherentMemory, CoherentRequest, SharedRegion } from './coherent.ts';
import { Availability } from './availability.ts';
import { checkPageSize } from './iommu.ts';
import { checkMultiple, PageAllocator } from './page-allocator.ts';
import { checkRequest, notLive } from './request.ts';

/** Memory with contiguous DMA addresses. */
export interface MemoryZone {
  /** DMA address of the first byte: a multiple of the page size. */
  readonly dma: number;
  /** Bytes: a multiple of the page size. */
  readonly size: number;
  /** The buffer that contains the memory. */
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
  /** Offset of the memory in the buffer, in bytes: a multiple of the page size. */
  readonly byteOffset: number;
}

class Zone {
  readonly dma: number;
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
  readonly byteOffset: number;
  readonly pages: PageAllocator;

  constructor({ dma, size, buffer, byteOffset }: MemoryZone, pageSize: number) {
    checkMultiple('zone.dma', dma, pageSize);
    checkMultiple('zone.size', size, pageSize, pageSize);
    checkMultiple('zone.byteOffset', byteOffset, pageSize, 0, Math.max(0, buffer.byteLength - size));
    this.dma = dma;
    this.buffer = buffer;
    this.byteOffset = byteOffset;
    this.pages = new PageAllocator({ base: dma, size, pageSize });
  }
}

/** An allocation of {@link ZonedMemory}. */
class ZoneAllocation implements CoherentMemory {
  readonly #zone: Zone;
  readonly dma: number;
  readonly size: number;
  #live = true;

  constructor(zone: Zone, dma: number, size: number) {
    this.#zone = zone;
    this.dma = dma;
    this.size = size;
    Object.freeze(this);
  }

  get buffer(): ArrayBuffer | SharedArrayBuffer {
    return this.#zone.buffer;
  }

  get byteOffset(): number {
    return this.#zone.byteOffset + (this.dma - this.#zone.dma);
  }

  /** Marks `memory` as freed and returns its zone. Returns null and changes nothing unless it is live memory of `zones`. */
  static retire(memory: unknown, zones: readonly Zone[]): Zone | null {
    if (typeof memory !== 'object' || memory === null || !(#live in memory)) return null;
    if (!memory.#live || !zones.includes(memory.#zone)) return null;
    memory.#live = false;
    return memory.#zone;
  }
}

/** Options of {@link ZonedMemory}. */
export interface ZonedMemoryOptions {
  /** Kind of memory, for messages. */
  readonly name: string;
  /** Page size in bytes: a power of two, 4096 (the default) to 2^30. */
  readonly pageSize?: number;
  /** Zones that do not overlap. Default: none. */
  readonly zones?: readonly MemoryZone[];
  /** See {@link CoherentAllocator.shareBuffer}. */
  readonly shareBuffer?: (buffer: ArrayBuffer | SharedArrayBuffer) => SharedRegion;
  /** Callbacks with an allocation's offset in its zone's buffer and its size, both in bytes. */
  readonly watch?: {
    /** Called for an allocation, before its memory is cleared. */
    taken(byteOffset: number, size: number): void;
    /** Called for a free, before the pages can be allocated again. */
    returned(byteOffset: number, size: number): void;
  };
}

/**
 * A coherent allocator over zones, without an IOMMU: devices can access all of the memory. Every allocation is cleared,
 * because a stray device may have written to free memory.
 */
export class ZonedMemory implements CoherentAllocator {
  readonly name: string;
  readonly pageSize: number;
  readonly shareBuffer?: (buffer: ArrayBuffer | SharedArrayBuffer) => SharedRegion;
  /** In descending order of address. */
  readonly #zones: Zone[] = [];
  readonly #availability = new Availability();
  readonly #watch: ZonedMemoryOptions['watch'];
  #closed = false;

  /** @throws {@link DmaArgumentError} for a page size out of range, or a zone as in {@link ZonedMemory.addZone}. */
  constructor(options: ZonedMemoryOptions) {
    const { name, pageSize = 4096, zones = [], shareBuffer, watch } = options;
    checkPageSize(pageSize);
    this.#watch = watch;
    this.name = name;
    this.pageSize = pageSize;
    if (shareBuffer !== undefined) this.shareBuffer = shareBuffer;
    for (const zone of zones) this.addZone(zone);
  }

  /** Bytes of allocated pages. */
  get bytesInUse(): number {
    return this.#zones.reduce((sum, { pages }) => sum + pages.usedPages, 0) * this.pageSize;
  }

  /** Bytes of all zones. */
  get limit(): number {
    return this.#zones.reduce((sum, { pages }) => sum + pages.pages, 0) * this.pageSize;
  }

  /** Adds a zone. @throws {@link DmaArgumentError} for a number that is no multiple of the page size or out of range. */
  addZone(zone: MemoryZone): void {
    this.#zones.push(new Zone(zone, this.pageSize));
    this.#zones.sort((a, b) => b.dma - a.dma);
    this.#availability.announce();
  }

  /** Makes later allocations return null. Live memory can still be freed. */
  close(): void {
    this.#closed = true;
  }

  allocCoherent(request: CoherentRequest): CoherentMemory | null {
    const { mask, size } = checkRequest(request);
    if (this.#closed) return null;
    const bytes = roundUp(size, this.pageSize);
    for (const zone of this.#zones) {
      const dma = zone.pages.alloc(size, mask);
      if (dma === -1) continue;
      const byteOffset = zone.byteOffset + (dma - zone.dma);
      this.#watch?.taken(byteOffset, bytes);
      // V8 fills doubles faster than bytes. A page is a multiple of 8 bytes.
      new Float64Array(zone.buffer, byteOffset, bytes / 8).fill(0);
      return new ZoneAllocation(zone, dma, size);
    }
    return null;
  }

  freeCoherent(memory: CoherentMemory): void {
    const zone = ZoneAllocation.retire(memory, this.#zones);
    if (zone === null) throw notLive();
    this.#watch?.returned(zone.byteOffset + (memory.dma - zone.dma), roundUp(memory.size, this.pageSize));
    zone.pages.free(memory.dma, memory.size);
    this.#availability.announce();
  }

  onceAvailable(listener: () => void): () => void {
    return this.#availability.once(listener);
  }
}
