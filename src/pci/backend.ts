/**
 * The interface of a PCI backend: a QEMU machine, VFIO, or an emulator of your own. Drivers use `PciFunction` instead,
 * which checks arguments and detects absent devices.
 *
 *     driver --> PciFunction: config, bars, interrupts, device --> PciBackend --> qtest pipe, VFIO, ...
 */
import { checkFunction, checkInteger, checkObject, isInstance, reading } from '../arguments.ts';
import { DmaArgumentError, isArray } from '../errors.ts';
import type { CoherentAllocator } from '../memory/coherent.ts';

/** Width of one register access, in bits. */
export type AccessWidth = 8 | 16 | 32 | 64;

/** How a function signals events; `poll`: it does not, and the driver polls. */
export type InterruptKind = 'msix' | 'msi' | 'intx' | 'poll';

/** A base address register and the region that it decodes. */
export interface BarInfo {
  /** Number of the register, 0 to 5; of a 64-bit one, its lower half. */
  readonly index: number;
  /** Memory, or x86 port space. */
  readonly kind: 'memory' | 'io';
  /** Bytes: a power of two, 16 or more for memory and 4 or more for ports. */
  readonly size: number;
  /** Reads have no side effects (memory only). */
  readonly prefetchable: boolean;
  /** True for a 64-bit memory BAR. */
  readonly is64: boolean;
}

/** A backend's interrupts of one function. */
export interface InterruptBackend {
  /** The chosen kind among the requested ones. */
  readonly kind: InterruptKind;
  /** Number of vectors, numbered from 0: 1 for INTx, up to 32 for MSI and 2048 for MSI-X (PCI 3.0, 6.8). */
  readonly vectors: number;
  /**
   * True for level interrupts, which stay asserted until the driver services the device (INTx: PCI 3.0, 2.2.6). Past
   * notifications of a level are then stale. False for edge interrupts (MSI, MSI-X: PCI 3.0, 6.8).
   */
  readonly level: boolean;
  /**
   * Unmasks a vector after all posted writes have taken effect. The driver has serviced all earlier interrupts and will
   * wait for the next one.
   *
   * @param vector From 0 to {@link InterruptBackend.vectors} - 1.
   * @returns true when an interrupt is pending already; the listener need not be called for it. Rejects when the
   *   function or its backend has ended.
   */
  rearm(vector: number): Promise<boolean>;
  /**
   * Called when the last waiter of a vector stopped waiting without an interrupt. The backend may stop listening until
   * the next {@link InterruptBackend.rearm}. An interrupt that comes meanwhile is reported then: `rearm` returns true, or
   * the listener is called.
   *
   * @param vector From 0 to {@link InterruptBackend.vectors} - 1.
   */
  disarm?(vector: number): void;
  /**
   * Called before a wait times out: returns true if an interrupt came that was not reported, which then counts as
   * reported. Needed where interrupts reach the process only through the event loop.
   *
   * @param vector From 0 to {@link InterruptBackend.vectors} - 1.
   */
  take?(vector: number): boolean;
  /**
   * Registers the listener for all interrupts. Called once, before the first {@link InterruptBackend.rearm}.
   *
   * @param listener Called with the vector's number; never throws.
   */
  listen(listener: (vector: number) => void): void;
  /**
   * Disables the function's interrupts (INTx: PCI 3.0, 6.2.2) and drops the listener. Called once, before the function's
   * {@link PciBackend.close}.
   */
  close(): Promise<void>;
}

/** A function's configuration space without access checks. */
export interface RawConfigSpace {
  /** As {@link PciBackend.readConfig}, but also works after {@link PciBackend.removed} has aborted. */
  read(offset: number, width: 8 | 16 | 32): Promise<number>;
  /** As {@link PciBackend.writeConfig}, but also works after {@link PciBackend.removed} has aborted. */
  write(offset: number, width: 8 | 16 | 32, value: number): Promise<void>;
}

