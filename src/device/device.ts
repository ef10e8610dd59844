import { ceilPowerOfTwo, checkInteger, INT_MAX } from '../arguments.ts';
import { DmaArgumentError, DmaMaskError, DmaReleaseError, DmaSourceError, hex } from '../errors.ts';
import type { CoherentAllocator, CoherentMemory, DmaTarget } from '../memory/coherent.ts';
import { defaultMemory } from '../memory/heap.ts';
import { Attributes, type AttributeShow } from './attributes.ts';
import { consoleLog, type DeviceLog, RateLimiter } from './log.ts';
import { ManagedResources, type ReleaseAction } from './managed.ts';
import { DMA_BIT_MASK, NUMA_NO_NODE } from './mask.ts';

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
  /** Highest address the device reaches. Default: `DMA_BIT_MASK(32)`, as for a fresh device in Linux. */
  readonly dmaMask?: number;
  /** NUMA node the device is attached to, or -1 for none in particular (the default). */
  readonly numaNode?: number;
  /** Where its messages go. Default: the console. Messages are rate-limited before they get there. */
  readonly log?: DeviceLog;
}

const MAX_NODE = 1023;

/**
 * Who does the DMA: a name, what addresses it reaches, where its memory comes from, and what is released with it.
 *
 * A device knows nothing of pools: a pool adds itself, as in Linux.
 *
 * @example
 * ```ts
 * using device = new Device({ name: '0000:00:02.0', dmaMask: DMA_BIT_MASK(64) });
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
  readonly #log: DeviceLog;
  readonly #limiter = new RateLimiter();
  readonly #attributes: Attributes;
  readonly #managed = new ManagedResources();
  readonly #reclaims = new Set<() => number>();

  /** @throws {@link DmaArgumentError} when an option is not of its kind or range. */
  constructor(options: DeviceOptions) {
    const { name, parent, dmaMask = DMA_BIT_MASK(32), numaNode = NUMA_NO_NODE } = options;
    if (typeof name !== 'string' || name === '' || name.includes('/') || name.includes('\0')) {
      throw new DmaArgumentError('name', name, 'a device name: not empty, no slash');
    }
    if (parent !== undefined && !(parent instanceof Device)) throw new DmaArgumentError('parent', parent, 'a Device');
    checkInteger('dmaMask', dmaMask, 1, Number.MAX_SAFE_INTEGER);
    checkInteger('numaNode', numaNode, NUMA_NO_NODE, MAX_NODE);
    this.name = name;
    this.parent = parent ?? null;
    this.path = options.path ?? `${parent?.path ?? '/sys/devices'}/${name}`;
    this.memory = options.memory ?? defaultMemory();
    this.numaNode = numaNode;
    this.#dmaMask = dmaMask;
    this.#log = options.log ?? consoleLog;
    this.#attributes = new Attributes(name);
  }

  /** The highest address the device reaches. */
  get dmaMask(): number {
    return this.#dmaMask;
  }

  /**
   * Says anew what the device reaches (Linux: `dma_set_mask_and_coherent`). Memory it has already stays as it is.
   *
   * @param mask Highest address, 1 to `Number.MAX_SAFE_INTEGER`; see {@link DMA_BIT_MASK}.
   * @throws {@link DmaArgumentError}
   */
  setDmaMask(mask: number): void {
    checkInteger('dmaMask', mask, 1, Number.MAX_SAFE_INTEGER);
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
    checkInteger('size', size, 1, INT_MAX);
    checkInteger('node', node, NUMA_NO_NODE, MAX_NODE);
    const memory = this.memory.allocCoherent({ device: this, size, node });
    if (memory === null) return null;
    const { dma } = memory;
    const alignment = naturalAlignment(size, this.memory.pageSize);
    if (!Number.isSafeInteger(dma) || dma % alignment !== 0) {
      this.memory.freeCoherent(memory);
      throw new DmaSourceError(
        `${this.name}: memory source ${this.memory.name} gave ${hex(dma)} for ${String(size)} bytes, ` +
          `which is not aligned to ${String(alignment)}`,
      );
    }
    if (dma + size - 1 > this.#dmaMask) {
      this.memory.freeCoherent(memory);
      throw new DmaMaskError(this.name, dma, size, this.#dmaMask);
    }
    return memory;
  }

  /** Gives memory from {@link Device.allocCoherent} back. @throws {@link DmaMappingError} for anything else. */
  freeCoherent(memory: CoherentMemory): void {
    this.memory.freeCoherent(memory);
  }

  /**
   * Writes to the device's log, the device's name before the message. Of each kind of message at most 10 in
   * 5 seconds get through; how many did not is said afterwards (Linux: `dev_err_ratelimited`).
   */
  report(level: keyof DeviceLog, kind: string, message: string): void {
    const print = this.#limiter.allows(kind, (missed) => {
      this.#write(level, `${this.name}: ${kind}: ${String(missed)} messages suppressed`);
    });
    if (print) this.#write(level, `${this.name}: ${message}`);
  }

  // A log is the user's code. If it throws, that must not break the allocator in the middle of an operation.
  #write(level: keyof DeviceLog, message: string): void {
    try {
      this.#log[level](message);
    } catch (error) {
      consoleLog.error(`${this.name}: the log threw ${String(error)}; message was: ${message}`);
    }
  }

  /** Adds an attribute (Linux: `device_create_file`). @throws {@link DmaExistsError} if there is one of that name. */
  addAttribute(name: string, show: AttributeShow): void {
    this.#attributes.add(name, show);
  }

  /** Takes an attribute away; false if there was none. */
  removeAttribute(name: string): boolean {
    return this.#attributes.remove(name);
  }

  /** Text of an attribute as it would be read from sysfs, or undefined if there is none of that name. */
  readAttribute(name: string): string | undefined {
    return this.#attributes.read(name);
  }

  /** Names of the attributes there are now, oldest first. */
  attributeNames(): string[] {
    return this.#attributes.names();
  }

  /**
   * Has `release` called by the next {@link Device.detach} (Linux: `devm_add_action`).
   *
   * @returns A function that takes it back; it says whether the action was still waiting.
   */
  addAction(release: ReleaseAction): () => boolean {
    if (typeof release !== 'function') throw new DmaArgumentError('release', release, 'a function');
    return this.#managed.add(release);
  }

  /** Has a resource disposed of by the next {@link Device.detach}, and returns it. */
  manage<T extends Disposable>(resource: T): T {
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
    const errors = this.#managed.releaseAll();
    if (errors.length > 0) {
      throw new DmaReleaseError(`${this.name}: ${String(errors.length)} managed resources failed to release`, errors);
    }
  }

  /**
   * For after a reset of the device, when it surely no longer writes to old blocks: takes back the memory of pools
   * that were destroyed while blocks were out.
   *
   * @returns How many pages were given back.
   */
  reclaim(): number {
    let pages = 0;
    for (const reclaim of [...this.#reclaims]) {
      this.#reclaims.delete(reclaim);
      pages += reclaim();
    }
    return pages;
  }

  /** Registers who has memory to give back at {@link Device.reclaim}; returns a function that takes it back. */
  onReclaim(reclaim: () => number): () => void {
    this.#reclaims.add(reclaim);
    return () => {
      this.#reclaims.delete(reclaim);
    };
  }

  /** {@link Device.detach}, for `using`. */
  [Symbol.dispose](): void {
    this.detach();
  }
}

/** The alignment that coherent memory of `size` bytes has: the smallest power-of-two number of pages that holds it. */
export function naturalAlignment(size: number, pageSize: number): number {
  return Math.max(pageSize, ceilPowerOfTwo(size));
}
