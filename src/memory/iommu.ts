/**
 * An IOMMU in software: which bus addresses (IOVAs) of which device lead to which physical pages.
 *
 *     device --IOVA--> IommuDomain (its page table) --physical address--> memory
 *
 * As in hardware and in Linux, the table (`map`, `unmap`, `translate`) and the choice of addresses (`allocIova`,
 * `freeIova`) are two things: who maps an address that was not handed out must know that nobody else will.
 */

import { checkInteger, checkPowerOfTwo } from '../arguments.ts';
import { DmaArgumentError, hex } from '../errors.ts';
import { DmaMappingError, IommuFaultError } from './errors.ts';
import type { DmaTarget } from './coherent.ts';
import { checkMultiple, MAX_REGION_PAGES, PageAllocator } from './page-allocator.ts';
import { MAX_ENTRY, PageTable } from './page-table.ts';

const FOUR_GIB = 2 ** 32;

/** Checks a page size: a power of two from 4096 to 2^30. */
export function checkPageSize(pageSize: number): void {
  checkPowerOfTwo('pageSize', pageSize, 4096, 2 ** 30);
}

/** What the domains of one IOMMU have in common. */
interface Shared {
  readonly pageSize: number;
  /** Physical page to the number of the domain that maps it. */
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
  // Keyed by the device and holding only its name, so that a device that is forgotten takes its domain along.
  readonly #domains = new WeakMap<DmaTarget, IommuDomain>();
  #made = 0;

  /** @param pageSize Bytes of a page: a power of two from 4096 to 2^30. */
  constructor(pageSize = 4096) {
    checkPageSize(pageSize);
    this.#shared = { pageSize, owners: new PageTable(), faults: 0 };
  }

  /** Accesses stopped so far, of all devices. */
  get faults(): number {
    return this.#shared.faults;
  }

  /** The device's domain, made when first asked for. The device's identity counts, not its name. */
  domain(device: DmaTarget): IommuDomain {
    let domain = this.#domains.get(device);
    if (domain === undefined) {
      domain = new IommuDomain(this.#shared, device.name, this.#made++);
      this.#domains.set(device, domain);
    }
    return domain;
  }
}

/** The address space of one device; got from {@link SoftwareIommu.domain}. */
export class IommuDomain {
  /** The device's name, for messages. */
  readonly device: string;
  readonly #shared: Shared;
  readonly #number: number;
  readonly #table = new PageTable();
  /**
   * Two halves of the IOVAs, made on first use: most devices need one of them only.
   *
   *     0        one page                          4 GiB                            4 GiB + 2^29 pages
   *     | never  |  low: for devices of 32 bits     |  high: first for all that reach it  |
   *              |  or less, else when high is full |
   *
   * A driver that loses the upper half of an address then fails at once, in the first test, and not on the one machine
   * with much memory. And 32-bit devices keep their addresses for themselves as long as possible.
   */
  readonly #halves: PageAllocator[] = [];

  /** @internal */
  constructor(shared: Shared, device: string, number: number) {
    this.#shared = shared;
    this.device = device;
    this.#number = number;
  }

  /**
   * An unused IOVA for `bytes`, naturally aligned, the last byte at or below `limit`; -1 if there is none.
   * Never 0. From 4 GiB up if the limit allows, which shows drivers that lose the upper half; else below.
   */
  allocIova(bytes: number, limit: number): number {
    const high = limit < FOUR_GIB ? -1 : this.#halfFor(FOUR_GIB).alloc(bytes, limit);
    return high < 0 ? this.#halfFor(0).alloc(bytes, limit) : high;
  }

  /** Gives an IOVA back; throws `DmaMappingError` and changes nothing when the range is not all handed out. */
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
   * Lets the device reach `size` bytes at `physical` by `iova`.
   *
   * All three are multiples of the page size (`DmaArgumentError` otherwise). An IOVA page leads to one physical page,
   * and a physical page has one mapping in one domain: what is mapped already, on either side, throws
   * `DmaMappingError` (`ERR_DMAPOOL_ALREADY_MAPPED`) and changes nothing.
   */
  map(iova: number, physical: number, size: number): void {
    const { pageSize, owners } = this.#shared;
    const count = this.#checkRange(iova, size);
    checkMultiple('physical', physical, pageSize, 0, (MAX_ENTRY + 1) * pageSize - size);
    const first = iova / pageSize;
    const frame = physical / pageSize;
    for (let i = 0; i < count; i++) {
      if (this.#table.get(first + i) !== -1 || owners.get(frame + i) !== -1) {
        const problem = `or physical page ${hex((frame + i) * pageSize)} is mapped`;
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
   * Takes a range away from the device; multiples of the page size. It need not be one earlier mapping.
   * Throws `DmaMappingError` (`ERR_DMAPOOL_NOT_MAPPED`) and changes nothing unless all of it is mapped.
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
   * The physical address behind `dma`, where `length` bytes (1 or more) lie in one piece.
   *
   * Throws `IommuFaultError`, and counts it, when any byte is not mapped: it names the first such address. Throws
   * `DmaArgumentError` when all is mapped but in several pieces: take them one by one, by {@link contiguous}.
   */
  translate(dma: number, length: number, access = 'access'): number {
    checkInteger('length', length, 1);
    this.check(dma, length, access);
    const run = this.contiguous(dma, length);
    if (run < length) {
      throw new DmaArgumentError('length', length, `1 to ${run}: ${hex(dma)} has several pieces`);
    }
    const { pageSize } = this.#shared;
    return this.#table.get(Math.floor(dma / pageSize)) * pageSize + (dma % pageSize);
  }

  /**
   * Throws `IommuFaultError`, and counts it, unless the device may access all `length` bytes (0 or more) at `dma`.
   *
   * Addresses come from descriptors that anybody may have written, so every whole number is a valid question, also
   * above 2^53; only what is no address at all is a `DmaArgumentError`.
   */
  check(dma: number, length: number, access = 'access'): void {
    checkInteger('dma', dma, 0, Number.MAX_VALUE);
    checkInteger('length', length);
    if (length === 0) return;
    const { pageSize } = this.#shared;
    const last = Math.floor((dma + length - 1) / pageSize);
    let page = Math.floor(dma / pageSize);
    // Past 2^53 a page number may swallow the increment; but nothing is mapped there, so the loop ends at once.
    for (; page <= last; page++) {
      if (this.#table.get(page) === -1) throw this.#fault(Math.max(dma, page * pageSize), length, access);
    }
  }

  /** How many of `length` bytes at `dma` are mapped and lie in one physical piece; 0 when the first is not mapped. */
  contiguous(dma: number, length: number): number {
    const { pageSize } = this.#shared;
    const first = Math.floor(dma / pageSize);
    const frame = this.#table.get(first);
    if (frame === -1) return 0;
    let run = pageSize - (dma % pageSize);
    for (let i = 1; run < length && this.#table.get(first + i) === frame + i; i++) run += pageSize;
    return Math.min(run, length);
  }

  /** Checks the IOVA range of a mapping and returns its pages. */
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
