/**
 * Coherent memory of hugepages with physical addresses, for devices without IOMMU translation.
 *
 *     file of hugepages    | 0 | 1 | 2 | 3 |          in the order of allocation
 *     physical             ..|2|..|1|3|....|0|..
 *     this process         | 2 | 1   3 | 0 |          mapped in the order of physical addresses; physically
 *                           zone  zone  zone          adjacent hugepages are one zone
 *
 * The memory must be hugepages. The kernel migrates ordinary pages, mlock(2)ed ones too. It neither swaps hugepages nor
 * moves them for ordinary compaction or NUMA balancing. It still migrates a hugepage for memory offlining (hot-unplug,
 * virtio-mem), contiguous allocations (CMA, gigantic pages), soft offlining after memory errors, and on move_pages(2),
 * migrate_pages(2), mbind(2) or a change of the cpuset. The device then uses a stale address. VFIO pins its pages and
 * has no such restriction.
 */
import { closeSync } from 'node:fs';
import { checkInteger, type OptionNames, readOptions } from '../arguments.ts';
import type { CoherentAllocator, CoherentMemory, CoherentRequest, SharedRegion } from '../memory/coherent.ts';
import { type MemoryZone, ZonedMemory } from '../memory/zoned-memory.ts';
import { type HugepageFile, hugepagePoolsFor, takeHugepages } from './hugepage-files.ts';
import { libc, MAP_POPULATE, MAP_SHARED, MAX_VIEW, PROT_READ } from './libc.ts';
import { MappedMemory, type MapPiece } from './mapped-memory.ts';
import { Pagemap } from './pagemap.ts';

/** Size and kind of the memory. */
export interface HugetlbOptions {
  /** Bytes, 1 or more; rounded up to whole hugepages. The constructor allocates all of it; `close` frees it. */
  readonly size: number;
  /**
   * Bytes of a hugepage, such as 2^21 or 2^30. Default: the largest free pages that fit into `size`, and smaller ones
   * for the rest.
   */
  readonly hugepageSize?: number;
  /** NUMA node. The memory comes from this node only. -1, the default, means any. */
  readonly node?: number;
}

/** A physically contiguous range. */
export interface PhysicalRun {
  /** Physical address, in bytes. */
  readonly dma: number;
  /** Bytes. */
  readonly size: number;
}

/** A hugepage: its place in a file, and its physical address. */
interface Hugepage extends MapPiece {
  readonly dma: number;
}

const OPTIONS: OptionNames<HugetlbOptions> = { size: true, hugepageSize: true, node: true };
const NAME = 'dmapool-hugetlb';
const PAGE_SIZE = 4096;
const MAX_SIZE = 2 ** 46;

/**
 * Memory of hugepages; `dma` is the physical address. Use it for devices without IOMMU, or behind one that passes
 * addresses through (`iommu=pt`). Behind a translating IOMMU use VFIO. Needs Linux on an architecture that koffi
 * supports, hugepages, and CAP_SYS_ADMIN to read physical addresses.
 *
 * The device can write to all memory of the system. Stop it before `close`, which returns the hugepages to the system.
 *
 * @example
 * ```ts
 * try {
 *   const memory = new HugetlbMemory({ size: 4 * 2 ** 20 });
 *   const device = new Device({ name: '0000:3b:00.0', dmaMask: dmaBitMask(64), memory });
 *   const pool = DmaPool.create('prp', device, { size: 4096 });
 *   // ... finally, after the device has stopped:
 *   pool.destroy();
 *   memory.close();
 * } catch (error) {
 *   if (!(error instanceof HugepageError)) throw error;
 *   console.error(error.message); // includes the command that reserves hugepages
 * }
 * ```
 */
export class HugetlbMemory implements CoherentAllocator {
  readonly name = 'hugetlb';
  readonly pageSize: number = PAGE_SIZE;
  /** NUMA node of the memory, or -1. */
  readonly node: number;
  /** Physically contiguous runs, by hugepage size, largest first, then by address. No allocation spans two runs. */
  readonly runs: readonly PhysicalRun[];
  /** Sizes and counts of its hugepages, largest first. */
  readonly hugepages: readonly { readonly size: number; readonly count: number }[];
  readonly #memory: MappedMemory;
  readonly #zones: ZonedMemory;

