// For `using`: whoever has a device or a pool needs these declarations, also where no others are asked for.
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

/** Text of an attribute, made when it is read (Linux: a `show` method). */
export type AttributeShow = () => string;

/** What a {@link Device} is made of. */
export interface DeviceOptions {
  /** Name, as in Linux's `dev_name()`: for PCI devices the address, such as `0000:00:02.0`. */
  readonly name: string;
  /** Path in the manner of sysfs. Default: the parent's path (or `/sys/devices`), a slash, and the name. */
  readonly path?: string;
  /** The device that this one hangs on, such as a USB controller for a USB device. */
  readonly parent?: Device;
  /** Where its coherent memory comes from. Default: one heap source for the whole process, behind a software IOMMU. */
  readonly memory?: CoherentAllocator;
  /** Highest address the device reaches. Default: `dmaBitMask(32)`, as for a fresh device in Linux. */
  readonly dmaMask?: number;
  /** NUMA node the device is attached to, or -1 for none in particular (the default). */
  readonly numaNode?: number;
  /** Where its messages go. Default: the console. Messages are rate-limited before they get there. */
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

/** True for a device: not for a look-alike, nor for a proxy of one. */
export let isDevice: (value: unknown) => value is Device;

/**
 * {@link Device.allocCoherent} and {@link Device.freeCoherent} for a pool, which frees each page once and no other memory.
 * So pages are counted, while memory of other callers is remembered one by one: a page costs its device no memory.
 */
export let allocPage: (device: Device, size: number, node: number) => CoherentMemory | null;
export let freePage: (device: Device, page: CoherentMemory, size: number) => void;

/**
 * Who does the DMA: a name, what addresses it reaches, where its memory comes from, and what is released with it.
 *
 * A device knows nothing of pools: a pool adds itself, as in Linux.
 *
 * @example
 * ```ts
 * using device = new Device({ name: '0000:00:02.0', dmaMask: dmaBitMask(64) });
 * const pool = DmaPool.createManaged('ehci_qtd', device, { size: 96, align: 32, boundary: 4096 });
 * console.log(device.readAttribute('pools'));
 * ```
 */
export class Device implements DmaTarget, Disposable {
  /** Name, as given. */
  readonly name: string;
  /** Path in the manner of sysfs. */
  readonly path: string;
  /** The device that this one hangs on, if any. */
  readonly parent: Device | null;
  /** Source of its coherent memory. */
  readonly memory: CoherentAllocator;
  /** NUMA node it is attached to; -1: none in particular. */
  readonly numaNode: number;

  #dmaMask: number;
  /**
   * Pages of pools, other memory that this device allocated, and the highest address since there was neither.
   * Memory from elsewhere that is given back here does not count: `highest >= the last byte of any live memory`.
   */
  #pages = 0;
  /** Other memory, with its bytes as they were asked for. */
  readonly #live = new Map<CoherentMemory, number>();
  #bytes = 0;
  #highest = 0;
  readonly #log: DeviceLog;
  readonly #limiter = new RateLimiter();
  /** What stands as files in the device's sysfs directory. */
  readonly #attributes = new Map<string, AttributeShow>();
  readonly #managed = new ManagedResources();
  readonly #reclaims = new Set<() => number>();

  /** @throws {@link DmaArgumentError} when an option is not of its kind or range. */
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
    checkText('name', name, /^[^/\p{Cc}]+$/u, 'a text: not empty, no slash, no control characters');
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

  /** The highest address the device reaches. */
  get dmaMask(): number {
    return this.#dmaMask;
  }

  /** Bytes of the memory that the device has: pages of its pools, and memory from {@link Device.allocCoherent}. */
  get bytesAllocated(): number {
    return this.#bytes;
  }

