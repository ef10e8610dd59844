/**
 * Coherent memory for one device behind the kernel's IOMMU: `dma` is an IOVA, and the device reaches nothing else.
 *
 *     this process   | file of hugepages or ordinary pages, locked in place while the device can reach it          |
 *                      |  opened in steps                    | by the page (strict)
 *     IOMMU            | mapped until close                  | mapped from allocCoherent to freeCoherent
 *     IOVA           low for devices of 32 bits: 4 KiB ... 4 GiB   |   high, first for all others: 4 GiB ...
 */
import { closeSync } from 'node:fs';
import {
  checkBoolean,
  checkFunction,
  checkInteger,
  checkObject,
  type OptionNames,
  reading,
  readOptions,
  roundUp,
} from '../arguments.ts';
import { DmaArgumentError, DmaMappingError, DmaReleaseError, isArray } from '../errors.ts';
import { Availability } from '../memory/availability.ts';
import type { CoherentAllocator, CoherentMemory, CoherentRequest, SharedRegion } from '../memory/coherent.ts';
import { PageAllocator } from '../memory/page-allocator.ts';
import { checkRequest } from '../memory/request.ts';
import { ZonedMemory } from '../memory/zoned-memory.ts';
import { SystemCallError, VfioError } from './error.ts';
import { type HugepagePool, hugepagePools } from './hugepages.ts';
import { type HugepageFile, hugepagePoolsFor, takeHugepages } from './hugepage-files.ts';
import { type IovaRange, IovaRanges } from './iova-ranges.ts';
import { libc, MAX_VIEW } from './libc.ts';
import { MappedMemory } from './mapped-memory.ts';
import { createMemoryFile } from './memfd.ts';
import { memlock } from './memlock.ts';
import { onNode } from './numa.ts';
import type { DmaMapper } from './vfio-container.ts';

/** How much memory a device behind an IOMMU may be given, and of what. */
export interface VfioMemoryOptions {
  /**
   * The most bytes, up to 2^46 (with `strict` 2^32); rounded up to whole pages. Default 64 MiB. Ordinary pages are taken
   * as they are needed; hugepages at once.
   */
  readonly size?: number;
  /**
   * Hugepages: `true` to insist on them, or the bytes of one, such as 2^21; `false` for ordinary pages. Default: hugepages
   * if there are enough. They make the IOMMU faster, and nothing else: it puts pages together as the device sees them.
   */
  readonly hugepages?: boolean | number;
  /**
   * Maps each piece of memory by itself, and takes it from the device as soon as it is given back: what the device does
   * to a pool that was destroyed is stopped by the IOMMU. Default false: memory is mapped in large pieces, and stays in
   * the device's reach until the source is closed, since the number of mappings is limited and a mapping can't be split.
   */
  readonly strict?: boolean;
  /** NUMA node to take it from, and from no other; -1, the default, for any. */
  readonly node?: number;
}

export const MEMORY_OPTIONS: OptionNames<VfioMemoryOptions> = { size: true, hugepages: true, strict: true, node: true };

/** What a source must know of its device and IOMMU. @internal */
export interface VfioMemoryHome {
  readonly address: string;
  readonly mapper: DmaMapper;
  readonly iovaRanges: readonly IovaRange[] | undefined;
  readonly pageSize: number;
}

const NAME = 'dmapool-vfio';
const MIB = 2 ** 20;
const DEFAULT_SIZE = 64 * MIB;
const MAX_SIZE = 2 ** 46;
const FIRST_STEP = 2 * MIB;
const LARGEST_STEP = 2 ** 30;
const FOUR_GIB = 2 ** 32;

/** A part of the memory that was opened at once. */
interface Step {
  /** Where it begins in the file, and in the address space that was set aside. */
  readonly offset: number;
  readonly size: number;
  readonly buffer: ArrayBuffer;
  /** Where it begins in the buffer. */
  readonly byteOffset: number;
}

/** Memory from a strict source. */
class StrictMemory implements CoherentMemory {
  readonly dma: number;
  readonly size: number;
  readonly buffer: ArrayBuffer;
  readonly byteOffset: number;

  constructor(dma: number, size: number, buffer: ArrayBuffer, byteOffset: number) {
    this.dma = dma;
    this.size = size;
    this.buffer = buffer;
    this.byteOffset = byteOffset;
    Object.freeze(this);
  }
}

/**
 * The memory of a device that is open through VFIO: `VfioDevice.memory`.
 *
 * @example
 * ```ts
 * const [address] = process.argv.slice(2); // such as 0000:3b:00.0
 * if (address !== undefined) {
 *   const vfio = await VfioDevice.open(address);
 *   console.log(vfio.memory.pageSize, vfio.memory.mappings);
 *   await vfio.close();
 * }
 * ```
 */
