/**
 * Memory with addresses of its own, such as a machine's RAM: zones of it, from which pages are handed out.
 *
 *     zone      0 (conventional)         1 (low)                        2 (high)
 *     dma      |4 KiB ... 640 KiB|      |1 MiB ............ 64 MiB|    |4 GiB ...... 4 GiB + 64 MiB|
 *
 * A device gets memory from the highest zone it reaches: what reaches little keeps the low addresses for itself, and a
 * driver that loses the upper half of an address fails in its first test.
 */
import { roundUp } from '../arguments.ts';
import type { CoherentAllocator, CoherentMemory, CoherentRequest, SharedRegion } from './coherent.ts';
import { Availability } from './availability.ts';
import { checkPageSize } from './iommu.ts';
import { checkMultiple, PageAllocator } from './page-allocator.ts';
import { checkRequest, notLive } from './request.ts';

/** A piece of memory whose addresses follow one another. */
export interface MemoryZone {
  /** The device's address of its first byte: a multiple of the page size. */
  readonly dma: number;
  /** Bytes: a multiple of the page size. */
  readonly size: number;
  /** The buffer that it lies in, and where: a multiple of the page size. */
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
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

/** Memory from {@link ZonedMemory}. */
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

  /** Marks memory as given back and returns its zone; null, and nothing is changed, unless it is live memory of these. */
  static retire(memory: unknown, zones: readonly Zone[]): Zone | null {
    if (typeof memory !== 'object' || memory === null || !(#live in memory)) return null;
    if (!memory.#live || !zones.includes(memory.#zone)) return null;
    memory.#live = false;
    return memory.#zone;
  }
}

/** How to make a {@link ZonedMemory}. */
export interface ZonedMemoryOptions {
  /** Kind of memory, for messages. */
  readonly name: string;
  /** Bytes of a page: a power of two from 4096 (the default) to 2^30. */
  readonly pageSize?: number;
  /** Where it is; zones must not overlap. More can be added later. */
  readonly zones?: readonly MemoryZone[];
  /** See {@link CoherentAllocator.shareBuffer}. */
  readonly shareBuffer?: (buffer: ArrayBuffer | SharedArrayBuffer) => SharedRegion;
  /** Told of each piece of memory, by its place in its buffer, before it is cleared for its owner and after it came back. */
  readonly watch?: {
    taken(byteOffset: number, size: number): void;
    returned(byteOffset: number, size: number): void;
  };
}

/**
 * A source of coherent memory over zones. Devices see all of it: there is no IOMMU in between. What is handed out is
 * filled with zeros first, always, since a stray device may have written anywhere.
 */
export class ZonedMemory implements CoherentAllocator {
  readonly name: string;
  readonly pageSize: number;
  readonly shareBuffer?: (buffer: ArrayBuffer | SharedArrayBuffer) => SharedRegion;
  /** Highest addresses first. */
  readonly #zones: Zone[] = [];
  readonly #availability = new Availability();
  readonly #watch: ZonedMemoryOptions['watch'];
  #closed = false;

  /** @throws {@link DmaArgumentError} for a page size or zone out of range. */
  constructor(options: ZonedMemoryOptions) {
    const { name, pageSize = 4096, zones = [], shareBuffer, watch } = options;
    checkPageSize(pageSize);
    this.#watch = watch;
    this.name = name;
    this.pageSize = pageSize;
    if (shareBuffer !== undefined) this.shareBuffer = shareBuffer;
    for (const zone of zones) this.addZone(zone);
  }

  /** Bytes of the pages that are handed out. */
  get bytesInUse(): number {
    return this.#zones.reduce((sum, { pages }) => sum + pages.usedPages, 0) * this.pageSize;
  }

  /** Bytes that there are. */
  get limit(): number {
    return this.#zones.reduce((sum, { pages }) => sum + pages.pages, 0) * this.pageSize;
  }

  /** Adds memory. @throws {@link DmaArgumentError} */
  addZone(zone: MemoryZone): void {
    this.#zones.push(new Zone(zone, this.pageSize));
    this.#zones.sort((a, b) => b.dma - a.dma);
    this.#availability.announce();
  }

  /** Nothing is handed out any more; memory that is out can still be given back. */
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
      // As doubles: V8 fills them faster, and pages hold whole ones.
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