  /**
   * Says anew what the device reaches (Linux: `dma_set_mask_and_coherent`).
   *
   * @param mask Highest address, 1 to `Number.MAX_SAFE_INTEGER`; see {@link dmaBitMask}.
   * @throws {@link DmaArgumentError}
   * @throws {@link DmaMaskError} when memory the device has may lie above the new mask: pools would go on handing out
   *   addresses it can't reach. Set the mask first, or after all memory was given back.
   */
  setDmaMask(mask: number): void {
    checkInteger('dmaMask', mask, 1);
    if (this.#highest > mask) throw new DmaMaskError(this.name, this.#highest, 1, mask);
    this.#dmaMask = mask;
  }

  /**
   * Coherent memory for this device (Linux: `dma_alloc_coherent`): zeroed, naturally aligned, within the DMA mask.
   * For rings and other single large areas; for many small equal blocks make a `DmaPool`.
   *
   * @param size Bytes, 1 to 2^31-1.
   * @param node NUMA node to prefer; default: the device's own.
   * @returns The memory, or null when the source has none left.
   * @throws {@link DmaArgumentError} for a wrong size or node.
   * @throws {@link DmaMaskError} when the source offers memory above the mask; it has then been given back.
   * @throws {@link DmaSourceError} when the source breaks its promises; the memory has then been given back.
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
    const wrong = whatIsWrong(memory, size, naturalAlignment(size, this.memory.pageSize));
    if (wrong !== null) {
      this.#giveBackUnused(memory as CoherentMemory);
      throw new DmaSourceError(`${this.name}: memory source ${this.memory.name} gave ${wrong}`);
    }
    const given = memory as CoherentMemory;
    const last = given.dma + size - 1;
    if (last > this.#dmaMask) {
      this.#giveBackUnused(given);
      throw new DmaMaskError(this.name, given.dma, size, this.#dmaMask);
    }
    this.#highest = Math.max(this.#highest, last);
    return given;
  }

  // The source is in trouble already; what it says about this is not the news.
  #giveBackUnused(memory: CoherentMemory): void {
    try {
      this.memory.freeCoherent(memory);
    } catch {
      // See above.
    }
  }

  /** Gives memory from {@link Device.allocCoherent} back. @throws {@link DmaMappingError} for anything else. */
  freeCoherent(memory: CoherentMemory): void {
    // Taken out before the call: the source may hand out the same object again during it.
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
   * Writes to the device's log, the device's name before the message. Of each kind of message at most 10 in
   * 5 seconds get through; how many did not is said afterwards (Linux: `dev_err_ratelimited`).
   *
   * @param level Which method of the log: `error`, `warn` or `info`.
   * @param kind What counts as the same message, such as `rx overrun`.
   * @param message One report; it may have several lines.
   */
  report(level: keyof DeviceLog, kind: string, message: string): void {
    if (!LEVELS.includes(level)) throw new DmaArgumentError('level', level, LEVELS.join(', '));
    checkText('kind', kind);
    checkText('message', message);
    const print = this.#limiter.allows(kind, (missed) => {
      this.#write(level, `${this.name}: ${kind}: ${missed} messages suppressed`);
    });
    if (print) this.#write(level, `${this.name}: ${message}`);
  }

  // A log is the user's code. If it throws, that must not break the allocator in the middle of an operation.
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
   * @param show Makes its text, at each read.
   * @returns A function that takes this one away again, and says whether it was still there.
   * @throws {@link DmaExistsError} if there is one of that name.
   */
  addAttribute(name: string, show: AttributeShow): () => boolean {
    checkText('attribute name', name, /^[^/\0]+$/, 'a text: not empty, no slash');
    checkFunction('show', show);
    if (this.#attributes.has(name)) throw new DmaExistsError(`${this.name}: attribute ${name} exists`);
    // Wrapped, so that two attributes are never taken for one because they share a function.
    const own: AttributeShow = () => show();
    this.#attributes.set(name, own);
    return () => this.#attributes.get(name) === own && this.#attributes.delete(name);
  }

  /** Takes the attribute `name` away; false if there was none. */
  removeAttribute(name: string): boolean {
    return this.#attributes.delete(name);
  }

  /** Text of the attribute `name` as it would be read from sysfs, or undefined if there is none. */
  readAttribute(name: string): string | undefined {
    return this.#attributes.get(name)?.();
  }

  /** Names of the attributes there are now, oldest first. */
  attributeNames(): string[] {
    return [...this.#attributes.keys()];
  }

  /**
   * Has `release` called by the next {@link Device.detach} (Linux: `devm_add_action`).
   *
   * @returns A function that takes it back; it says whether the action was still waiting.
   */
  addAction(release: ReleaseAction): () => boolean {
    checkFunction('release', release);
    return this.#managed.add(release);
  }

  /** Has a resource disposed of by the next {@link Device.detach}, and returns it. */
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
   * The driver lets go of the device: managed resources are released, the last one first, each even if another
   * throws. The device can be used again afterwards, as by a driver that is bound anew.
   *
   * @throws {@link DmaReleaseError} after all were tried, if any of them threw.
   */
  detach(): void {
    this.#throwAll(this.#managed.releaseAll());
  }

  /**
   * For after a reset of the device, when it surely no longer writes to old blocks: takes back the memory of pools
   * that were destroyed while blocks were out.
   *
   * @returns How many pages were given back.
   * @throws {@link DmaReleaseError} after all were tried, if the memory source threw.
   */
  reclaim(): number {
    let pages = 0;
    const errors: unknown[] = [];
    for (const reclaim of [...this.#reclaims]) {
      // One of those before it may have taken it back.
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

  /** Registers who has memory to give back at {@link Device.reclaim}; returns a function that takes it back. */
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

/** The alignment that coherent memory of `size` bytes has: the smallest power-of-two number of pages that holds it. */
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

/** What of a source's answer breaks its promises, as `gave ...`; null if nothing does. */
function whatIsWrong(memory: unknown, size: number, alignment: number): string | null {
  if (typeof memory !== 'object' || memory === null) return describe(memory);
  const { dma, buffer, byteOffset } = memory as Partial<CoherentMemory>;
  if (!Number.isSafeInteger(dma) || dma! < 0 || dma! % alignment !== 0) {
    return `the address ${typeof dma === 'number' ? hex(dma) : describe(dma)}, no multiple of ${alignment}`;
  }
  const { byteLength } = (buffer ?? {}) as Partial<ArrayBuffer>;
  const holds =
    Number.isInteger(byteOffset) && byteOffset! >= 0 && byteOffset! % 8 === 0 && byteOffset! + size <= byteLength!;
  return holds ? null : `${hex(dma!)} with a wrong buffer or byteOffset`;
}
