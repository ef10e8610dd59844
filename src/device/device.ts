// Declares `Disposable` for importers whose `lib` option lacks it.
/// <reference lib="esnext.disposable" preserve="true" />
import {
  ceilPowerOfTwo,
  checkFunction,
  checkInteger,
  checkPowerOfTwo,
  checkText,
  INT_MAX,
  type OptionNames,
  reading,
  readOptions,
} from '../arguments.ts';
import { DmaExistsError, DmaReleaseError } from './errors.ts';
import { describe, describeThrown, DmaArgumentError, hex } from '../errors.ts';
import { DmaMaskError, DmaSourceError } from '../memory/errors.ts';
import type { CoherentAllocator, CoherentMemory, DmaTarget } from '../memory/coherent.ts';
import { defaultMemory } from '../memory/heap.ts';
import { observer } from '../memory/observer.ts';
import { consoleLog, type DeviceLog, RateLimiter } from './log.ts';
import { ManagedResources, type ReleaseAction } from './managed.ts';
import { dmaBitMask, NUMA_NO_NODE } from './mask.ts';

/** Returns the text of an attribute; called by each read (Linux: a `show` method). */
export type AttributeShow = () => string;

/** Options of {@link Device}. */
export interface DeviceOptions {
  /** Name, as in Linux's `dev_name()`: for a PCI device its address, such as `0000:00:02.0`. */
  readonly name: string;
  /** Path as in sysfs. Default: the parent's path (or `/sys/devices`), a slash, and the name. */
  readonly path?: string;
  /** The device that this one is attached to, such as the USB controller of a USB device. */
  readonly parent?: Device;
  /** The coherent allocator. Default: {@link defaultMemory}, one heap for the process behind a software IOMMU. */
  readonly memory?: CoherentAllocator;
  /** Highest address that the device can access. Default: `dmaBitMask(32)`, as for a new device in Linux. */
  readonly dmaMask?: number;
  /** NUMA node that the device is attached to, 0 to 1023, or -1 (the default) for none. */
  readonly numaNode?: number;
  /** Receives the device's messages, after rate limiting. Default: the console. */
  readonly log?: DeviceLog;
}

const DEVICE_OPTIONS: OptionNames<DeviceOptions> = {
  name: true,
  path: true,
  parent: true,
  memory: true,
  dmaMask: true,
  numaNode: true,
  log: true,
};
const LEVELS: readonly (keyof DeviceLog)[] = ['error', 'warn', 'info'];
const MAX_NODE = 1023;

/** True for an instance of {@link Device}, but not for an object of the same shape or a proxy. */
export let isDevice: (value: unknown) => value is Device;

/**
 * {@link Device.allocCoherent} and {@link Device.freeCoherent} for pools. A pool frees each page exactly once, so the device
 * counts pages instead of recording them, and a page costs the device no memory.
 */
export let allocPage: (device: Device, size: number, node: number) => CoherentMemory | null;
export let freePage: (device: Device, page: CoherentMemory, size: number) => void;

/**
 * A bus master: its name, DMA mask, coherent allocator, attributes, managed resources and log.
 *
 * A device does not depend on pools: a pool registers itself with its device, as in Linux.
 *
 * @example
 * ```ts
 * using device = new Device({ name: '0000:00:02.0', dmaMask: dmaBitMask(64) });
 * const pool = DmaPool.createManaged('ehci_qtd', device, { size: 96, align: 32, boundary: 4096 });
 * console.log(device.readAttribute('pools'));
 * ```
 */
export class Device implements DmaTarget, Disposable {
  /** Name. */
  readonly name: string;
  /** Path as in sysfs. */
  readonly path: string;
  /** The device that this one is attached to, or null. */
  readonly parent: Device | null;
  /** The coherent allocator of the device. */
  readonly memory: CoherentAllocator;
  /** NUMA node that the device is attached to, or -1 for none. */
  readonly numaNode: number;

  #dmaMask: number;
  /** Live pages of pools. */
  #pages = 0;
  /** Other live memory of this device, with its requested bytes. */
  readonly #live = new Map<CoherentMemory, number>();
  /** Requested bytes of all live memory: pages of pools, and `live`. */
  #bytes = 0;
  /** `highest >= dma + size - 1` for all live memory; 0 when there is none. */
  #highest = 0;
  readonly #log: DeviceLog;
  readonly #limiter = new RateLimiter();
  /** The files of the device's sysfs directory. */
  readonly #attributes = new Map<string, AttributeShow>();
  readonly #managed = new ManagedResources();
  readonly #reclaims = new Set<() => number>();

