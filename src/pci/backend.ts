/**
 * What a home of PCI functions (a QEMU machine, VFIO, an emulator of yours) implements. Drivers never see it: they
 * stand on `PciFunction`, which checks arguments and knows what a device that is gone looks like.
 *
 *     driver --> PciFunction: config, bars, interrupts, device --> PciBackend --> qtest pipe, VFIO, ...
 */
import { checkFunction, checkInteger, checkObject, isInstance, reading } from '../arguments.ts';
import { DmaArgumentError, isArray } from '../errors.ts';
import type { CoherentAllocator } from '../memory/coherent.ts';

/** Width of one register access, in bits. */
export type AccessWidth = 8 | 16 | 32 | 64;

/** How a function tells the driver that something happened; `poll`: it does not, and the driver looks now and then. */
export type InterruptKind = 'msix' | 'msi' | 'intx' | 'poll';

/** What a base address register decodes. */
export interface BarInfo {
  /** Number of the register, 0 to 5; of one of 64 bits, that of its lower half. */
  readonly index: number;
  /** Memory, or x86 port space. */
  readonly kind: 'memory' | 'io';
  /** Bytes: a power of two, 16 or more for memory and 4 or more for ports. */
  readonly size: number;
  /** Reads have no side effects (memory only). */
  readonly prefetchable: boolean;
  /** True for a memory register of 64 bits. */
  readonly is64: boolean;
}

/** The interrupts of one function in one home. */
export interface InterruptBackend {
  /** Which of the kinds that were asked for it is. */
  readonly kind: InterruptKind;
  /** How many there are, numbered from 0: 1 for INTx, up to 32 for MSI and 2048 for MSI-X (PCI 3.0, 6.8). */
  readonly vectors: number;
  /**
   * True where an interrupt is a level that stands until the driver satisfies the device (INTx: PCI 3.0, 2.2.6), so
   * that what was noticed earlier says nothing; false where each is an event of its own (MSI, MSI-X: PCI 3.0, 6.8).
   */
  readonly level: boolean;
  /**
   * The driver dealt with all that came before and will wait for more: unmasks, after all posted writes have taken
   * effect.
   *
   * @param vector From 0 to {@link InterruptBackend.vectors} - 1.
   * @returns true when an interrupt is pending already: the listener need not be told of it. Rejects when the function
   *   or its home is gone.
   */
  rearm(vector: number): Promise<boolean>;
  /**
   * Nobody waits any more, since a wait ended otherwise: what listening costs can be saved until the next
   * {@link InterruptBackend.rearm}, which says whether an interrupt came meanwhile.
   *
   * @param vector From 0 to {@link InterruptBackend.vectors} - 1.
   */
  disarm?(vector: number): void;
  /**
   * Tells a listener of each interrupt from now on. Called once, before the first {@link InterruptBackend.rearm}.
   *
   * @param listener Called with the vector's number; it does not throw.
   */
  listen(listener: (vector: number) => void): void;
  /** No more interrupts: the function is told to raise none (INTx: PCI 3.0, 6.2.2), and the listener is forgotten. */
  close(): Promise<void>;
}

/** The configuration space of a function, without any check whether a driver may still use the function. */
export interface RawConfigSpace {
  /** As {@link PciBackend.readConfig}, but it goes on reading after {@link PciBackend.removed} was aborted. */
  read(offset: number, width: 8 | 16 | 32): Promise<number>;
  /** As {@link PciBackend.writeConfig}, but it goes on writing after {@link PciBackend.removed} was aborted. */
  write(offset: number, width: 8 | 16 | 32, value: number): Promise<void>;
}

