/**
 * Coherent memory for one device behind the kernel's IOMMU. `dma` is an IOVA; the device can reach no other memory.
 *
 *     this process   | file of hugepages or ordinary pages; pages are pinned while mapped for the device            |
 *                      |  default: opened in steps           | strict: by the page
 *     IOMMU            | mapped until close                  | mapped from allocCoherent to freeCoherent
 *     IOVA           low, for 32-bit devices: 4 KiB ... 4 GiB   |   high, first choice for all others: 4 GiB ...
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
import { DmaReleaseError } from '../device/errors.ts';
import { DmaArgumentError, isArray } from '../errors.ts';
import { DmaMappingError } from '../memory/errors.ts';
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

/** Size and kind of a VFIO device's memory. */
export interface VfioMemoryOptions {
  /**
   * Maximum bytes, up to 2^46 (2^32 with `strict`), rounded up to whole pages. Default 64 MiB. Hugepages are allocated
   * at once, ordinary pages on demand.
   */
  readonly size?: number;
  /**
   * `true` requires hugepages; a number requires pages of that many bytes, such as 2^21; `false` uses ordinary pages.
   * Default: hugepages if enough are free. Hugepages reduce IOTLB misses. The IOMMU provides contiguity without them.
   */
  readonly hugepages?: boolean | number;
  /**
   * `true` maps each allocation by itself and unmaps it when it is freed: the IOMMU then blocks a device's late access
   * to a destroyed pool. Default false: memory is mapped in large pieces and stays mapped until close, because the
   * number of mappings is limited and a mapping can't be split.
   */
  readonly strict?: boolean;
  /** NUMA node. The memory comes from this node only. -1, the default, means any. */
  readonly node?: number;
}

export const MEMORY_OPTIONS: OptionNames<VfioMemoryOptions> = { size: true, hugepages: true, strict: true, node: true };

/** The device's IOMMU as {@link VfioMemory} uses it. @internal */
export interface IommuDomain {
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

/** A part of the memory that was opened in one step. */
interface Step {
  /** Offset in the file and in the reserved address space. */
  readonly offset: number;
  readonly size: number;
  readonly buffer: ArrayBuffer;
  /** Offset in the buffer. */
  readonly byteOffset: number;
}

/** Memory of a strict source. */
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
 * Coherent memory of a device that is open through VFIO: `VfioDevice.memory`.
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
  /** Bytes of an IOMMU page. */
  readonly pageSize: number;
  /** Maximum bytes. */
  readonly limit: number;
  /** True when freed memory is unmapped from the device at once. */
  readonly strict: boolean;
  /** Bytes of the backing hugepages or ordinary pages. */
  readonly backingPageSize: number;
  readonly #mapper: DmaMapper;
  readonly #iovas: IovaRanges;
  readonly #memory: MappedMemory;
  /** -1 after close. */
  #file: number;
  readonly #node: number;
  readonly #availability = new Availability();
  /** Mappings of the device: IOVA to bytes. */
  readonly #mapped = new Map<number, number>();
  // Default mode: memory that stays mapped, by address range.
  readonly #high: ZonedMemory;
  readonly #low: ZonedMemory;
  #opened = 0;
  readonly #unmapped: Step[] = [];
  // Strict mode: the whole memory, its pages, and the allocated objects.
  readonly #whole: ArrayBuffer | null = null;
  readonly #pages: PageAllocator | null = null;
  readonly #allocated = new Set<unknown>();
  #closed = false;