/**
 * A PCI backend: one PCI function on one platform. `PciFunction.open` makes a {@link PciFunction} of it. The caller
 * checks all arguments: offsets are in range and aligned, values are unsigned and fit the width. Byte order is
 * little-endian (PCI 3.0, 6.1).
 *
 * @example
 * ```ts
 * type Width = 8 | 16 | 32;
 * const get = (view: DataView, at: number, width: Width): number =>
 *   width === 8 ? view.getUint8(at) : width === 16 ? view.getUint16(at, true) : view.getUint32(at, true);
 * const set = (view: DataView, at: number, width: Width, value: number): void => {
 *   if (width === 8) view.setUint8(at, value);
 *   else if (width === 16) view.setUint16(at, value, true);
 *   else view.setUint32(at, value, true);
 * };
 *
 * // An emulated function with plain read-write registers.
 * class Scratchpad implements PciBackend {
 *   readonly address = '0000:00:05.0';
 *   readonly configSize = 256;
 *   readonly bars: readonly BarInfo[] = [{ index: 0, kind: 'memory', size: 16, prefetchable: false, is64: false }];
 *   readonly memory = new HeapMemory();
 *   readonly removed = new AbortController().signal;
 *   readonly #config = new DataView(new ArrayBuffer(256));
 *   readonly #registers = new DataView(new ArrayBuffer(16));
 *
 *   constructor() {
 *     this.#config.setUint32(PCI_CONFIG.vendorId, 0x11e8_1234, true); // device and vendor ID
 *   }
 *   readConfig = async (offset: number, width: Width): Promise<number> => get(this.#config, offset, width);
 *   writeConfig = async (offset: number, width: Width, value: number): Promise<void> =>
 *     set(this.#config, offset, width, value);
 *   read = async (_bar: number, offset: number, width: Width): Promise<number> => get(this.#registers, offset, width);
 *   read64 = async (_bar: number, offset: number): Promise<bigint> => this.#registers.getBigUint64(offset, true);
 *   write = (_bar: number, offset: number, width: Width, value: number): void =>
 *     set(this.#registers, offset, width, value);
 *   write64 = (_bar: number, offset: number, value: bigint): void => this.#registers.setBigUint64(offset, value, true);
 *   flush = async (): Promise<void> => {}; // writes take effect at once
 *   openInterrupts = async (): Promise<null> => null; // the driver must accept `poll`
 *   close = async (): Promise<void> => {};
 * }
 *
 * await using scratchpad = await PciFunction.open(new Scratchpad());
 * scratchpad.bar(0).write32(4, 0xcafe);
 * console.log(await scratchpad.bar(0).read16(4)); // 51966
 * ```
 */
export interface PciBackend {
  /** Domain, bus, device and function: `0000:00:04.0`. */
  readonly address: string;
  /** Bytes of configuration space: 256 or 4096. */
  readonly configSize: number;
  /** The implemented BARs, ascending by index. Known when the function is opened. */
  readonly bars: readonly BarInfo[];
  /** Allocates the function's coherent memory. */
  readonly memory: CoherentAllocator;
  /**
   * Aborted when the driver must release the function: it is gone, it failed, or the system requests its release. The
   * reason is an `Error`; drivers' later accesses fail with it. DMA may continue: see {@link PciBackend.rawConfig}.
   */
  readonly removed: AbortSignal;
  /**
   * Configuration space for `PciFunction.stopDma` and `close`, which need it after {@link PciBackend.removed} has
   * aborted too: a function whose release the system requests continues its DMA until bus mastering is off. Reads must
   * return all ones if and only if the function is off the bus, since that proves the absence of DMA. Default:
   * `readConfig` and `writeConfig`. If those reject after `removed`, the memory of a removed function is never released.
   */
  readonly rawConfig?: RawConfigSpace;