  /**
   * Allocates the memory.
   *
   * @param options Size and kind of the memory.
   * @throws {@link HugepageError} `ERR_DMAPOOL_NO_HUGEPAGES`, with the command that reserves more; or
   *   `ERR_DMAPOOL_FRAMES_HIDDEN`. @throws `DmaArgumentError` @throws {@link DmaDependencyError} without koffi.
   * @throws {@link SystemCallError} when the node does not exist or address space is exhausted.
   */
  constructor(options: HugetlbOptions) {
    const { size, hugepageSize, node = -1 } = readOptions('options', options, OPTIONS);
    checkInteger('size', size, 1, MAX_SIZE);
    checkInteger('node', node, -1, 1023);
    const pools = hugepagePoolsFor(size, hugepageSize, node);
    this.node = node;

    const files: HugepageFile[] = [];
    let memory: MappedMemory | undefined;
    try {
      takeHugepages(NAME, size, pools, node, files);
      const pages = findPages(files);
      memory = new MappedMemory(bytesOf(pages), pools[0]!.size);
      const { zones, runs } = mapPages(memory, pages);
      this.runs = runs;
      this.#zones = new ZonedMemory({ name: 'hugetlb', pageSize: PAGE_SIZE, zones });
    } catch (error) {
      memory?.close();
      throw error;
    } finally {
      // The mappings keep the files alive.
      for (const { fd } of files) closeSync(fd);
    }
    this.#memory = memory;
    this.hugepages = files.map(({ hugepageSize: bytes, size: all }) => ({ size: bytes, count: all / bytes }));
  }

  /** Total bytes. */
  get limit(): number {
    return this.#zones.limit;
  }

  /** Bytes of allocated pages. */
  get bytesInUse(): number {
    return this.#zones.bytesInUse;
  }

  /** Ignores the `node` of the `request`: all of this memory is on one node, or on any. */
  allocCoherent(request: CoherentRequest): CoherentMemory | null {
    return this.#zones.allocCoherent(request);
  }

  freeCoherent(memory: CoherentMemory): void {
    this.#zones.freeCoherent(memory);
  }

  onceAvailable(listener: () => void): () => void {
    return this.#zones.onceAvailable(listener);
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
   * Returns the hugepages to the system. Stop the device first: it would write to memory of other programs. Existing
   * views then read zeros, in all threads, and allocations fail. A second call does nothing.
   */
  close(): void {
    this.#zones.close();
    this.#memory.close();
  }
}

/** The hugepages by size, then by physical address. */
function findPages(files: readonly HugepageFile[]): Hugepage[] {
  const pages: Hugepage[] = [];
  const pagemap = new Pagemap();
  try {
    for (const { fd, size, hugepageSize } of files) {
      // A temporary mapping to read the addresses; no JavaScript view of it exists.
      const address = libc().mmap(0, size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd);
      try {
        for (let offset = 0; offset < size; offset += hugepageSize) {
          pages.push({ fd, offset, length: hugepageSize, dma: pagemap.physicalAddress(address + offset) });
        }
      } finally {
        libc().munmap(address, size);
      }
    }
  } finally {
    pagemap.close();
  }
  // Large pages first: a hugepage mapping is aligned to its page size.
  return pages.sort((a, b) => b.length - a.length || a.dma - b.dma);
}

/** Maps the pages in the given order. Each physically contiguous run becomes a zone. */
function mapPages(memory: MappedMemory, pages: readonly Hugepage[]): { zones: MemoryZone[]; runs: PhysicalRun[] } {
  const zones: MemoryZone[] = [];
  const runs: PhysicalRun[] = [];
  let offset = 0;
  for (const part of partsOf(pages)) {
    const length = bytesOf(part);
    const buffer = memory.open(offset, length, part, MAP_POPULATE);
    let byteOffset = 0;
    for (const run of runsOf(part)) {
      zones.push({ ...run, buffer, byteOffset });
      runs.push(run);
      byteOffset += run.size;
    }
    offset += length;
  }
  return { zones, runs };
}

/** Splits the pages into groups that fit one buffer each. */
function partsOf(pages: readonly Hugepage[]): Hugepage[][] {
  const parts: Hugepage[][] = [];
  let length = Infinity;
  for (const page of pages) {
    if (length + page.length > MAX_VIEW) {
      parts.push([]);
      length = 0;
    }
    parts.at(-1)!.push(page);
    length += page.length;
  }
  return parts;
}

function runsOf(pages: readonly Hugepage[]): PhysicalRun[] {
  const runs: { dma: number; size: number }[] = [];
  for (const { dma, length } of pages) {
    const last = runs.at(-1);
    if (last !== undefined && last.dma + last.size === dma) last.size += length;
    else runs.push({ dma, size: length });
  }
  return runs;
}

function bytesOf(pages: readonly MapPiece[]): number {
  return pages.reduce((sum, { length }) => sum + length, 0);
}
