/**
 * The embedded coherent allocator: ordinary memory that devices access through a software IOMMU.
 *
 *     pool -----> HeapAllocation: buffer + byteOffset ---------------\
 *                                                                     > the arena's pages
 *     device emulator --dma--> IommuDomain of the device --physical--/
 *
 * Physical addresses are offsets in the arena, 0 to `limit`. Devices use IOVAs instead, so code that confuses the two fails.
 * An access outside a device's mappings faults, as with a strict hardware IOMMU.
 */

import { checkInteger, isUint8Array, type OptionNames, readOptions, roundUp } from '../arguments.ts';
import { DmaArgumentError } from '../errors.ts';
import { Arena } from './arena.ts';
import { Availability } from './availability.ts';
import type { CoherentAllocator, CoherentMemory, CoherentRequest, DmaTarget } from './coherent.ts';
import { checkPageSize, type IommuDomain, SoftwareIommu } from './iommu.ts';
import { MAX_REGION_PAGES, PageAllocator } from './page-allocator.ts';
import { checkRequest, checkTarget, notLive } from './request.ts';

/** Options of {@link HeapMemory}. */
export interface HeapOptions {
  /**
   * Maximum size in bytes, one page to 2^29 pages, rounded down to whole pages. Default: 256 MiB. Reserves address space
   * only.
   */
  readonly limit?: number;
  /** Bytes to grow by, 1 or more, rounded up to whole pages. Default: 1 MiB. */
  readonly step?: number;
  /** Page size in bytes: a power of two, 4096 (the default) to 2^30. */
  readonly pageSize?: number;
}

const HEAP_OPTIONS: OptionNames<HeapOptions> = { limit: true, step: true, pageSize: true };

/**
 * An allocation of {@link HeapMemory}. There may be one for each page in use, so it stores five fields and computes the
 * rest. It stores page numbers instead of addresses: the engine stores a small integer in the object, but a number above
 * 2^31 in a heap object of its own.
 */
class HeapAllocation implements CoherentMemory {
  readonly #arena: Arena;
  readonly #domain: IommuDomain;
  readonly #page: number;
  readonly #iovaPage: number;
  /** Requested bytes; negative after the free. */
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
   * Marks `memory` as freed and returns its domain. Returns null and changes nothing unless it is live memory of `arena`
   * and, if `owner` is not null, of that domain. Static, so that the object has no method that a caller could use.
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
 * A coherent allocator on memory of the JavaScript engine, with synthetic bus addresses.
 *
 * The memory is one growable SharedArrayBuffer. An engine without it gets an ArrayBuffer, and `shareable` is false.
 *
 * @example
 * ```ts
 * const source = new HeapMemory({ limit: 16 * 1024 * 1024 });
 * const nic = { name: '0000:00:03.0', dmaMask: 2 ** 32 - 1 };
 * const memory = source.allocCoherent({ device: nic, size: 4096, node: -1 });
 * if (memory !== null) {
 *   source.write(nic, memory.dma, Uint8Array.of(1, 2, 3)); // DMA of an emulated device
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
   * @throws {@link DmaArgumentError} for an option out of range.
   * @throws {@link DmaOutOfMemoryError} `ERR_DMAPOOL_NO_MEMORY` when the engine can't reserve address space for `limit`.
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

  /** True when workers can share the memory; false when the engine has no growable SharedArrayBuffer. */
  get shareable(): boolean {
    return this.#arena.shareable;
  }

  /** Bytes of allocated pages. */
  get bytesInUse(): number {
    return this.#pages.usedPages * this.pageSize;
  }

  /** Bytes taken from the engine; never shrinks. Equals `limit` from the start unless `shareable`. */
  get bytesCommitted(): number {
    return this.#arena.buffer.byteLength;
  }

  /** Maximum size in bytes, a multiple of the page size. */
  get limit(): number {
    return this.#arena.limit;
  }

  /** Device accesses that the IOMMU blocked. */
  get faults(): number {
    return this.#iommu.faults;
  }

  /**
   * Allocates zeroed memory within the device's DMA mask. A device with a mask above 4 GiB gets addresses above 4 GiB
   * first, so that a driver which truncates addresses to 32 bits fails at once.
   *
   * @param request The device and the size in bytes, 1 to 2^31-1. `node` is ignored.
   * @returns The memory, or null when the limit is reached, free memory is too fragmented, the engine has no more memory,
   *   or no free address is within the mask.
   * @throws `DmaArgumentError` for a wrong request, and nothing else.
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
      // The engine has no memory for the page table.
      if (error instanceof RangeError) return null;
      throw error;
    }
    // Memory above `used` was never allocated: it is zero, and a fill would make the system commit its pages now.
    if (physical < used) this.#arena.zero(physical, Math.min(physical + bytes, used));
    return new HeapAllocation(this.#arena, domain, physical / this.pageSize, iova / this.pageSize, size);
  }

  /**
   * Frees `memory` and removes the device's mapping of it.
   *
   * @param memory The object that {@link allocCoherent} returned.
   * @param device The device of the request. Default: not checked.
   * @throws {@link DmaMappingError} `ERR_DMAPOOL_NOT_MAPPED` for memory of another allocator or device, or freed already.
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
   * Calls `listener` once, after the next free. Exceptions of a listener are dropped.
   *
   * @returns A function that cancels the subscription.
   */
  onceAvailable(listener: () => void): () => void {
    return this.#availability.once(listener);
  }

  /**
   * For device emulators: returns a view of the memory at the address `dma` of `device`, valid until the memory is freed.
   *
   * @param length Bytes, 1 or more.
   * @throws {@link IommuFaultError} when any byte is not mapped for the device.
   * @throws {@link DmaArgumentError} when the bytes are not physically contiguous, as bytes of several allocations may be;
   *   use `read` and `write` for those.
   */
  translate(device: DmaTarget, dma: number, length: number): Uint8Array {
    checkTarget(device);
    const physical = this.#iommu.domain(device).translate(dma, length);
    return this.#arena.bytes(physical, length);
  }

  /**
   * For device emulators: reads `into.length` bytes at the address `dma` of `device`.
   *
   * @throws {@link IommuFaultError} when any byte is not mapped for the device; nothing is copied.
   */
  read(device: DmaTarget, dma: number, into: Uint8Array): void {
    this.#copy(device, dma, into, false);
  }

  /**
   * For device emulators: writes `from` to the address `dma` of `device`.
   *
   * @throws {@link IommuFaultError} when any byte is not mapped for the device; nothing is written.
   */
  write(device: DmaTarget, dma: number, from: Uint8Array): void {
    this.#copy(device, dma, from, true);
  }

  #copy(device: DmaTarget, dma: number, data: Uint8Array, toMemory: boolean): void {
    if (!isUint8Array(data)) throw new DmaArgumentError(toMemory ? 'from' : 'into', data, 'a Uint8Array');
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
 * Returns the process-wide {@link HeapMemory} of 256 MiB, created by the first call. Devices without a `memory` option use
 * it.
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