  /**
   * Reads configuration space, after all posted writes. Returns all ones if no device responds (PCI 3.0, 6.1).
   *
   * @param offset In bytes: a multiple of the width, below {@link PciBackend.configSize}.
   * @param width Bits.
   * @returns The value, unsigned. Rejects with the reason of {@link PciBackend.removed} after that has aborted.
   */
  readConfig(offset: number, width: 8 | 16 | 32): Promise<number>;
  /**
   * Writes configuration space, after all posted writes. The write itself is not posted (PCI 3.0, 3.2.5): resolves when
   * the function has received it.
   *
   * @param offset In bytes: a multiple of the width, below {@link PciBackend.configSize}.
   * @param width Bits.
   * @param value Unsigned, below 2^`width`. The function ignores writes to read-only bits.
   */
  writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void>;
  /**
   * Reads a register, after all posted writes. Returns all ones if no device responds.
   *
   * @param bar `index` of one of {@link PciBackend.bars}.
   * @param offset Bytes from the start of the region: a multiple of the width, within its size.
   * @param width Bits.
   * @returns The value, unsigned. Rejects with the reason of {@link PciBackend.removed} after that has aborted, and
   *   with the error of a posted write.
   */
  read(bar: number, offset: number, width: 8 | 16 | 32): Promise<number>;
  /**
   * {@link PciBackend.read} of 64 bits, memory BARs only. One access if the backend supports it, else two of 32 bits.
   *
   * @param bar `index` of one of {@link PciBackend.bars}, of kind `memory`.
   * @param offset Bytes from the start of the region: a multiple of 8, within its size.
   */
  read64(bar: number, offset: number): Promise<bigint>;
  /**
   * Posts a write (PCI 3.0, 3.2.5). Writes arrive in call order. The next awaited call reports an error. Writes to an
   * absent function have no effect.
   *
   * @param bar `index` of one of {@link PciBackend.bars}.
   * @param offset Bytes from the start of the region: a multiple of the width, within its size.
   * @param width Bits.
   * @param value Unsigned, below 2^`width`.
   */
  write(bar: number, offset: number, width: 8 | 16 | 32, value: number): void;
  /**
   * {@link PciBackend.write} of 64 bits, memory BARs only. One access if the backend supports it, else two of 32 bits.
   *
   * @param bar `index` of one of {@link PciBackend.bars}, of kind `memory`.
   * @param offset Bytes from the start of the region: a multiple of 8, within its size.
   * @param value Unsigned, below 2^64.
   */
  write64(bar: number, offset: number, value: bigint): void;
  /** Resolves when all posted writes have reached the device; rejects if one of them failed. */
  flush(): Promise<void>;
  /**
   * Enables interrupts of the first available kind.
   *
   * @param kinds The kinds that the driver supports, best first; never `poll`, which needs no backend.
   * @param vectors Number of vectors requested, 1 to 2048. The backend may provide fewer.
   * @returns null if none of the kinds is available.
   */
  openInterrupts(kinds: readonly InterruptKind[], vectors: number): Promise<InterruptBackend | null>;
  /**
   * Resets the function by the platform's own means, in place of PCI's (function-level reset: PCI Express 4.0, 6.6.2).
   * The caller restores the configuration header. Also works after {@link PciBackend.removed} has aborted.
   *
   * @returns true if the reset completed; DMA has then stopped. False if the platform has no reset for this function.
   *   Rejects when the reset failed; DMA may then continue.
   */
  reset?(): Promise<boolean>;
  /**
   * Completes all transfers in flight after bus mastering was disabled. Omit it where a read of configuration space
   * suffices, as on PCI: the read completes after all posted writes of the function.
   *
   * @returns a promise that rejects when completion is not certain: the memory is then kept.
   */
  settle?(): Promise<void>;
  /**
   * Makes all memory inaccessible to the function, whatever its state, by removing its IOMMU mappings. The last resort
   * of `PciFunction.close` if nothing else stops DMA. The function is unusable afterwards.
   *
   * @returns a promise that rejects when this is not certain: the memory is then kept.
   */
  isolate?(): Promise<void>;
  /**
   * Releases the function and its interrupts. Called once, after DMA was proven stopped and the memory was freed; also
   * for an absent function. No other call follows. An earlier `openInterrupts`, or a close of interrupts, that took
   * longer than 10 seconds may still be in progress.
   */
  close(): Promise<void>;
}

const METHODS = [
  'readConfig',
  'writeConfig',
  'read',
  'read64',
  'write',
  'write64',
  'flush',
  'openInterrupts',
  'close',
] as const;

/** Checks the members that every backend needs. @throws `DmaArgumentError` @internal */
export function checkBackend(backend: PciBackend): void {
  const accepted = 'a PciBackend';
  checkObject('backend', backend, accepted);
  reading('backend', backend, accepted, () => {
    for (const name of METHODS)
      checkFunction(`backend.${name}`, (backend as { readonly [K in keyof PciBackend]?: unknown })[name]);
    const { address, configSize, bars, removed } = backend;
    if (typeof address !== 'string') throw new DmaArgumentError('backend.address', address, 'a PCI address');
    checkInteger('backend.configSize', configSize, 256, 4096);
    if (!isInstance(removed, AbortSignal)) throw new DmaArgumentError('backend.removed', removed, 'an AbortSignal');
    if (!isArray(bars)) throw new DmaArgumentError('backend.bars', bars, 'an array');
    for (const bar of bars as readonly BarInfo[]) {
      checkObject('backend.bars', bar);
      checkInteger('backend.bars.index', bar.index, 0, 5);
      checkInteger('backend.bars.size', bar.size, 1, Number.MAX_SAFE_INTEGER);
      if (bar.kind !== 'memory' && bar.kind !== 'io')
        throw new DmaArgumentError('backend.bars.kind', bar.kind, 'memory or io');
    }
  });
}