  /** @throws {@link DmaArgumentError} for an option of the wrong type or out of range. */
  constructor(options: DeviceOptions) {
    const {
      name,
      parent,
      path,
      memory,
      dmaMask = dmaBitMask(32),
      numaNode = NUMA_NO_NODE,
      log = consoleLog,
    } = readOptions('options', options, DEVICE_OPTIONS);
    checkText('name', name, /^[^/\p{Cc}]+$/u, 'a non-empty string without slash or control characters');
    if (path !== undefined) checkText('path', path);
    if (memory !== undefined) checkSource(memory);
    const methods = 'a DeviceLog';
    const given: unknown = log;
    const complete = reading('log', log, methods, () =>
      LEVELS.every((level) => typeof (given as Partial<DeviceLog> | null)?.[level] === 'function'),
    );
    if (!complete) throw new DmaArgumentError('log', log, methods);
    if (parent !== undefined && !isDevice(parent)) throw new DmaArgumentError('parent', parent, 'a Device');
    checkInteger('dmaMask', dmaMask, 1);
    checkInteger('numaNode', numaNode, NUMA_NO_NODE, MAX_NODE);
    this.name = name;
    this.parent = parent ?? null;
    this.path = path ?? `${parent?.path ?? '/sys/devices'}/${name}`;
    this.memory = memory ?? defaultMemory();
    this.numaNode = numaNode;
    this.#dmaMask = dmaMask;
    this.#log = log;
    observer?.made(this);
  }

  /** Highest address that the device can access. */
  get dmaMask(): number {
    return this.#dmaMask;
  }

  /** Requested bytes of the device's live memory: pages of its pools, and memory from {@link Device.allocCoherent}. */
  get bytesAllocated(): number {
    return this.#bytes;
  }

  /**
   * Sets the DMA mask (Linux: `dma_set_mask_and_coherent`). Call it before the first allocation, or after all memory was
   * freed.
   *
   * @param mask Highest address, 1 to `Number.MAX_SAFE_INTEGER`; see {@link dmaBitMask}.
   * @throws {@link DmaArgumentError} for any other value.
   * @throws {@link DmaMaskError} when live memory of the device may be above the new mask.
   */
  setDmaMask(mask: number): void {
    checkInteger('dmaMask', mask, 1);
    if (this.#highest > mask) throw new DmaMaskError(this.name, this.#highest, 1, mask);
    this.#dmaMask = mask;
  }

  /**
   * Allocates coherent memory (Linux: `dma_alloc_coherent`): zeroed, naturally aligned, within the DMA mask.
   * For rings and other large areas; for many small equal blocks use a `DmaPool`.
   *
   * @param size Bytes, 1 to 2^31-1.
   * @param node Preferred NUMA node, 0 to 1023, or -1 for any. Default: the device's node.
   * @returns The memory, or null when none is free.
   * @throws {@link DmaArgumentError} for another size or node.
   * @throws {@link DmaMaskError} when the allocator returned memory above the mask, which was freed.
   * @throws {@link DmaSourceError} when the allocator broke its contract. Its memory was freed.
   */
  allocCoherent(size: number, node: number = this.numaNode): CoherentMemory | null {
    const memory = this.#alloc(size, node);
    if (memory !== null) {
      this.#live.set(memory, size);
      this.#bytes += size;
    }
    return memory;
  }

  #alloc(size: number, node: number): CoherentMemory | null {
    checkInteger('size', size, 1, INT_MAX);
    checkInteger('node', node, NUMA_NO_NODE, MAX_NODE);
    const memory: unknown = this.memory.allocCoherent({ device: this, size, node });
    if (memory === null) return null;
    const wrong = contractViolation(memory, size, naturalAlignment(size, this.memory.pageSize));
    if (wrong !== null) {
      this.#freeUnused(memory as CoherentMemory);
      throw new DmaSourceError(`${this.name}: memory source ${this.memory.name} gave ${wrong}`);
    }
    const given = memory as CoherentMemory;
    const last = given.dma + size - 1;
    if (last > this.#dmaMask) {
      this.#freeUnused(given);
      throw new DmaMaskError(this.name, given.dma, size, this.#dmaMask);
    }
    this.#highest = Math.max(this.#highest, last);
    return given;
  }

  // An exception here would hide the original error.
  #freeUnused(memory: CoherentMemory): void {
    try {
      this.memory.freeCoherent(memory);
    } catch {
      // See above.
    }
  }