/**
 * One PCI function as its home gives it: to be implemented by homes, and made a {@link PciFunction} of by
 * `PciFunction.open`. Arguments were checked by the caller: offsets are in range and aligned, values are unsigned and
 * fit the width. Bytes lie in little-endian order, as everywhere in PCI (PCI 3.0, 6.1).
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
 * // An emulated function whose registers keep what is written to them.
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
 *   flush = async (): Promise<void> => {}; // nothing is under way
 *   openInterrupts = async (): Promise<null> => null; // drivers that accept `poll` get along
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
  /** The registers that decode anything, ascending by index. Known when the function is opened. */
  readonly bars: readonly BarInfo[];
  /** Where the function's coherent memory comes from. */
  readonly memory: CoherentAllocator;
  /**
   * Aborted when the driver has to let go of the function: it is gone, it failed, or the system requests it. The reason is an
   * `Error`, which every access of drivers fails with from then on. It says nothing about DMA: see {@link PciBackend.rawConfig}.
   */
  readonly removed: AbortSignal;
  /**
   * Configuration space for `PciFunction.stopDma` and `close`, which need it also after {@link PciBackend.removed} was aborted:
   * a function that the system requests goes on with its DMA until bus mastering is off. Reads give all ones when the function
   * is off the bus, which is proof that it does no DMA: never otherwise. Default: `readConfig` and `writeConfig`. Where those
   * reject after `removed`, the memory of a function that is removed is never released.
   */
  readonly rawConfig?: RawConfigSpace;

  /**
   * Reads configuration space, after all posted writes. All ones where nobody answers (PCI 3.0, 6.1).
   *
   * @param offset Bytes from its beginning: a multiple of the width, below {@link PciBackend.configSize}.
   * @param width Bits.
   * @returns The value, unsigned. Rejects with the reason of {@link PciBackend.removed} once that is aborted.
   */
  readConfig(offset: number, width: 8 | 16 | 32): Promise<number>;
  /**
   * Writes configuration space, after all posted writes. It is not posted itself (PCI 3.0, 3.2.5): resolves when the
   * function has the value.
   *
   * @param offset Bytes from its beginning: a multiple of the width, below {@link PciBackend.configSize}.
   * @param width Bits.
   * @param value Unsigned, below 2^`width`. Bits that can't be written are left alone by the function.
   */
  writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void>;
  /**
   * Reads a register, after all posted writes. All ones where nobody answers.
   *
   * @param bar `index` of one of {@link PciBackend.bars}.
   * @param offset Bytes from the beginning of the region: a multiple of the width, within its size.
   * @param width Bits.
   * @returns The value, unsigned. Rejects with the reason of {@link PciBackend.removed} once that is aborted, and with
   *   what went wrong with a posted write.
   */
  read(bar: number, offset: number, width: 8 | 16 | 32): Promise<number>;
  /**
   * {@link PciBackend.read} of 64 bits; of memory only. In one access where the home can, else in two of 32 bits.
   *
   * @param bar `index` of one of {@link PciBackend.bars}, of kind `memory`.
   * @param offset Bytes from the beginning of the region: a multiple of 8, within its size.
   */
  read64(bar: number, offset: number): Promise<bigint>;
  /**
   * Posts a write (PCI 3.0, 3.2.5). Writes arrive in the order of the calls. What goes wrong is told by the next
   * awaited call; to a function that is gone it vanishes.
   *
   * @param bar `index` of one of {@link PciBackend.bars}.
   * @param offset Bytes from the beginning of the region: a multiple of the width, within its size.
   * @param width Bits.
   * @param value Unsigned, below 2^`width`.
   */
  write(bar: number, offset: number, width: 8 | 16 | 32, value: number): void;
  /**
   * {@link PciBackend.write} of 64 bits; to memory only. In one access where the home can, else in two of 32 bits.
   *
   * @param bar `index` of one of {@link PciBackend.bars}, of kind `memory`.
   * @param offset Bytes from the beginning of the region: a multiple of 8, within its size.
   * @param value Unsigned, below 2^64.
   */
  write64(bar: number, offset: number, value: bigint): void;
  /** Resolves when all posted writes have arrived; rejects if one of them failed. */
  flush(): Promise<void>;
  /**
   * Switches on interrupts of the first kind that can be had.
   *
   * @param kinds What the driver can deal with, best first. `poll` is not among them: it needs no help of the home.
   * @param vectors How many the driver wants, 1 to 2048. Fewer may be given.
   * @returns null if none of the kinds can be had.
   */
  openInterrupts(kinds: readonly InterruptKind[], vectors: number): Promise<InterruptBackend | null>;
  /**
   * A reset by means of the home, instead of those that PCI offers (function-level reset: PCI Express 4.0, 6.6.2). What
   * the header of configuration space had is given back by the caller. Works also after {@link PciBackend.removed} was aborted.
   *
   * @returns true if it was done; DMA has then stopped. False when the home has no reset for the function. Rejects when the
   *   reset failed, which says nothing about DMA.
   */
  reset?(): Promise<boolean>;
  /**
   * Bus mastering was switched off while the device may have been at work: the home makes sure that none of the function's
   * transfers is under way any more. Not needed where a read of configuration space does, as on PCI, whose reads push posted
   * writes ahead of them.
   *
   * @returns a promise that rejects when that can't be made sure: the memory is then kept.
   */
  settle?(): Promise<void>;
  /**
   * Takes all memory out of the function's reach, whatever the function does: removes its IOMMU mappings. The last means of
   * `PciFunction.close`, for a function that nothing else stops; the function is of no use afterwards.
   *
   * @returns a promise that rejects when that can't be made sure: the memory is then kept.
   */
  isolate?(): Promise<void>;
  /**
   * The driver is done: the function is proven to do no DMA, and its memory was given back. Called once, also when the
   * function is gone; not called while the function may do DMA.
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

/** Throws `DmaArgumentError` unless `backend` has what every backend has. @internal */
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