export class VfioMemory implements CoherentAllocator {
  readonly name = 'vfio';
  /** Bytes of a page of the IOMMU. */
  readonly pageSize: number;
  /** The most bytes that there will be. */
  readonly limit: number;
  /** True when memory that was given back is out of the device's reach. */
  readonly strict: boolean;
  /** Bytes of the hugepages that it is of, or of an ordinary page. */
  readonly backingPageSize: number;
  readonly #mapper: DmaMapper;
  readonly #iovas: IovaRanges;
  readonly #memory: MappedMemory;
  /** -1 once it is closed. */
  #file: number;
  readonly #node: number;
  readonly #availability = new Availability();
  /** What the device can reach: address and bytes. */
  readonly #mapped = new Map<number, number>();
  // Memory that stays mapped, by where the device sees it.
  readonly #high: ZonedMemory;
  readonly #low: ZonedMemory;
  #opened = 0;
  readonly #unmapped: Step[] = [];
  // Strict: all of it, and which pages of it are out.
  readonly #whole: ArrayBuffer | null = null;
  readonly #pages: PageAllocator | null = null;
  readonly #out = new Set<unknown>();
  #closed = false;

  /** @internal */
  constructor(home: VfioMemoryHome, options: VfioMemoryOptions = {}) {
    const {
      size = DEFAULT_SIZE,
      hugepages,
      strict = false,
      node = -1,
    } = readOptions('memory', options, MEMORY_OPTIONS);
    checkHome(home);
    const pageSize = Math.max(home.pageSize, libc().pageSize());
    checkInteger('memory.size', size, 1, strict ? MAX_VIEW : MAX_SIZE);
    checkInteger('memory.node', node, -1, 1023);
    checkBoolean('memory.strict', strict);
    this.pageSize = pageSize;
    this.strict = strict;
    this.#mapper = home.mapper;
    this.#iovas = new IovaRanges(home.iovaRanges, pageSize);
    checkNode(node);

    const file = takeFile(size, hugepages, node, pageSize);
    let memory: MappedMemory | undefined;
    try {
      checkMemlock(home.address, file.size);
      const alignment = Math.max(file.hugepageSize, 65_536);
      memory = new MappedMemory(roundUp(file.size, alignment), alignment);
      if (strict) {
        this.#whole = memory.open(0, file.size, { fd: file.fd, offset: 0 });
        this.#pages = new PageAllocator({ base: 0, size: file.size, pageSize });
      }
    } catch (error) {
      closeSync(file.fd);
      memory?.close();
      throw error;
    }
    this.limit = file.size;
    this.backingPageSize = file.hugepageSize;
    this.#file = file.fd;
    this.#memory = memory;
    this.#node = node;
    const shareBuffer = (buffer: ArrayBuffer | SharedArrayBuffer): SharedRegion => this.shareBuffer(buffer);
    this.#high = new ZonedMemory({ name: 'vfio', pageSize, shareBuffer });
    this.#low = new ZonedMemory({ name: 'vfio', pageSize, shareBuffer });
  }

