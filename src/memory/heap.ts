/**
 * The embedded memory source: ordinary memory, seen by devices through a software IOMMU.
 *
 *     pool -----> HeapAllocation: buffer + byteOffset ---------------\
 *                                                                     > the arena's pages
 *     device emulator --dma--> IommuDomain of the device --physical--/
 *
 * An address of the arena (its "physical" addresses, 0 to limit) is never an address that a device uses, so code that
 * confuses the two fails, and whatever is not mapped for a device faults, as on a machine with a strict IOMMU.
 */

import { checkBytes, checkInteger, type OptionNames, readOptions, roundUp } from '../arguments.ts';
import { Arena } from './arena.ts';
import { Availability } from './availability.ts';
import type { CoherentAllocator, CoherentMemory, CoherentRequest, DmaTarget } from './coherent.ts';
import { checkPageSize, type IommuDomain, SoftwareIommu } from './iommu.ts';
import { MAX_REGION_PAGES, PageAllocator } from './page-allocator.ts';
import { checkRequest, checkTarget, notLive } from './request.ts';

/** How much memory a {@link HeapMemory} may use, and how it takes it from the system. */
export interface HeapOptions {
  /** The most bytes, from one page to 2^29 pages, rounded down to whole pages; 256 MiB by default. Address space only. */
  readonly limit?: number;
  /** Bytes to grow by, 1 or more, rounded up to whole pages; 1 MiB by default. */
  readonly step?: number;
  /** Bytes of a page: a power of two from 4096 (the default) to 2^30. */
  readonly pageSize?: number;
}

const HEAP_OPTIONS: OptionNames<HeapOptions> = { limit: true, step: true, pageSize: true };

/**
 * Memory from `HeapMemory`. There may be one of these for each page in use, so it holds five words and computes the
 * rest: page numbers are small integers to the engine, where an address above 2^31 would be an object of its own.
 */
class HeapAllocation implements CoherentMemory {
  readonly #arena: Arena;
  readonly #domain: IommuDomain;
  readonly #page: number;
  readonly #iovaPage: number;
  /** Bytes asked for; negative once the memory was given back. */
  #size: number;

  constructor(arena: Arena, domain: IommuDomain, page: number, iovaPage: number, size: number) {
    this.#arena = arena;
    this.#domain = domain;
    this.#page = page;
    this.#iovaPage = iovaPage;
    this.#size = size;
  }

  get dma(): number {
    return this.#iovaPage * this.#arena.pageSize;
  }

