/**
 * A software IOMMU: maps bus addresses (IOVAs) of each device to physical pages.
 *
 *     device --IOVA--> IommuDomain (its page table) --physical address--> memory
 *
 * As in Linux, the page table (`map`, `unmap`, `translate`) is independent of the allocation of addresses (`allocIova`,
 * `freeIova`). A caller that maps an IOVA without `allocIova` is responsible for its uniqueness.
 */

import { checkInteger, checkPowerOfTwo } from '../arguments.ts';
import { DmaArgumentError, hex } from '../errors.ts';
import { DmaMappingError, IommuFaultError } from './errors.ts';
import type { DmaTarget } from './coherent.ts';
import { checkMultiple, MAX_REGION_PAGES, PageAllocator } from './page-allocator.ts';
import { MAX_ENTRY, PageTable } from './page-table.ts';

const FOUR_GIB = 2 ** 32;

/** Checks a page size: a power of two, 4096 to 2^30. @throws `DmaArgumentError` */
export function checkPageSize(pageSize: number): void {
  checkPowerOfTwo('pageSize', pageSize, 4096, 2 ** 30);
}

/** State that the domains of one IOMMU share. */
interface Shared {
  readonly pageSize: number;
  /** Maps a physical page to the number of the domain that maps it. */
  readonly owners: PageTable;
  faults: number;
}

/**
 * One IOMMU, with a domain for each device.
 *
 * @example
 * ```ts
 * const iommu = new SoftwareIommu(4096);
 * const domain = iommu.domain({ name: '0000:00:03.0', dmaMask: 2 ** 32 - 1 });
 * const iova = domain.allocIova(8192, 2 ** 32 - 1);
 * domain.map(iova, 0x10000, 8192);
 * domain.translate(iova + 0x1010, 16); // 0x11010
 * domain.translate(iova + 0x2000, 1); // throws IommuFaultError
 * ```
 */
export class SoftwareIommu {
  readonly #shared: Shared;
  // A domain holds the device's name, not the device, so that a device and its domain can be garbage-collected.
  readonly #domains = new WeakMap<DmaTarget, IommuDomain>();
  #made = 0;

  /** @param pageSize Bytes: a power of two, 4096 (the default) to 2^30. */
  constructor(pageSize = 4096) {
    checkPageSize(pageSize);
    this.#shared = { pageSize, owners: new PageTable(), faults: 0 };
  }

  /** Accesses of all devices that were blocked. */
  get faults(): number {
    return this.#shared.faults;
  }

  /** Returns the device's domain, created by the first call. The object's identity selects it, not the device's name. */
  domain(device: DmaTarget): IommuDomain {
    let domain = this.#domains.get(device);
    if (domain === undefined) {
      domain = new IommuDomain(this.#shared, device.name, this.#made++);
      this.#domains.set(device, domain);
    }
    return domain;
  }
}

/** The address space of one device; see {@link SoftwareIommu.domain}. */
export class IommuDomain {
  /** The device's name, for messages. */
  readonly device: string;
  readonly #shared: Shared;
  readonly #number: number;
  readonly #table = new PageTable();
  /**
   * The two halves of the IOVA space, created on first use because most devices need only one.
   *
   *     0        one page                          4 GiB                            4 GiB + 2^29 pages
   *     | unused |  low: masks below 4 GiB;         |  high: all other masks             |
   *              |  others when high is full        |
   *
   * High addresses come first so that a driver which truncates addresses to 32 bits fails in its first test, and so that
   * the low half is left to 32-bit devices.
   */
  readonly #halves: PageAllocator[] = [];

  /** @internal */
  constructor(shared: Shared, device: string, number: number) {
    this.#shared = shared;
    this.device = device;
    this.#number = number;
  }

  /**
   * Allocates a naturally aligned IOVA range, from 4 GiB up if `limit` and free space allow it, else below. Never 0.
   *
   * @param bytes 1 or more.
   * @param limit Highest address that the last byte may have.
   * @returns The IOVA, or -1 when no range is free.
   */
  allocIova(bytes: number, limit: number): number {
    const high = limit < FOUR_GIB ? -1 : this.#halfFor(FOUR_GIB).alloc(bytes, limit);
    return high < 0 ? this.#halfFor(0).alloc(bytes, limit) : high;
  }

  /**
   * Frees an IOVA range.
   *
   * @throws {@link DmaMappingError} `ERR_DMAPOOL_NOT_MAPPED`, with nothing changed, unless all of it is allocated.
   */
  freeIova(iova: number, bytes: number): void {
    this.#halfFor(iova).free(iova, bytes);
  }

  #halfFor(iova: number): PageAllocator {
    const { pageSize } = this.#shared;
    const high = iova >= FOUR_GIB;
    const base = high ? FOUR_GIB : pageSize;
    const size = high ? Math.min(MAX_REGION_PAGES * pageSize, 2 ** 53 - FOUR_GIB) : FOUR_GIB - pageSize;
    return (this.#halves[high ? 1 : 0] ??= new PageAllocator({ base, size, pageSize }));
  }

