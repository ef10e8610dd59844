/** A PCI device of this system in the hands of this process. */
import { type OptionNames, readOptions } from '../arguments.ts';
import { DmaArgumentError } from '../errors.ts';
import { PciFunction, type PciOpenOptions } from '../pci/function.ts';
import { PCI_CAPABILITY } from '../pci/registers.ts';
import { VfioBackend } from './vfio-backend.ts';
import { VfioContainer } from './vfio-container.ts';
import { MEMORY_OPTIONS, VfioMemory, type VfioMemoryOptions } from './vfio-memory.ts';

/** How to open a device. */
export interface VfioOpenOptions extends Omit<PciOpenOptions, 'memory'> {
  /** How much memory it may be given, and of what. */
  readonly memory?: VfioMemoryOptions;
}

const OPEN_OPTIONS: OptionNames<VfioOpenOptions> = { log: true, dmaMask: true, memory: true };
/** Given by {@link VfioDevice.open}: JavaScript can call a private constructor. */
const MAKING: unique symbol = Symbol('making a device');

/** Device Control: Enable No Snoop (PCI Express 4.0, 7.5.3.4). */
const DEVICE_CONTROL = 8;
const NO_SNOOP = 1 << 11;

/**
 * A PCI function that this process drives through the kernel's VFIO, with memory behind an IOMMU: the device reaches the
 * memory that its pools have, and nothing else. Whatever becomes of the process, the kernel then stops the device and
 * takes the memory back.
 *
 * The function must be in the hands of vfio-pci (`dmapool bind ADDRESS`), and the file of its IOMMU group, `/dev/vfio/N`,
 * open to this user. Each device has a container of its own. Two functions of one group can't be opened at the same time.
 *
 * @example
 * ```ts
 * const [address] = process.argv.slice(2); // such as 0000:3b:00.0
 * if (address !== undefined) {
 *   const vfio = await VfioDevice.open(address, { memory: { size: 16 * 2 ** 20 } });
 *   try {
 *     vfio.pci.device.setDmaMask(DMA_BIT_MASK(64));
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
  /** The function: what drivers stand on. Its `close` closes all of this. */
  readonly pci: PciFunction;
  /** The memory that it can be given. */
  readonly memory: VfioMemory;
  /** Number of its IOMMU group. */
  readonly group: number;
  /**
   * True when the IOMMU makes the device's accesses coherent whatever it asks for. Where it does not, the device's right
   * to ask (Enable No Snoop) was taken from it when it was opened.
   */
  readonly snoopEnforced: boolean;
  /** Where its DMA addresses may be: first and last byte, ascending; undefined when the kernel does not say. */
  readonly iovaRanges: readonly { readonly first: number; readonly last: number }[] | undefined;
  /** True when the kernel can reset it; else a driver must, by the device's own registers. */
  readonly canReset: boolean;

  private constructor(key: symbol, pci: PciFunction, container: VfioContainer, backend: VfioBackend) {
    if (key !== MAKING) throw new DmaArgumentError('new VfioDevice', key, 'VfioDevice.open() in its place');
    this.pci = pci;
    this.memory = backend.memory;
    this.group = container.group;
    this.snoopEnforced = container.snoopEnforced;
    this.iovaRanges = container.iommu.iovaRanges;
    this.canReset = backend.canReset;
  }

  /**
   * Opens a function, with its registers decoding, bus mastering off, and no interrupts.
   *
   * @param address With its domain: `0000:3b:00.0`.
   * @param options Its memory, and what the function's device is to be. Default: ordinary memory, locked.
   * @throws {@link VfioError} with what stands in the way, and what to do.
   * @throws `PciError` `ERR_DMAPOOL_PCI_NOT_FOUND`; `ERR_DMAPOOL_PCI_BUSY` when somebody has it open, or another
   *   function of its group.
   * @throws {@link HugepageError} when hugepages are asked for and there are too few.
   * @throws `DmaArgumentError` @throws `DmaDependencyError` @throws {@link SystemCallError}
   */
  static async open(address: string, options: VfioOpenOptions = {}): Promise<VfioDevice> {
    const { memory: wanted = {}, ...pciOptions } = readOptions('options', options, OPEN_OPTIONS);
    // Before anything of the system is opened.
    const memoryOptions = readOptions('memory', wanted, MEMORY_OPTIONS);
    const container = new VfioContainer(address);
    let memory: VfioMemory | undefined;
    let backend: VfioBackend;
    try {
      const { iovaRanges, pageSize } = container.iommu;
      memory = new VfioMemory({ address, mapper: container, iovaRanges, pageSize }, memoryOptions);
      backend = new VfioBackend(container, memory);
    } catch (error) {
      // First the container, which takes all memory from the device.
      container.close();
      memory?.close();
      throw error;
    }
    try {
      const pci = await PciFunction.open(backend, pciOptions);
      if (!container.snoopEnforced) await forbidNoSnoop(pci);
      return new VfioDevice(MAKING, pci, container, backend);
    } catch (error) {
      await backend.close();
      throw error;
    }
  }

  /**
   * The driver is done, as `pci.close()`: bus mastering off, interrupts closed, pools destroyed, the device reset, its
   * memory taken from it and then from the process, and the group given up. Closing twice is fine.
   *
   * @throws `DmaReleaseError` after all was tried, with what failed.
   */
  close(): Promise<void> {
    return this.pci.close();
  }

  /** {@link VfioDevice.close}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** A device may ask for accesses that bypass the processor's caches, and coherent memory would not be. */
async function forbidNoSnoop(pci: PciFunction): Promise<void> {
  const express = await pci.config.findCapability(PCI_CAPABILITY.pciExpress);
  if (express !== null) await pci.config.update16(express.offset + DEVICE_CONTROL, 0, NO_SNOOP);
}