  get size(): number {
    return Math.abs(this.#size);
  }

  get buffer(): ArrayBuffer | SharedArrayBuffer {
    return this.#arena.buffer;
  }

  get byteOffset(): number {
    return this.#page * this.#arena.pageSize;
  }

  /**
   * Marks memory as given back and returns its device's domain; null, and nothing is changed, unless it is live memory
   * of this arena, and of domain `owner` if one is given. Static, so that those who hold the memory have no method to spoil it with.
   */
  static retire(memory: unknown, arena: Arena, owner: IommuDomain | null): IommuDomain | null {
    if (typeof memory !== 'object' || memory === null || !(#arena in memory)) return null;
    if (memory.#arena !== arena || memory.#size < 0) return null;
    if (owner !== null && memory.#domain !== owner) return null;
    memory.#size = -memory.#size;
    return memory.#domain;
  }
}

/**
 * Coherent memory from the JavaScript engine, with synthetic bus addresses.
 *
 * The memory is one growable SharedArrayBuffer; where the engine has none, an ArrayBuffer, and `shareable` is false.
 *
 * @example
 * ```ts
 * const source = new HeapMemory({ limit: 16 * 1024 * 1024 });
 * const nic = { name: '0000:00:03.0', dmaMask: 2 ** 32 - 1 };
 * const memory = source.allocCoherent({ device: nic, size: 4096, node: -1 });
 * if (memory !== null) {
 *   source.write(nic, memory.dma, Uint8Array.of(1, 2, 3)); // what the device would do
 *   source.freeCoherent(memory);
 * }
 * ```
 */
export class HeapMemory implements CoherentAllocator {
  readonly name = 'heap';
  readonly pageSize: number;
  readonly #arena: Arena;
  readonly #pages: PageAllocator;
  readonly #iommu: SoftwareIommu;
  readonly #availability = new Availability();

  /**
   * Throws `DmaArgumentError` for options out of range, and `DmaOutOfMemoryError` when the engine can't reserve address
   * space for `limit`.
   */
  constructor(options: HeapOptions = {}) {
    const given = readOptions('options', options, HEAP_OPTIONS);
    const { limit = 256 * 1024 * 1024, step = 1024 * 1024, pageSize = 4096 } = given;
    checkPageSize(pageSize);
    checkInteger('limit', limit, pageSize, MAX_REGION_PAGES * pageSize);
    checkInteger('step', step, 1);
    const size = limit - (limit % pageSize);
    this.pageSize = pageSize;
    this.#arena = new Arena(size, roundUp(step, pageSize), pageSize);
    this.#pages = new PageAllocator({ base: 0, size, pageSize });
    this.#iommu = new SoftwareIommu(pageSize);
  }

  /** True when the memory can be seen by workers; false where the engine has no growable SharedArrayBuffer. */
  get shareable(): boolean {
    return this.#arena.shareable;
  }

  /** Bytes of the pages that are handed out. */
  get bytesInUse(): number {
    return this.#pages.usedPages * this.pageSize;
  }

  /** Bytes taken from the engine so far; never shrinks. Where it is not `shareable`, the whole limit from the start. */
  get bytesCommitted(): number {
    return this.#arena.buffer.byteLength;
  }

  /** The most bytes that this source will ever have, a multiple of the page size. */
  get limit(): number {
    return this.#arena.limit;
  }

  /** Device accesses stopped by the IOMMU so far. */
  get faults(): number {
    return this.#iommu.faults;
  }

  /**
   * Allocates zeroed memory that the device can reach; null when the limit is reached, no piece is large enough, the
   * engine gives no more, or nothing suits the device's mask. Throws `DmaArgumentError` only.
   *
   * Devices that reach above 4 GiB get addresses there first: a driver that drops the upper half fails at once.
   *
   * @param request For whom, and how many bytes, 1 to 2^31-1; the node is not looked at.
   */
  allocCoherent(request: CoherentRequest): CoherentMemory | null {
    const { device, mask, size } = checkRequest(request);
    const domain = this.#iommu.domain(device);
    const bytes = roundUp(size, this.pageSize);
    const used = this.#pages.highWater;

    const physical = this.#pages.alloc(bytes);
    if (physical === -1) return null;
    const iova = this.#arena.growTo(physical + bytes) ? domain.allocIova(size, mask) : -1;
    if (iova === -1) {
      this.#pages.free(physical, bytes);
      return null;
    }
    try {
      domain.map(iova, physical, bytes);
    } catch (error) {
      domain.freeIova(iova, bytes);
      this.#pages.free(physical, bytes);
      // The engine had no memory for the page table.
      if (error instanceof RangeError) return null;
      throw error;
    }
    // What was never handed out is zero from the system, and filling it would make the system provide it now.
    if (physical < used) this.#arena.zero(physical, Math.min(physical + bytes, used));
    return new HeapAllocation(this.#arena, domain, physical / this.pageSize, iova / this.pageSize, size);
  }

  /**
   * Takes `memory` back: the device can't reach it any more, and it may be handed out again, to any device.
   * What this source did not give, or gave to another device, or has back already, is a `DmaMappingError`
   * (`ERR_DMAPOOL_NOT_MAPPED`).
   *
   * @param memory As {@link allocCoherent} returned it.
   * @param device For whom it was; default: not looked at.
   */
  freeCoherent(memory: CoherentMemory, device?: DmaTarget): void {
    if (device !== undefined) checkTarget(device);
    const owner = device === undefined ? null : this.#iommu.domain(device);
    const domain = HeapAllocation.retire(memory, this.#arena, owner);
    if (domain === null) {
      throw notLive(device);
    }
    const { dma, size, byteOffset } = memory;
    const bytes = roundUp(size, this.pageSize);
    domain.unmap(dma, bytes);
    domain.freeIova(dma, bytes);
    this.#pages.free(byteOffset, bytes);
    this.#availability.announce();
  }

  /**
   * Calls `listener` once, when memory next came back; returns a function that takes the wish back.
   * What a listener throws is dropped: it must not harm the one who happens to free, nor the other listeners.
   */
  onceAvailable(listener: () => void): () => void {
    return this.#availability.once(listener);
  }

  /**
   * For device emulators: a view of the memory that `device` sees at `dma`. Valid until the memory is freed.
   *
   * Throws `IommuFaultError` when any of `length` bytes (1 or more) is not mapped for the device, and `DmaArgumentError`
   * when they do not lie in one piece, as may be when they belong to several allocations: use `read` and `write` there.
   */
  translate(device: DmaTarget, dma: number, length: number): Uint8Array {
    checkTarget(device);
    const physical = this.#iommu.domain(device).translate(dma, length);
    return this.#arena.bytes(physical, length);
  }

  /**
   * For device emulators: `device` reads `into.length` bytes at `dma`.
   * Throws `IommuFaultError`, before any byte is copied, unless all of them are mapped for the device.
   */
  read(device: DmaTarget, dma: number, into: Uint8Array): void {
    checkBytes('into', into);
    this.#copy(device, dma, into, false);
  }

  /**
   * For device emulators: `device` writes `from` to `dma`.
   * Throws `IommuFaultError`, before any byte is written, unless all of it is mapped for the device.
   */
  write(device: DmaTarget, dma: number, from: Uint8Array): void {
    checkBytes('from', from);
    this.#copy(device, dma, from, true);
  }

  #copy(device: DmaTarget, dma: number, data: Uint8Array, toMemory: boolean): void {
    checkTarget(device);
    const domain = this.#iommu.domain(device);
    const { length } = data;
    const access = toMemory ? 'write' : 'read';
    domain.check(dma, length, access);
    for (let done = 0; done < length;) {
      const piece = domain.contiguous(dma + done, length - done);
      const physical = domain.translate(dma + done, piece, access);
      const memory = this.#arena.bytes(physical, piece);
      if (toMemory) memory.set(data.subarray(done, done + piece));
      else data.set(memory, done);
      done += piece;
    }
  }
}

let shared: HeapMemory | undefined;

/**
 * The process-wide heap source of 256 MiB, made when first asked for: where pools without a source of their own live.
 *
 * @example
 * ```ts
 * const device = new Device({ name: 'eth0' });
 * console.log(device.memory === defaultMemory()); // true
 * ```
 */
export function defaultMemory(): HeapMemory {
  return (shared ??= new HeapMemory());
}
