/**
 * What a home of PCI functions (a QEMU machine, VFIO, an emulator of yours) implements. Drivers never see it: they
 * stand on `PciFunction`, which checks arguments and knows what a device that is gone looks like.
 *
 *     driver --> PciFunction: config, bars, interrupts, device --> PciBackend --> qtest pipe, VFIO, ...
 */
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
  /** Which kind they are. */
  readonly kind: InterruptKind;
  /** How many there are, numbered from 0. */
  readonly vectors: number;
  /**
   * True where an interrupt is a level that stands until the driver satisfies the device (INTx), so that what was
   * noticed earlier says nothing; false where each is an event of its own (MSI, MSI-X).
   */
  readonly level: boolean;
  /**
   * The driver dealt with all that came before on `vector` and will wait for more: unmasks, after all posted writes have taken
   * effect. Resolves to true when an interrupt is pending already.
   */
  rearm(vector: number): Promise<boolean>;
  /** Calls `listener` with the number of each interrupt that comes. There is one listener. */
  listen(listener: (vector: number) => void): void;
  /** No more interrupts. */
  close(): Promise<void>;
}

/** One PCI function as its home gives it. Arguments were checked by the caller: offsets are in range and aligned. */
export interface PciBackend {
  /** Domain, bus, device and function: `0000:00:04.0`. */
  readonly address: string;
  /** Bytes of configuration space: 256 or 4096. */
  readonly configSize: number;
  /** The registers that decode anything, ascending by index. Known when the function is opened. */
  readonly bars: readonly BarInfo[];
  /** Where the function's coherent memory comes from. */
  readonly memory: CoherentAllocator;
  /** Aborted when the function goes away, with an `Error` as its reason that every access fails with from then on. */
  readonly removed: AbortSignal;

  /** Reads `width` bits of configuration space at `offset`. */
  readConfig(offset: number, width: 8 | 16 | 32): Promise<number>;
  /** Writes `value` to the `width` bits of configuration space at `offset`; resolves when it is there. */
  writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void>;
  /** Reads `width` bits at `offset` of the region `bar`, after all posted writes. */
  read(bar: number, offset: number, width: 8 | 16 | 32): Promise<number>;
  /** Reads 64 bits at `offset` of the region `bar`, after all posted writes. */
  read64(bar: number, offset: number): Promise<bigint>;
  /**
   * Posts a write of `value` to the `width` bits at `offset` of the region `bar`. Writes arrive in the order of the calls.
   * What goes wrong is told by the next awaited call.
   */
  write(bar: number, offset: number, width: 8 | 16 | 32, value: number): void;
  /** Posts a write of `value` to the 64 bits at `offset` of the region `bar`. */
  write64(bar: number, offset: number, value: bigint): void;
  /** Resolves when all posted writes have arrived. */
  flush(): Promise<void>;
  /** `vectors` interrupts, or fewer, of the first of `kinds` that can be had; null if none can. `poll` is not asked for. */
  openInterrupts(kinds: readonly InterruptKind[], vectors: number): Promise<InterruptBackend | null>;
  /** A reset by means of the home, instead of those that PCI offers. True if it was done. */
  reset?(): Promise<boolean>;
  /** The driver is done: bus mastering is off and its memory was given back. */
  close(): Promise<void>;
}