  /** @internal */
  constructor(domain: IommuDomain, options: VfioMemoryOptions = {}) {
    const {
      size = DEFAULT_SIZE,
      hugepages,
      strict = false,
      node = -1,
    } = readOptions('memory', options, MEMORY_OPTIONS);
    checkDomain(domain);
    const pageSize = Math.max(domain.pageSize, libc().pageSize());
    checkInteger('memory.size', size, 1, strict ? MAX_VIEW : MAX_SIZE);
    checkInteger('memory.node', node, -1, 1023);
    checkBoolean('memory.strict', strict);
    this.pageSize = pageSize;
    this.strict = strict;
    this.#mapper = domain.mapper;
    this.#iovas = new IovaRanges(domain.iovaRanges, pageSize);
    checkNode(node);

    const file = takeFile(size, hugepages, node, pageSize);
    let memory: MappedMemory | undefined;
    try {
      checkMemlock(domain.address, file.size);
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

  /** Bytes of allocated pages. */
  get bytesInUse(): number {
    if (this.#pages !== null) return this.#pages.usedPages * this.pageSize;
    return this.#high.bytesInUse + this.#low.bytesInUse;
  }

  /** Bytes mapped for the device, and therefore pinned. */
  get bytesMapped(): number {
    let sum = 0;
    for (const size of this.#mapped.values()) sum += size;
    return sum;
  }

  /** Number of IOMMU mappings in use. */
  get mappings(): number {
    return this.#mapped.size;
  }

  /**
   * Allocates memory at an IOVA within the device's mask.
   *
   * @param request Device and bytes. `node` is ignored: all of this memory is on one node, or on any.
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
    // Without high IOVAs a step gets a low one.
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
   * Describes a buffer for other workers of this process.
   *
   * @param buffer The `buffer` of memory from this source.
   */
  shareBuffer(buffer: ArrayBuffer | SharedArrayBuffer): SharedRegion {
    return this.#memory.share(buffer, NAME);
  }

  /**
   * Unmaps all memory from the device, then from the process. The IOMMU blocks further DMA, and existing views read
   * zeros, in all threads. `VfioDevice.close` calls it. A second call does nothing.
   *
   * @throws `DmaReleaseError` when the kernel fails to unmap: the memory then stays in place.
   * @throws {@link SystemCallError} when it fails to replace the memory. In both cases call again to finish.
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
    // The mappings keep the file alive.
    if (this.#file !== -1) closeSync(this.#file);
    this.#file = -1;
    this.#memory.close();
  }

  /** Opens and maps more memory below `mask`. Returns false if none is left or it can't be mapped. */
  #openStep(size: number, mask: number): boolean {
    // A power of two: a naturally aligned part of a step then has a naturally aligned IOVA.
    const least = 2 ** Math.ceil(Math.log2(Math.max(size, this.pageSize)));
    const needed = roundUp(least, this.backingPageSize);
    const most = Math.max(least, Math.min(LARGEST_STEP, Math.max(FIRST_STEP, this.#opened)));
    const wanted = roundUp(most, this.backingPageSize);
    // Retry steps that could not be mapped before; memory may be available by now.
    for (const step of [...this.#unmapped]) if (this.#mapStep(step, size, needed, mask)) return true;
    const left = Math.min(this.limit - this.#opened, MAX_VIEW);
    for (const bytes of wanted === needed ? [needed] : [wanted, needed]) {
      const room = Math.min(bytes, left);
      // Check before the step takes any memory, so that a failed request costs nothing.
      if (room < roundUp(size, this.pageSize)) continue;
      const iova = this.#iovas.alloc(room, mask);
      if (iova === -1) continue;
      this.#iovas.free(iova, room);
      const step = this.#open(room);
      return step !== null && this.#mapStep(step, size, needed, mask);
    }
    return false;
  }

  /**
   * Maps a step for the device, or only its first `needed` bytes if the whole step does not fit. Skips a part of less
   * than `size` bytes. Returns false if neither was mapped.
   */
  #mapStep(step: Step, size: number, needed: number, mask: number): boolean {
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

  /** Opens a step and adds it to the unmapped ones; null without memory. */
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
    this.#allocated.add(memory);
    return memory;
  }

  #freeStrict(pages: PageAllocator, memory: CoherentMemory): void {
    if (!this.#allocated.has(memory)) {
      const message = 'freeCoherent: this memory is not from this source, or it was freed before';
      throw new DmaMappingError('ERR_DMAPOOL_NOT_MAPPED', message);
    }
    const bytes = roundUp(memory.size, this.pageSize);
    if (!this.#closed) {
      // If this throws, the device still reaches the pages: they stay allocated until a later call succeeds.
      this.#mapper.unmap(memory.dma, bytes);
      this.#mapped.delete(memory.dma);
    }
    this.#allocated.delete(memory);
    this.#iovas.free(memory.dma, bytes);
    pages.free(memory.byteOffset, bytes);
  }

  /** Maps memory. Returns false, with the IOVA freed, without memory, memlock allowance or IOMMU mappings. */
  #map(address: number, iova: number, bytes: number): boolean {
    try {
      // Pinning allocates ordinary pages, so the node applies here.
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

function checkDomain(domain: IommuDomain): void {
  const accepted = 'an IOMMU domain of VfioDevice.open()';
  checkObject('domain', domain, accepted);
  reading('domain', domain, accepted, () => {
    const { address, mapper, iovaRanges, pageSize } = domain;
    if (typeof address !== 'string') throw new DmaArgumentError('domain.address', address, 'a PCI address');
    checkInteger('domain.pageSize', pageSize, 4096, 2 ** 30);
    checkObject('domain.mapper', mapper, accepted);
    checkFunction('domain.mapper.map', (mapper as { readonly map?: unknown }).map);
    if (iovaRanges !== undefined && !isArray(iovaRanges))
      throw new DmaArgumentError('domain.iovaRanges', iovaRanges, accepted);
  });
}

function isOutOfMemory(error: unknown): boolean {
  return error instanceof SystemCallError && ['ENOMEM', 'ENOSPC', 'EFAULT'].includes(error.errnoName);
}

/** Checks the node before any allocation: allocations throw for wrong arguments only. */
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
    `the device needs ${kib(wanted)} of locked memory, and this process may lock ${kib(limit - locked)} more ` +
    `(limit ${kib(limit)}): raise the limit (ulimit -l ${String(Math.ceil((wanted + locked) / 1024))}, or ` +
    'LimitMEMLOCK= of the service), or reduce memory.size';
  throw new VfioError('ERR_DMAPOOL_VFIO_MEMLOCK', address, message);
}

/** Allocates hugepages of one size, or creates a file of ordinary pages, allocated on demand. */
function takeFile(size: number, hugepages: boolean | number | undefined, node: number, pageSize: number): HugepageFile {
  if (!['boolean', 'number', 'undefined'].includes(typeof hugepages)) {
    throw new DmaArgumentError('memory.hugepages', hugepages, 'a boolean, or the bytes of a hugepage');
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
      // Another process may have allocated them meanwhile. Fall back unless the caller requires hugepages.
      if (hugepages !== undefined) throw error;
    }
  }
  const bytes = roundUp(size, pageSize);
  return { fd: createMemoryFile(NAME, bytes), size: bytes, hugepageSize: pageSize };
}
