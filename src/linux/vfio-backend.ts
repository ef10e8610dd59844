/** PCI backend for a function of this system, through VFIO. */
import { closeSync, readSync, writeSync } from 'node:fs';
import { DmaReleaseError } from '../device/errors.ts';
import type { BarInfo, InterruptBackend, InterruptKind, PciBackend, RawConfigSpace } from '../pci/backend.ts';
import { PciError } from '../pci/error.ts';
import { CONVENTIONAL_CONFIG_SIZE, PCI_BARS, PCI_CAPABILITY, PCI_COMMAND, PCI_CONFIG } from '../pci/registers.ts';
import { SystemCallError } from './error.ts';
import { EventCounter } from './event-counter.ts';
import { libc } from './libc.ts';
import {
  CONFIG_REGION,
  deviceInfo,
  type RegionInfo,
  regionInfo,
  setTriggers,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
  VFIO_IRQ,
} from './vfio-abi.ts';
import type { VfioContainer } from './vfio-container.ts';
import { VfioInterrupts } from './vfio-interrupts.ts';
import type { VfioMemory } from './vfio-memory.ts';
import { VfioRegion } from './vfio-region.ts';

/** Bytes of a PCI Express configuration space. */
const EXPRESS_CONFIG_SIZE = 4096;
/** Power Management Control/Status: offset in the capability; both state bits set mean D3 (PCI PM 1.2, 3.2.4). */
const POWER_STATE = 4;
const POWER_STATE_MASK = 3;
/** Bits of a base address register (PCI 3.0, 6.2.5.1). */
const BAR_IO = 1;
const BAR_64 = 4;
const BAR_PREFETCHABLE = 8;

/** Value of a 32-bit read from a device that is off the bus. */
const ALL_ONES = 0xffff_ffff;

export class VfioBackend implements PciBackend {
  readonly address: string;
  readonly configSize: number;
  readonly bars: readonly BarInfo[];
  readonly memory: VfioMemory;
  /** True when the kernel can reset the device. */
  readonly canReset: boolean;
  readonly #container: VfioContainer;
  readonly #fd: number;
  readonly #config: RegionInfo;
  readonly #regions: (VfioRegion | undefined)[] = [];
  /** True for I/O BARs. */
  readonly #ports: boolean[] = [];
  readonly #removed = new AbortController();
  readonly #bytes = Buffer.alloc(4);
  /** Offset of the power state in configuration space, or -1. */
  #powerState = -1;
  /**
   * False while the function does not decode its memory addresses. An access to mapped registers would then raise
   * SIGBUS, so reads return all ones, as on the bus.
   */
  #decoding = true;
  /** True while posted writes may be in flight. */
  #posted = false;
  #failure: Error | null = null;
  readonly #events: EventCounter[] = [];
  #closed = false;