  /**
   * Maps `size` bytes at `physical` to `iova`. A physical page has at most one mapping, in one domain. All parameters are
   * in bytes and multiples of the page size.
   *
   * @throws {@link DmaArgumentError} for any other value.
   * @throws {@link DmaMappingError} `ERR_DMAPOOL_ALREADY_MAPPED`, with nothing changed, when an IOVA page or a physical page
   *   is mapped already.
   */
  map(iova: number, physical: number, size: number): void {
    const { pageSize, owners } = this.#shared;
    const count = this.#checkRange(iova, size);
    checkMultiple('physical', physical, pageSize, 0, (MAX_ENTRY + 1) * pageSize - size);
    const first = iova / pageSize;
    const frame = physical / pageSize;
    for (let i = 0; i < count; i++) {
      if (this.#table.get(first + i) !== -1 || owners.get(frame + i) !== -1) {
        const problem = `or page ${hex((frame + i) * pageSize)} is mapped`;
        throw this.#mappingError('ERR_DMAPOOL_ALREADY_MAPPED', first + i, problem);
      }
    }
    this.#table.set(first, count, frame, 1);
    try {
      owners.set(frame, count, this.#number, 0);
    } catch (error) {
      this.#table.clear(first, count);
      throw error;
    }
  }

  /**
   * Unmaps a range, which may be part of one mapping or span several. Both parameters are multiples of the page size.
   *
   * @throws {@link DmaMappingError} `ERR_DMAPOOL_NOT_MAPPED`, with nothing changed, unless all of it is mapped.
   */
  unmap(iova: number, size: number): void {
    const { pageSize, owners } = this.#shared;
    const count = this.#checkRange(iova, size);
    const first = iova / pageSize;
    for (let i = 0; i < count; i++) {
      if (this.#table.get(first + i) === -1) {
        throw this.#mappingError('ERR_DMAPOOL_NOT_MAPPED', first + i, 'is not mapped');
      }
    }
    for (let i = 0; i < count; i++) owners.clear(this.#table.get(first + i), 1);
    this.#table.clear(first, count);
  }

  /**
   * Returns the physical address of `dma`.
   *
   * @param length Bytes that must be mapped and physically contiguous, 1 or more.
   * @throws {@link IommuFaultError}, and counts it, when any byte is not mapped. Its `dma` is the first such address.
   * @throws {@link DmaArgumentError} when the bytes are mapped but not contiguous; see {@link contiguous}.
   */
  translate(dma: number, length: number, access = 'access'): number {
    checkInteger('length', length, 1);
    this.check(dma, length, access);
    const run = this.contiguous(dma, length);
    if (run < length) {
      throw new DmaArgumentError('length', length, `1 to ${run}: ${hex(dma)} is not contiguous`);
    }
    const { pageSize } = this.#shared;
    return this.#table.get(Math.floor(dma / pageSize)) * pageSize + (dma % pageSize);
  }

  /**
   * Checks that the device may access `length` bytes (0 or more) at `dma`.
   *
   * Addresses come from descriptors with arbitrary content, so every whole number is a valid argument, also above 2^53.
   *
   * @throws {@link IommuFaultError}, and counts it, when any byte is not mapped.
   * @throws {@link DmaArgumentError} when `dma` is not a whole number.
   */
  check(dma: number, length: number, access = 'access'): void {
    checkInteger('dma', dma, 0, Number.MAX_VALUE);
    checkInteger('length', length);
    if (length === 0) return;
    const { pageSize } = this.#shared;
    const last = Math.floor((dma + length - 1) / pageSize);
    let page = Math.floor(dma / pageSize);
    // Above 2^53 `page++` may not change `page`, but nothing is mapped there, so the first iteration throws.
    for (; page <= last; page++) {
      if (this.#table.get(page) === -1) throw this.#fault(Math.max(dma, page * pageSize), length, access);
    }
  }

  /** Returns how many of `length` bytes at `dma` are mapped and physically contiguous; 0 when the first is not mapped. */
  contiguous(dma: number, length: number): number {
    const { pageSize } = this.#shared;
    const first = Math.floor(dma / pageSize);
    const frame = this.#table.get(first);
    if (frame === -1) return 0;
    let run = pageSize - (dma % pageSize);
    for (let i = 1; run < length && this.#table.get(first + i) === frame + i; i++) run += pageSize;
    return Math.min(run, length);
  }

  /** Checks the IOVA range of a mapping and returns its size in pages. */
  #checkRange(iova: number, size: number): number {
    const { pageSize } = this.#shared;
    checkMultiple('size', size, pageSize, pageSize, (MAX_ENTRY + 1) * pageSize);
    checkMultiple('iova', iova, pageSize, 0, 2 ** 53 - size);
    return size / pageSize;
  }

  #mappingError(code: 'ERR_DMAPOOL_NOT_MAPPED' | 'ERR_DMAPOOL_ALREADY_MAPPED', page: number, problem: string): Error {
    return new DmaMappingError(code, `${this.device}: IOVA ${hex(page * this.#shared.pageSize)} ${problem}`);
  }

  #fault(dma: number, length: number, access: string): IommuFaultError {
    this.#shared.faults++;
    return new IommuFaultError(this.device, dma, `${access} of ${length} bytes`);
  }
}