  /** Bytes of the pages that are handed out. */
  get bytesInUse(): number {
    if (this.#pages !== null) return this.#pages.usedPages * this.pageSize;
    return this.#high.bytesInUse + this.#low.bytesInUse;
  }

  /** Bytes that the device can reach, and that are locked in memory therefore. */
  get bytesMapped(): number {
    let sum = 0;
    for (const size of this.#mapped.values()) sum += size;
    return sum;
  }

  /** How many of the IOMMU's mappings are in use. */
  get mappings(): number {
    return this.#mapped.size;
  }

  /**
   * Allocates memory that the device reaches at an address below its mask.
   *
   * @param request For whom, and how many bytes. `node` is not looked at: all this memory is from one node, or from
   *   anywhere.
   */
  allocCoherent(request: CoherentRequest): CoherentMemory | null {
    const { device, mask, size } = checkRequest(request);
    if (this.#closed) return null;
    if (this.#pages !== null) return this.#allocStrict(this.#pages, size, mask);
    const fixed = { device: { name: device.name, dmaMask: mask }, size, node: -1 };
    if (mask >= FOUR_GIB) {
      const high = this.#high.allocCoherent(fixed);
      if (high !== null) return high;
    } else {
      const low = this.#low.allocCoherent(fixed);
      if (low !== null) return low;
    }
    // Where there are no high addresses a step is a low one.
    if (this.#openStep(size, mask) && mask >= FOUR_GIB) {
      const high = this.#high.allocCoherent(fixed);
      if (high !== null) return high;
    }
    return this.#low.allocCoherent(fixed);
  }

  freeCoherent(memory: CoherentMemory): void {
    if (this.#pages !== null) this.#freeStrict(this.#pages, memory);
    else if (typeof memory === 'object' && memory !== null && memory.dma >= FOUR_GIB) this.#high.freeCoherent(memory);
    else this.#low.freeCoherent(memory);
    this.#availability.announce();
  }

  onceAvailable(listener: () => void): () => void {
    return this.#availability.once(listener);
  }

  /**
   * How another worker of this process gets at this memory.
   *
   * @param buffer The `buffer` of memory from here.
   */
  shareBuffer(buffer: ArrayBuffer | SharedArrayBuffer): SharedRegion {
    return this.#memory.share(buffer, NAME);
  }

  /**
   * Takes all of it from the device, and then from the process: the IOMMU stops what the device still does, and views
   * read zeros from now on, in all threads. `VfioDevice.close` does it. Closing twice is fine.
   *
   * @throws `DmaReleaseError` when the kernel would not take a mapping away: the memory then stays as it is.
   * @throws {@link SystemCallError} when it would not replace the memory. Either way closing again does the rest.
   */
  close(): void {
    this.#closed = true;
    this.#high.close();
    this.#low.close();
    const errors: unknown[] = [];
    for (const [iova, size] of this.#mapped) {
      try {
        this.#mapper.unmap(iova, size);
        this.#mapped.delete(iova);
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw new DmaReleaseError('the device still reaches memory', errors);
    // What is mapped keeps the file.
    if (this.#file !== -1) closeSync(this.#file);
    this.#file = -1;
    this.#memory.close();
  }

  /** Opens more of the memory, where a device of this mask reaches it; false if there is no more, or it can't be mapped. */
  #openStep(size: number, mask: number): boolean {
    // Powers of two, so that what is naturally aligned in it is so for the device.
    const least = 2 ** Math.ceil(Math.log2(Math.max(size, this.pageSize)));
    const needed = roundUp(least, this.backingPageSize);
    const most = Math.max(least, Math.min(LARGEST_STEP, Math.max(FIRST_STEP, this.#opened)));
    const wanted = roundUp(most, this.backingPageSize);
    // What could not be mapped before, perhaps for want of memory, is tried again.
    for (const step of [...this.#unmapped]) if (this.#reach(step, size, needed, mask)) return true;
    const left = Math.min(this.limit - this.#opened, MAX_VIEW);
    for (const bytes of wanted === needed ? [needed] : [wanted, needed]) {
      const room = Math.min(bytes, left);
      // Before anything is taken: a request that can't be met costs nothing.
      if (room < roundUp(size, this.pageSize)) continue;
      const iova = this.#iovas.alloc(room, mask);
      if (iova === -1) continue;
      this.#iovas.free(iova, room);
      const step = this.#open(room);
      return step !== null && this.#reach(step, size, needed, mask);
    }
    return false;
  }

  /** Maps a step, or if there is no room for all of it, its beginning: at least `size` bytes, better `needed`. */
  #reach(step: Step, size: number, needed: number, mask: number): boolean {
    for (const room of step.size > needed ? [step.size, needed] : [step.size]) {
      if (room < roundUp(size, this.pageSize)) continue;
      const iova = this.#iovas.alloc(room, mask);
      if (iova === -1 || !this.#map(this.#memory.address + step.offset, iova, room)) continue;
      const { offset, buffer, byteOffset } = step;
      const rest = { offset: offset + room, size: step.size - room, buffer, byteOffset: byteOffset + room };
      this.#unmapped.splice(this.#unmapped.indexOf(step), 1, ...(rest.size > 0 ? [rest] : []));
      (iova >= FOUR_GIB ? this.#high : this.#low).addZone({ dma: iova, size: room, buffer, byteOffset });
      return true;
    }
    return false;
  }

  /** Opens more; null when there is no memory. Until it is mapped for the device it is among the unmapped ones. */
  #open(size: number): Step | null {
    const offset = this.#opened;
    try {
      const buffer = this.#memory.open(offset, size, { fd: this.#file, offset });
      this.#opened += size;
      const step = { offset, size, buffer, byteOffset: 0 };
      this.#unmapped.push(step);
      return step;
    } catch (error) {
      if (isOutOfMemory(error)) return null;
      throw error;
    }
  }

  #allocStrict(pages: PageAllocator, size: number, mask: number): CoherentMemory | null {
    const bytes = roundUp(size, this.pageSize);
    const offset = pages.alloc(bytes);
    if (offset === -1) return null;
    const iova = this.#iovas.alloc(size, mask);
    if (iova === -1) {
      pages.free(offset, bytes);
      return null;
    }
    let mapped = false;
    try {
      mapped = this.#map(this.#memory.address + offset, iova, bytes);
    } finally {
      if (!mapped) pages.free(offset, bytes);
    }
    if (!mapped) return null;
    new Float64Array(this.#whole!, offset, bytes / 8).fill(0);
    const memory = new StrictMemory(iova, size, this.#whole!, offset);
    this.#out.add(memory);
    return memory;
  }

  #freeStrict(pages: PageAllocator, memory: CoherentMemory): void {
    if (!this.#out.has(memory)) {
      const message = 'freeCoherent: this is no memory of this source, or it was given back before';
      throw new DmaMappingError('ERR_DMAPOOL_NOT_MAPPED', message);
    }
    const bytes = roundUp(memory.size, this.pageSize);
    if (!this.#closed) {
      // If this fails the device still reaches the pages: they are not handed out again, unless this is tried again.
      this.#mapper.unmap(memory.dma, bytes);
      this.#mapped.delete(memory.dma);
    }
    this.#out.delete(memory);
    this.#iovas.free(memory.dma, bytes);
    pages.free(memory.byteOffset, bytes);
  }

  /** False, and the address is free again, when there is no memory, no right to lock more, or no mapping left. */
  #map(address: number, iova: number, bytes: number): boolean {
    try {
      // Ordinary pages are taken here, as they are locked in place.
      onNode(this.#node, () => {
        this.#mapper.map(address, iova, bytes);
      });
      this.#mapped.set(iova, bytes);
      return true;
    } catch (error) {
      this.#iovas.free(iova, bytes);
      if (isOutOfMemory(error)) return false;
      throw error;
    }
  }
}

function checkHome(home: VfioMemoryHome): void {
  const accepted = 'what VfioDevice.open() gives';
  checkObject('home', home, accepted);
  reading('home', home, accepted, () => {
    const { address, mapper, iovaRanges, pageSize } = home;
    if (typeof address !== 'string') throw new DmaArgumentError('home.address', address, 'a PCI address');
    checkInteger('home.pageSize', pageSize, 4096, 2 ** 30);
    checkObject('home.mapper', mapper, accepted);
    checkFunction('home.mapper.map', (mapper as { readonly map?: unknown }).map);
    if (iovaRanges !== undefined && !isArray(iovaRanges))
      throw new DmaArgumentError('home.iovaRanges', iovaRanges, accepted);
  });
}

function isOutOfMemory(error: unknown): boolean {
  return error instanceof SystemCallError && ['ENOMEM', 'ENOSPC', 'EFAULT'].includes(error.errnoName);
}

/** Before anything is allocated: an allocation throws for wrong arguments only. */
function checkNode(node: number): void {
  try {
    onNode(node, () => undefined);
  } catch (error) {
    if (!(error instanceof SystemCallError) || error.errnoName !== 'EINVAL') throw error;
    throw new DmaArgumentError('memory.node', node, 'a NUMA node of this system that has memory, or -1');
  }
}

function checkMemlock(address: string, wanted: number): void {
  const { limit, locked } = memlock();
  if (wanted <= limit - locked) return;
  const kib = (bytes: number): string => `${String(Math.ceil(bytes / 1024))} KiB`;
  const message =
    `${kib(wanted)} of memory are to be locked for the device, and this process may lock ${kib(limit - locked)} more ` +
    `(limit ${kib(limit)}): raise the limit (ulimit -l ${String(Math.ceil((wanted + locked) / 1024))}, or ` +
    'LimitMEMLOCK= of the service), or ask for less by memory.size';
  throw new VfioError('ERR_DMAPOOL_VFIO_MEMLOCK', address, message);
}

/** Takes the memory: hugepages of one size, or a file of ordinary pages that gets its memory later. */
function takeFile(size: number, hugepages: boolean | number | undefined, node: number, pageSize: number): HugepageFile {
  if (!['boolean', 'number', 'undefined'].includes(typeof hugepages)) {
    throw new DmaArgumentError('memory.hugepages', hugepages, 'a boolean, or bytes of a hugepage');
  }
  const enough = (pool: HugepagePool): boolean => pool.free * pool.size >= roundUp(size, pool.size);
  if (hugepages === undefined ? hugepagePools(node).some(enough) : hugepages !== false) {
    const files: HugepageFile[] = [];
    try {
      const pools = hugepagePoolsFor(size, typeof hugepages === 'number' ? hugepages : undefined, node);
      takeHugepages(NAME, size, [pools.find(enough) ?? pools.at(-1)!], node, files);
      return files[0]!;
    } catch (error) {
      for (const { fd } of files) closeSync(fd);
      // Somebody may have been faster; who did not ask for hugepages does not miss them.
      if (hugepages !== undefined) throw error;
    }
  }
  const bytes = roundUp(size, pageSize);
  return { fd: createMemoryFile(NAME, bytes), size: bytes, hugepageSize: pageSize };
}