  /**
   * The backend's `close` closes container and memory. If the constructor throws, the caller must close them.
   *
   * @throws {@link SystemCallError}
   */
  constructor(container: VfioContainer, memory: VfioMemory) {
    this.address = container.device.address;
    this.memory = memory;
    this.#container = container;
    this.#fd = container.openDevice();
    try {
      this.canReset = deviceInfo(this.#request(VFIO_DEVICE_GET_INFO, "can't read its properties")).canReset;
      this.#config = this.#regionInfo(CONFIG_REGION);
      this.configSize = this.#config.size >= EXPRESS_CONFIG_SIZE ? EXPRESS_CONFIG_SIZE : CONVENTIONAL_CONFIG_SIZE;
      this.bars = this.#openBars();
      this.#powerState = this.#findPowerState();
      this.#updateDecoding();
      this.#watchEvents();
    } catch (error) {
      this.#closeFiles();
      throw error;
    }
  }

  /** Works after `removed` has aborted: a device whose release was requested, or that failed, may still do DMA. */
  readonly rawConfig: RawConfigSpace = {
    // eslint-disable-next-line @typescript-eslint/require-await -- turns a throw into a rejection
    read: async (offset, width) => {
      this.#checkOpen();
      return this.#readDevice(offset, width);
    },
    // eslint-disable-next-line @typescript-eslint/require-await -- as above
    write: async (offset, width, value) => {
      this.#checkOpen();
      this.#writeDevice(offset, width, value);
    },
  };

  get removed(): AbortSignal {
    return this.#removed.signal;
  }

  /** File descriptor of the device. */
  get fd(): number {
    return this.#fd;
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- as above
  async readConfig(offset: number, width: 8 | 16 | 32): Promise<number> {
    this.#guard();
    return this.#readDevice(offset, width);
  }

  /** Returns all ones when the device is off the bus. */
  #readDevice(offset: number, width: 8 | 16 | 32): number {
    try {
      const value = this.#readConfig(offset, width >> 3);
      // The kernel answers reads of vendor and device ID from a cache. Callers read them to detect an absent device, so read
      // the device itself too.
      if (offset < PCI_CONFIG.command && this.#readFromDevice() === ALL_ONES) return 2 ** width - 1;
      return value;
    } catch (error) {
      // The kernel has marked the device disconnected.
      if ((error as NodeJS.ErrnoException).code === 'ENODEV') return 2 ** width - 1;
      throw error;
    }
  }

  /**
   * Reads a register that the kernel does not emulate. By PCI ordering the read completes after all posted writes
   * (PCI Express 4.0, 2.4.1).
   */
  #readFromDevice(): number {
    return this.#readConfig(PCI_CONFIG.revision, 4);
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- as above
  async writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    this.#guard();
    this.#writeDevice(offset, width, value);
  }

  #writeDevice(offset: number, width: 8 | 16 | 32, value: number): void {
    const length = width >> 3;
    const covers = (register: number): boolean => register >= offset && register < offset + length;
    // Stop direct accesses before decoding can end; re-read the state afterwards.
    if (covers(PCI_CONFIG.command) || (this.#powerState !== -1 && covers(this.#powerState))) this.#decoding = false;
    this.#writeConfig(offset, length, value);
    if (!this.#decoding) this.#updateDecoding();
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- as above
  async read(bar: number, offset: number, width: 8 | 16 | 32): Promise<number> {
    this.#guard();
    if (!this.#decodes(bar)) return 2 ** width - 1;
    return this.#regions[bar]!.read(offset, width);
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- as above
  async read64(bar: number, offset: number): Promise<bigint> {
    this.#guard();
    if (!this.#decodes(bar)) return 2n ** 64n - 1n;
    return this.#regions[bar]!.read64(offset);
  }

  write(bar: number, offset: number, width: 8 | 16 | 32, value: number): void {
    if (!this.#decodes(bar) || this.removed.aborted) return;
    this.#posted = true;
    try {
      this.#regions[bar]!.write(offset, width, value);
    } catch (error) {
      this.#failure ??= error as Error;
    }
  }

  write64(bar: number, offset: number, value: bigint): void {
    if (!this.#decodes(bar) || this.removed.aborted) return;
    this.#posted = true;
    try {
      this.#regions[bar]!.write64(offset, value);
    } catch (error) {
      this.#failure ??= error as Error;
    }
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- as above
  async flush(): Promise<void> {
    this.#guard();
    if (!this.#posted) return;
    this.#posted = false;
    this.#readFromDevice();
  }

  openInterrupts(kinds: readonly InterruptKind[], vectors: number): Promise<InterruptBackend | null> {
    for (const kind of kinds) {
      if (kind === 'poll') continue;
      const opened = VfioInterrupts.open(this, kind, vectors);
      if (opened !== null) return Promise.resolve(opened);
    }
    return Promise.resolve(null);
  }

  /** Resets through the kernel, which picks a method for the device. Returns false if it has none. */
  // eslint-disable-next-line @typescript-eslint/require-await -- as above
  async reset(): Promise<boolean> {
    this.#checkOpen();
    return this.#reset();
  }

  /** Removes the IOMMU mappings, then unmaps the memory from the process. */
  // eslint-disable-next-line @typescript-eslint/require-await -- as above
  async isolate(): Promise<void> {
    this.memory.close();
  }

  #reset(): boolean {
    if (!this.canReset) return false;
    libc().ioctl(this.#fd, VFIO_DEVICE_RESET, 0, `${this.address}: can't reset it`);
    this.#updateDecoding();
    return true;
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- as above
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const errors: unknown[] = [];
    const attempt = (action: () => void): void => {
      try {
        action();
      } catch (error) {
        errors.push(error);
      }
    };
    // PciFunction has done this, unless `PciFunction.open` failed.
    attempt(() => {
      const command = this.#readConfig(PCI_CONFIG.command, 2);
      this.#writeConfig(PCI_CONFIG.command, 2, command & ~PCI_COMMAND.busMaster);
    });
    attempt(() => {
      try {
        this.#reset();
      } catch (error) {
        // EAGAIN: the kernel holds the device lock while it waits for the release; it resets the device at file close.
        if (!(error instanceof SystemCallError) || error.errnoName !== 'EAGAIN') throw error;
      }
    });
    attempt(() => {
      this.memory.close();
    });
    // Closing the files revokes the device and all of its mappings.
    attempt(() => {
      this.#closeFiles();
    });
    attempt(() => {
      this.#container.close();
    });
    // Retry the failed steps, now that the device can't reach its memory. Completed steps do nothing.
    if (errors.length > 0) {
      attempt(() => {
        this.memory.close();
      });
      attempt(() => {
        this.#closeRegions();
      });
    }
    if (errors.length > 0) throw new DmaReleaseError(`${this.address}: failed to close all of it`, errors);
  }

  #closeFiles(): void {
    try {
      this.#closeRegions();
    } finally {
      for (const counter of this.#events.splice(0)) counter.close();
      closeSync(this.#fd);
    }
  }

  #closeRegions(): void {
    for (const region of this.#regions) region?.close();
  }

  /** I/O BARs are never mapped; the bus handles their accesses. */
  #decodes(bar: number): boolean {
    return this.#decoding || this.#ports[bar] === true;
  }

  /** A closed descriptor may belong to another file. */
  #checkOpen(): void {
    if (this.#closed) throw new PciError('ERR_DMAPOOL_PCI_CLOSED', this.address, 'it was closed');
  }

  #guard(): void {
    this.#checkOpen();
    this.removed.throwIfAborted();
    if (this.#failure === null) return;
    const failure = this.#failure;
    this.#failure = null;
    throw failure;
  }

  #request(request: number, purpose: string): (bytes: Uint8Array) => void {
    return (bytes) => {
      libc().ioctl(this.#fd, request, bytes, `${this.address}: ${purpose}`);
    };
  }

  #regionInfo(index: number): RegionInfo {
    return regionInfo(index, this.#request(VFIO_DEVICE_GET_REGION_INFO, `can't read region ${String(index)}`));
  }

  #openBars(): BarInfo[] {
    const bars: BarInfo[] = [];
    for (let index = 0; index < PCI_BARS; index++) {
      const info = this.#regionInfo(index);
      // VFIO reports size 0 for a BAR without an assigned address.
      if (info.size === 0 || !info.readable) continue;
      const register = this.#readConfig(PCI_CONFIG.bar0 + index * 4, 4);
      const isIo = (register & BAR_IO) !== 0;
      const is64 = !isIo && (register & BAR_64) !== 0;
      const prefetchable = !isIo && (register & BAR_PREFETCHABLE) !== 0;
      bars.push({ index, kind: isIo ? 'io' : 'memory', size: info.size, prefetchable, is64 });
      this.#ports[index] = isIo;
      this.#regions[index] = new VfioRegion(this.#fd, info);
      if (is64) index++;
    }
    return bars;
  }

  /** The kernel has validated this capability list and emulates it. */
  #findPowerState(): number {
    let at = this.#readConfig(PCI_CONFIG.capabilities, 1) & 0xfc;
    for (let i = 0; at !== 0 && i < 48; i++) {
      if (this.#readConfig(at, 1) === PCI_CAPABILITY.powerManagement) return at + POWER_STATE;
      at = this.#readConfig(at + 1, 1) & 0xfc;
    }
    return -1;
  }

  #updateDecoding(): void {
    const command = this.#readConfig(PCI_CONFIG.command, 2);
    const inD3 =
      this.#powerState !== -1 && (this.#readConfig(this.#powerState, 2) & POWER_STATE_MASK) === POWER_STATE_MASK;
    this.#decoding = !inD3 && (command & PCI_COMMAND.memory) !== 0;
  }

  /**
   * Watches for two events that end the driver's work: the kernel requests release (unbind or hot-unplug) and waits
   * until the device is closed, or the device reports an uncorrectable error. Neither implies that its DMA has stopped.
   */
  #watchEvents(): void {
    this.#watch(VFIO_IRQ.request, () => {
      const message = 'the kernel requests release (unbind or hot-unplug) and waits until the device is closed';
      return new PciError('ERR_DMAPOOL_PCI_RELEASE_REQUESTED', this.address, message);
    });
    this.#watch(VFIO_IRQ.error, () => {
      const message = 'the device reported an uncorrectable error; its state is unknown; see the kernel log';
      return new PciError('ERR_DMAPOOL_PCI_FAULT', this.address, message);
    });
  }

  #watch(index: number, reason: () => PciError): void {
    // Not armed: it does not keep the process alive.
    const counter = new EventCounter(() => {
      if (!this.removed.aborted) this.#removed.abort(reason());
    });
    try {
      const purpose = `${this.address}: can't get its interrupt ${String(index)}`;
      libc().ioctl(this.#fd, VFIO_DEVICE_SET_IRQS, setTriggers(index, [counter.fd]), purpose);
    } catch {
      // An old kernel, or for errors a function that is not PCI Express.
      counter.close();
      return;
    }
    this.#events.push(counter);
  }

  #readConfig(offset: number, length: number): number {
    readSync(this.#fd, this.#bytes, 0, length, this.#config.offset + offset);
    return this.#bytes.readUIntLE(0, length);
  }

  #writeConfig(offset: number, length: number, value: number): void {
    this.#bytes.writeUIntLE(value, 0, length);
    writeSync(this.#fd, this.#bytes, 0, length, this.#config.offset + offset);
  }
}
