/**
 * Coherent memory of hugepages, with physical addresses: for devices that no IOMMU translates for.
 *
 *     file of hugepages    | 0 | 1 | 2 | 3 |          in the order in which the kernel gave them
 *     physical             ..|2|..|1|3|....|0|..
 *     this process         | 2 | 1   3 | 0 |          mapped in the order of their addresses, so that runs of
 *                           zone  zone  zone          neighbours are one piece of memory here too
 *
 * Only hugepages will do: the kernel moves ordinary pages about, locked ones too (mlock(2) keeps them in memory, not in
 * their place). A hugepage stays where it is unless an administrator moves it by hand.
 */
import { closeSync } from 'node:fs';
import { checkInteger, type OptionNames, readOptions } from '../arguments.ts';
import type { CoherentAllocator, CoherentMemory, CoherentRequest, SharedRegion } from '../memory/coherent.ts';
import { type MemoryZone, ZonedMemory } from '../memory/zoned-memory.ts';
import { type HugepageFile, hugepagePoolsFor, takeHugepages } from './hugepage-files.ts';
import { libc, MAP_POPULATE, MAP_SHARED, MAX_VIEW, PROT_READ } from './libc.ts';
import { MappedMemory, type MapPiece } from './mapped-memory.ts';
import { Pagemap } from './pagemap.ts';

/** How much memory, and of what. */
export interface HugetlbOptions {
  /** Bytes, 1 or more; rounded up to whole hugepages. All of it is taken at once, and given back by `close`. */
  readonly size: number;
  /**
   * Bytes of a hugepage, such as 2^21 or 2^30; by default the largest of the system's sizes that are not above `size`
   * and free, and smaller ones for the rest.
   */
  readonly hugepageSize?: number;
  /** NUMA node to take it from, and from no other; -1, the default, for any. */
  readonly node?: number;
}

/** Memory whose physical addresses follow one another. */
export interface PhysicalRun {
  /** Physical address, in bytes. */
  readonly dma: number;
  /** Bytes. */
  readonly size: number;
}

/** A hugepage: where in which file, and where in the machine. */
interface Hugepage extends MapPiece {
  readonly dma: number;
}

const OPTIONS: OptionNames<HugetlbOptions> = { size: true, hugepageSize: true, node: true };
const NAME = 'dmapool-hugetlb';
const PAGE_SIZE = 4096;
const MAX_SIZE = 2 ** 46;

/**
 * Memory of hugepages; `dma` is the physical address. Use it for devices without IOMMU, or with one that passes
 * addresses through (`iommu=pt`); behind one that translates, a physical address means something else, or nothing: use
 * VFIO there. Linux on x86-64 and the other architectures that koffi has; needs hugepages, and CAP_SYS_ADMIN to see the
 * addresses.
 *
 * Nothing protects other memory from the device. Stop it before `close`: the hugepages then go back to the system.
 *
 * @example
 * ```ts
 * try {
 *   const memory = new HugetlbMemory({ size: 4 * 2 ** 20 });
 *   const device = new Device({ name: '0000:3b:00.0', dmaMask: DMA_BIT_MASK(64), memory });
 *   const pool = DmaPool.create('prp', device, { size: 4096 });
 *   // ... and at the end, with the device stopped:
 *   pool.destroy();
 *   memory.close();
 * } catch (error) {
 *   if (!(error instanceof HugepageError)) throw error;
 *   console.error(error.message); // has the command that reserves hugepages
 * }
 * ```
 */
export class HugetlbMemory implements CoherentAllocator {
  readonly name = 'hugetlb';
  readonly pageSize: number = PAGE_SIZE;
  /** NUMA node that the memory is from, or -1. */
  readonly node: number;
  /** What of it is contiguous; by size of hugepage, largest first, and address. A request never spans two runs. */
  readonly runs: readonly PhysicalRun[];
  /** Of which hugepages it is, largest first. */
  readonly hugepages: readonly { readonly size: number; readonly count: number }[];
  readonly #memory: MappedMemory;
  readonly #zones: ZonedMemory;

  /**
   * Takes the memory.
   *
   * @param options How much, and of what.
   * @throws {@link HugepageError} `ERR_DMAPOOL_NO_HUGEPAGES`, with the command that reserves more; or
   *   `ERR_DMAPOOL_FRAMES_HIDDEN`. @throws `DmaArgumentError` @throws {@link DmaDependencyError} without koffi.
   * @throws {@link SystemCallError} when there is no such node, or no address space.
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
      // What is mapped keeps the files.
      for (const { fd } of files) closeSync(fd);
    }
    this.#memory = memory;
    this.hugepages = files.map(({ hugepageSize: bytes, size: all }) => ({ size: bytes, count: all / bytes }));
  }

  /** Bytes that there are. */
  get limit(): number {
    return this.#zones.limit;
  }

  /** Bytes of the pages that are handed out. */
  get bytesInUse(): number {
    return this.#zones.bytesInUse;
  }

  /** The `node` of the `request` is not looked at: all this memory is from one node, or from anywhere. */
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
   * How another worker of this process gets at this memory.
   *
   * @param buffer The `buffer` of memory from here.
   */
  shareBuffer(buffer: ArrayBuffer | SharedArrayBuffer): SharedRegion {
    return this.#memory.share(buffer, NAME);
  }

  /**
   * Gives the hugepages back to the system. Stop the device first: where it writes then is somebody else's memory.
   * Views read zeros from now on, in all threads; nothing more is handed out. Closing twice is fine.
   */
  close(): void {
    this.#zones.close();
    this.#memory.close();
  }
}

/** The hugepages, by size and then by where they are in the machine. */
function findPages(files: readonly HugepageFile[]): Hugepage[] {
  const pages: Hugepage[] = [];
  const pagemap = new Pagemap();
  try {
    for (const { fd, size, hugepageSize } of files) {
      // Mapped for a look only; JavaScript sees nothing of it.
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
  // Large ones first, since a hugepage is aligned to its size in the process too.
  return pages.sort((a, b) => b.length - a.length || a.dma - b.dma);
}

/** Maps the pages in the order given; a run of neighbours is a zone. */
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

/** Parts that fit one buffer each. */
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