  /** Frees memory from {@link Device.allocCoherent}. @throws {@link DmaMappingError} for any other object. */
  freeCoherent(memory: CoherentMemory): void {
    // Remove it before the call: the allocator may return the same object for a new allocation during the call.
    const ours = this.#live.get(memory);
    this.#live.delete(memory);
    try {
      this.memory.freeCoherent(memory, this);
    } catch (error) {
      if (ours !== undefined) this.#live.set(memory, ours);
      throw error;
    }
    this.#bytes -= ours ?? 0;
    this.#forgetHighest();
  }

  #forgetHighest(): void {
    if (this.#live.size === 0 && this.#pages === 0) this.#highest = 0;
  }

  /**
   * Writes a message to the device's log, after the device's name (Linux: `dev_err_ratelimited`). Each kind of message is
   * limited to 10 in 5 seconds; a later message reports the number of suppressed ones.
   *
   * @param level The log's method: `error`, `warn` or `info`.
   * @param kind The unit of rate limiting, such as `rx overrun`.
   * @param message May have several lines.
   * @throws {@link DmaArgumentError} for another level, or a `kind` or `message` that is no text.
   */
  report(level: keyof DeviceLog, kind: string, message: string): void {
    if (!LEVELS.includes(level)) throw new DmaArgumentError('level', level, LEVELS.join(', '));
    checkText('kind', kind);
    checkText('message', message);
    const print = this.#limiter.allows(kind, (missed) => {
      this.#write(level, `${this.name}: ${kind}: ${missed} suppressed`);
    });
    if (print) this.#write(level, `${this.name}: ${message}`);
  }

  // The log is user code. An exception of it must not interrupt an operation of the allocator.
  #write(level: keyof DeviceLog, message: string): void {
    try {
      this.#log[level](message);
    } catch (error) {
      consoleLog.error(`${this.name}: the log threw ${describeThrown(error)} at: ${message}`);
    }
  }

  /**
   * Adds an attribute (Linux: `device_create_file`).
   *
   * @param name A file name: not empty, no slash.
   * @param show Returns its text; called by each read.
   * @returns A function that removes this attribute, and returns whether it was still present.
   * @throws {@link DmaArgumentError} for a wrong name or `show`.
   * @throws {@link DmaExistsError} when the device has an attribute of that name.
   */
  addAttribute(name: string, show: AttributeShow): () => boolean {
    checkText('attribute name', name, /^[^/\0]+$/, 'a non-empty string without /');
    checkFunction('show', show);
    if (this.#attributes.has(name)) throw new DmaExistsError(`${this.name}: attribute ${name} exists`);
    // A function of its own identifies the attribute, even if two attributes share `show`.
    const own: AttributeShow = () => show();
    this.#attributes.set(name, own);
    return () => this.#attributes.get(name) === own && this.#attributes.delete(name);
  }

  /** Removes the attribute `name`; false if there was none. */
  removeAttribute(name: string): boolean {
    return this.#attributes.delete(name);
  }

  /** Returns the text of the attribute `name`, or undefined if there is none. */
  readAttribute(name: string): string | undefined {
    return this.#attributes.get(name)?.();
  }

  /** Returns the names of all attributes, oldest first. */
  attributeNames(): string[] {
    return [...this.#attributes.keys()];
  }

  /**
   * Registers `release` to be called by the next {@link Device.detach} (Linux: `devm_add_action`).
   *
   * @returns A function that removes the action, and returns whether it was still registered.
   * @throws {@link DmaArgumentError} unless `release` is a function.
   */
  addAction(release: ReleaseAction): () => boolean {
    checkFunction('release', release);
    return this.#managed.add(release);
  }

  /**
   * Registers a resource to be disposed of by the next {@link Device.detach}.
   *
   * @returns The resource.
   * @throws {@link DmaArgumentError} unless it is a `Disposable`.
   */
  manage<T extends Disposable>(resource: T): T {
    const accepted = 'a Disposable';
    const dispose: unknown = reading('resource', resource, accepted, () => resource?.[Symbol.dispose]);
    if (typeof dispose !== 'function') throw new DmaArgumentError('resource', resource, accepted);
    this.addAction(() => {
      resource[Symbol.dispose]();
    });
    return resource;
  }

  /**
   * Releases all managed resources, in reverse order of registration, as when a driver is unbound. The device can be used
   * again afterwards.
   *
   * @throws {@link DmaReleaseError} after all releases were called, if any threw.
   */
  detach(): void {
    this.#throwAll(this.#managed.releaseAll());
  }

  /**
   * Frees the pages of pools that were destroyed with blocks still allocated. Call it only after a reset of the device, when
   * it no longer writes to those blocks.
   *
   * @returns The number of freed pages.
   * @throws {@link DmaReleaseError} after all pools were tried, if any of them threw.
   */
  reclaim(): number {
    let pages = 0;
    const errors: unknown[] = [];
    for (const reclaim of [...this.#reclaims]) {
      // A function called before may have removed this one.
      if (!this.#reclaims.delete(reclaim)) continue;
      try {
        pages += reclaim();
      } catch (error) {
        errors.push(error);
      }
    }
    this.#throwAll(errors);
    return pages;
  }

  #throwAll(errors: readonly unknown[]): void {
    if (errors.length > 0) throw new DmaReleaseError(`${this.name}: ${errors.length} releases failed`, errors);
  }

  /**
   * Registers a function for the next {@link Device.reclaim}.
   *
   * @param reclaim Frees memory; returns the number of freed pages.
   * @returns A function that removes the registration.
   * @throws {@link DmaArgumentError} unless `reclaim` is a function.
   */
  onReclaim(reclaim: () => number): () => void {
    checkFunction('reclaim', reclaim);
    this.#reclaims.add(reclaim);
    return () => {
      this.#reclaims.delete(reclaim);
    };
  }

  /** {@link Device.detach}, for `using`. */
  [Symbol.dispose](): void {
    this.detach();
  }

  static {
    isDevice = (value): value is Device => #dmaMask in (Object(value) as object);
    allocPage = (device, size, node) => {
      const page = device.#alloc(size, node);
      if (page !== null) {
        device.#pages++;
        device.#bytes += size;
      }
      return page;
    };
    freePage = (device, page, size) => {
      device.memory.freeCoherent(page, device);
      device.#pages--;
      device.#bytes -= size;
      device.#forgetHighest();
    };
  }
}

/** Returns the natural alignment of `size` bytes: the smallest power-of-two number of pages that contains them. */
export function naturalAlignment(size: number, pageSize: number): number {
  return Math.max(pageSize, ceilPowerOfTwo(size));
}

function checkSource(memory: CoherentAllocator): void {
  const accepted = 'a CoherentAllocator';
  const pageSize = reading('memory', memory, accepted, () => {
    const complete = typeof memory.allocCoherent === 'function' && typeof memory.freeCoherent === 'function';
    return complete ? memory.pageSize : null;
  });
  if (pageSize === null) throw new DmaArgumentError('memory', memory, accepted);
  checkPowerOfTwo('memory.pageSize', pageSize, 4096, 2 ** 53);
}

/**
 * Describes how allocated memory breaks the contract of {@link CoherentAllocator}: the end of a message that begins
 * with "memory source ... gave". Null if the memory satisfies the contract.
 */
function contractViolation(memory: unknown, size: number, alignment: number): string | null {
  if (typeof memory !== 'object' || memory === null) return describe(memory);
  const { dma, buffer, byteOffset } = memory as Partial<CoherentMemory>;
  if (!Number.isSafeInteger(dma) || dma! < 0 || dma! % alignment !== 0) {
    return `address ${typeof dma === 'number' ? hex(dma) : describe(dma)}, not a multiple of ${alignment}`;
  }
  const { byteLength } = (buffer ?? {}) as Partial<ArrayBuffer>;
  const holds =
    Number.isInteger(byteOffset) && byteOffset! >= 0 && byteOffset! % 8 === 0 && byteOffset! + size <= byteLength!;
  return holds ? null : `${hex(dma!)} with a wrong buffer`;
}
