/** A PCI device of this system, owned by this process through VFIO. */
import { type OptionNames, readOptions } from '../arguments.ts';
import { DmaArgumentError } from '../errors.ts';
import { PciFunction, type PciOpenOptions } from '../pci/function.ts';
import { PCI_CAPABILITY } from '../pci/registers.ts';
import { VfioBackend } from './vfio-backend.ts';
import { VfioContainer } from './vfio-container.ts';
import { MEMORY_OPTIONS, VfioMemory, type VfioMemoryOptions } from './vfio-memory.ts';

/** Options of {@link VfioDevice.open}. */
export interface VfioOpenOptions extends Omit<PciOpenOptions, 'memory'> {
  /** Size and kind of its memory. */
  readonly memory?: VfioMemoryOptions;
}

const OPEN_OPTIONS: OptionNames<VfioOpenOptions> = { log: true, dmaMask: true, memory: true };
/** Passed by {@link VfioDevice.open}: `private` does not keep JavaScript from calling the constructor. */
const CONSTRUCTOR_KEY: unique symbol = Symbol('VfioDevice');

/** Device Control: Enable No Snoop (PCI Express 4.0, 7.5.3.4). */
const DEVICE_CONTROL = 8;
const NO_SNOOP = 1 << 11;

/**
 * A PCI function that this process drives through the kernel's VFIO. The IOMMU confines the device to the memory of its
 * pools. However the process ends, the kernel then stops the device and frees the memory.
 *
 * Bind the function to vfio-pci first (`dmapool bind ADDRESS`), and give this user access to the file of its IOMMU
 * group, `/dev/vfio/N`. Each device has its own container. Two functions of one group can't be open at the same time.
 *
 * @example
 * ```ts
 * const [address] = process.argv.slice(2); // such as 0000:3b:00.0
 * if (address !== undefined) {
 *   const vfio = await VfioDevice.open(address, { memory: { size: 16 * 2 ** 20 } });
 *   try {
 *     vfio.pci.device.setDmaMask(dmaBitMask(64));
 *     const pool = DmaPool.createManaged('descriptors', vfio.pci.device, { size: 64 });
 *     const version = await vfio.pci.bar(0).read32(0x08);
 *     await vfio.pci.enableBusMaster();
 *   } finally {
 *     await vfio.close();
 *   }
 * }
 * ```
 */
export class VfioDevice {
  /** The function, for drivers. Its `close` closes the whole device. */
  readonly pci: PciFunction;
  /** The device's memory. */
  readonly memory: VfioMemory;
  /** Number of its IOMMU group. */
  readonly group: number;
  /**
   * True when the IOMMU makes every access of the device coherent, No Snoop requests included. Otherwise
   * {@link VfioDevice.open} cleared the device's Enable No Snoop bit.
   */
  readonly snoopEnforced: boolean;
  /** Usable IOVAs: first and last byte, ascending; undefined when the kernel does not report them. */
  readonly iovaRanges: readonly { readonly first: number; readonly last: number }[] | undefined;
  /** True when the kernel can reset the function; otherwise the driver must, through the device's registers. */
  readonly canReset: boolean;

  private constructor(key: symbol, pci: PciFunction, container: VfioContainer, backend: VfioBackend) {
    if (key !== CONSTRUCTOR_KEY) throw new DmaArgumentError('new VfioDevice', key, 'VfioDevice.open() instead');
    this.pci = pci;
    this.memory = backend.memory;
    this.group = container.group;
    this.snoopEnforced = container.snoopEnforced;
    this.iovaRanges = container.iommu.iovaRanges;
    this.canReset = backend.canReset;
  }

  /**
   * Opens a function. Afterwards its registers decode, bus mastering is off, and no interrupt is enabled.
   *
   * @param address With its domain: `0000:3b:00.0`.
   * @param options Memory of the device, and options of `PciFunction.open`.
   * @throws {@link VfioError} with the obstacle and the remedy.
   * @throws `PciError` `ERR_DMAPOOL_PCI_NOT_FOUND`; `ERR_DMAPOOL_PCI_BUSY` when the function, or another of its group,
   *   is open already.
   * @throws {@link HugepageError} when the options require hugepages and too few are free.
   * @throws `DmaArgumentError` @throws `DmaDependencyError` @throws {@link SystemCallError}
   */
  static async open(address: string, options: VfioOpenOptions = {}): Promise<VfioDevice> {
    const { memory: wanted = {}, ...pciOptions } = readOptions('options', options, OPEN_OPTIONS);
    // Check the options before opening anything.
    const memoryOptions = readOptions('memory', wanted, MEMORY_OPTIONS);
    const container = new VfioContainer(address);
    let memory: VfioMemory | undefined;
    let backend: VfioBackend;
    try {
      const { iovaRanges, pageSize } = container.iommu;
      memory = new VfioMemory({ address, mapper: container, iovaRanges, pageSize }, memoryOptions);
      backend = new VfioBackend(container, memory);
    } catch (error) {
      // Container first: its close unmaps all memory from the device.
      container.close();
      memory?.close();
      throw error;
    }
    try {
      const pci = await PciFunction.open(backend, pciOptions);
      if (!container.snoopEnforced) await disableNoSnoop(pci);
      return new VfioDevice(CONSTRUCTOR_KEY, pci, container, backend);
    } catch (error) {
      await backend.close();
      throw error;
    }
  }

  /**
   * Closes the function, as `pci.close()`: disables bus mastering and interrupts, destroys the pools, resets the
   * device, unmaps its memory and releases the group. A second call does nothing.
   *
   * @throws `DmaReleaseError` with all failures, after every step was tried.
   */
  close(): Promise<void> {
    return this.pci.close();
  }

  /** {@link VfioDevice.close}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Clears Enable No Snoop: No Snoop accesses bypass the CPU caches, so memory would not be coherent. */
async function disableNoSnoop(pci: PciFunction): Promise<void> {
  const express = await pci.config.findCapability(PCI_CAPABILITY.pciExpress);
  await express?.update16(DEVICE_CONTROL, 0, NO_SNOOP);
}
