/**
 * A PCI function as a driver sees it, the same in every home.
 *
 *     PciFunction -- config        configuration space, capabilities       awaited
 *                 -- bar(n)        registers                               writes posted, reads awaited
 *                 -- device        its DMA: mask, coherent memory, pools
 *                 -- interrupts()  the next one, or a time-out
 *                 -- removed       aborted when it is pulled out
 */
import { Device } from '../device/device.ts';
import type { DeviceLog } from '../device/log.ts';
import { checkFunction, checkInteger, type OptionNames, readOptions } from '../arguments.ts';
import { DmaArgumentError, DmaReleaseError } from '../errors.ts';
import type { CoherentAllocator } from '../memory/coherent.ts';
import { checkBackend, type PciBackend, type RawConfigSpace } from './backend.ts';
import { Bar, type BarOwner, checkBarIndex } from './bar.ts';
import { ConfigSpace } from './config-space.ts';
import { PciError } from './error.ts';
import {
  type CheckedInterruptOptions,
  checkInterruptOptions,
  type InterruptOptions,
  Interrupts,
  PollingInterrupts,
} from './interrupts.ts';
import { PCI_COMMAND, PCI_CONFIG } from './registers.ts';
import { functionLevelReset, restoreMsix, restoreState, saveMsix, saveState, type SavedMsix } from './reset.ts';
import { type DmaStopped, proofOf, proveStopped, STEP_TIME, type StopDmaOptions, within } from './stop.ts';

/** What a function says it is (PCI 3.0, 6.2.1 and 6.2.4). Drivers choose by it what they can drive. */
export interface PciIdentity {
  /**
   * Who made it: 16 bits, given out by the PCI-SIG, such as 0x8086 for Intel. Never 0xffff: that reads where nobody is.
   */
  readonly vendorId: number;
  /** Which of the vendor's devices it is: 16 bits. */
  readonly deviceId: number;
  /**
   * Who made the card or system that it is part of: 16 bits, as `vendorId`; 0 where there is nothing more to say
   * (6.2.4).
   */
  readonly subsystemVendorId: number;
  /** Which of the subsystem vendor's cards or systems it is: 16 bits (6.2.4). */
  readonly subsystemId: number;
  /** Base class, subclass and programming interface: 24 bits, such as 0x010802 for NVMe (6.2.1). */
  readonly classCode: number;
  /** Which revision of the device it is: 8 bits, given by the vendor (6.2.1). */
  readonly revision: number;
}

/** How to open a function. */
export interface PciOpenOptions {
  /** Where its `Device`'s messages go. Default: the console. */
  readonly log?: DeviceLog;
  /**
   * Where its coherent memory comes from, in place of the home's own: a source that wraps the home's, to count or to
   * fail. It must give memory that the function can reach.
   */
  readonly memory?: CoherentAllocator;
  /** Highest address the device reaches. Default `DMA_BIT_MASK(32)`, as in Linux; drivers raise it by `device.setDmaMask`. */
  readonly dmaMask?: number;
}

const OPEN_OPTIONS: OptionNames<PciOpenOptions> = { log: true, memory: true, dmaMask: true };
const STOP_OPTIONS: OptionNames<StopDmaOptions> = { stop: true, timeout: true };
/** Given by {@link PciFunction.open}: JavaScript can call a private constructor. */
const MAKING: unique symbol = Symbol('making a function');

/** The most milliseconds of a step of {@link PciFunction.stopDma}. */
const MAX_STEP_TIME = 600_000;
/** How often a function is stopped whose driver switches bus mastering on again meanwhile. */
const STOP_TRIES = 3;
/** Milliseconds that a backend may take to end what close() waits for, except for its DMA. */
const MAX_CLOSE_TIME = 10_000;
/**
 * One function of a PCI device, open for one driver. Got from its home: `QemuMachine.open()` of `dmapool/qemu`.
 *
 * Fresh from its home a function decodes its registers and may not yet do DMA: give it that right by
 * {@link PciFunction.enableBusMaster} once its memory is ready. `close` takes all back, in the order that keeps a
 * device from writing to memory that is somebody else's.
 *
 * @example
 * ```ts
 * await using machine = await QemuMachine.start({
 *   drives: [{ id: 'disk0', file: 'null-co://' }], // a disk that keeps nothing
 *   devices: [{ driver: 'nvme', id: 'nvme0', drive: 'disk0', serial: '1' }],
 * });
 * const nvme = await machine.open('nvme0');
 * try {
 *   nvme.device.setDmaMask(DMA_BIT_MASK(64)); // NVMe devices reach all memory
 *   const prps = DmaPool.createManaged('prp list page', nvme.device, { size: 4096, align: 4096 });
 *   const version = await nvme.bar(0).read32(0x08);
 *   console.log(version.toString(16)); // 10400: NVMe 1.4
 *   await nvme.enableBusMaster();
 * } finally {
 *   await nvme.close(); // destroys the pool too
 * }
 * ```
 */
export class PciFunction implements PciIdentity {
  /** Domain, bus, device and function: `0000:00:04.0`. Also the name of its device. */
  readonly address: string;
  readonly vendorId: number;
  readonly deviceId: number;
  readonly subsystemVendorId: number;
  readonly subsystemId: number;
  readonly classCode: number;
  readonly revision: number;
  /** Its configuration space. */
  readonly config: ConfigSpace;
  /** Its regions of registers, ascending by index. */
  readonly bars: readonly Bar[];
  /** Who does the DMA: mask, coherent memory, pools, log. Detached by {@link PciFunction.close}. */
  readonly device: Device;
  readonly #backend: PciBackend;
  #interrupts: Interrupts | 'opening' | null = null;
  /** The claim of the driver that has the function. */
  #claim: { readonly driver: string } | null = null;
  #closed = false;
  /** Its memory was released and its backend is closed or being closed. */
  #handedBack = false;
  /** The close that runs or succeeded. */
  #closing: Promise<void> | null = null;
  #resetting: Promise<boolean> | null = null;
  #stopping: Promise<DmaStopped> | null = null;
  /** The last proof. */
  #proof: DmaStopped | null = null;
  /** As it was last written: bus mastering is on. */
  #isBusMaster = false;
  #vainReported = false;
  /** Bus mastering was on since the last proof. */
  #mayBeAtWork: boolean;
  /** How often bus mastering was switched on by the driver. */
  #starts = 0;
  readonly #raw: RawConfigSpace;

  private constructor(
    key: symbol,
    backend: PciBackend,
    identity: PciIdentity,
    wasBusMaster: boolean,
    options: PciOpenOptions,
  ) {
    if (key !== MAKING) throw new DmaArgumentError('new PciFunction', key, 'PciFunction.open() in its place');
    this.#backend = backend;
    this.#mayBeAtWork = wasBusMaster;
    this.address = backend.address;
    this.vendorId = identity.vendorId;
    this.deviceId = identity.deviceId;
    this.subsystemVendorId = identity.subsystemVendorId;
    this.subsystemId = identity.subsystemId;
    this.classCode = identity.classCode;
    this.revision = identity.revision;
    const guard = (): void => {
      this.#guard();
    };
    this.#raw = backend.rawConfig ?? {
      read: (offset, width) => backend.readConfig(offset, width),
      write: (offset, width, value) => backend.writeConfig(offset, width, value),
    };
    this.config = new ConfigSpace(backend, guard, (command) => {
      this.#isBusMaster = (command & PCI_COMMAND.busMaster) !== 0;
      if (this.#isBusMaster) this.#onBusMaster();
    });
    const owner: BarOwner = { backend, guard, checkThere: () => this.config.checkThere() };
    this.bars = backend.bars.map((info) => new Bar(owner, info));
    const { log, memory = backend.memory, dmaMask } = options;
    this.device = new Device({
      name: backend.address,
      path: `/sys/bus/pci/devices/${backend.address}`,
      memory,
      ...(log === undefined ? {} : { log }),
      ...(dmaMask === undefined ? {} : { dmaMask }),
    });
  }

  /**
   * For homes: makes the function of a backend ready for a driver. Decoding of its registers is switched on, bus
   * mastering off (PCI 3.0, 6.2.2). Drivers get their function from its home, such as `QemuMachine.open()`.
   *
   * @param backend The function in its home; closed by {@link PciFunction.close}. See `PciBackend` for an example.
   * @param options Log, memory and DMA mask of its device.
   * @throws `DmaArgumentError` for wrong options.
   * @throws {@link PciGoneError} when nobody answers. After an error the backend is still the caller's to close.
   */
  static async open(backend: PciBackend, options: PciOpenOptions = {}): Promise<PciFunction> {
    const checked = readOptions('options', options, OPEN_OPTIONS);
    checkBackend(backend);
    const config = new ConfigSpace(backend, () => undefined);
    await config.checkThere();
    const revisionAndClass = await config.read32(PCI_CONFIG.revision);
    const identity: PciIdentity = {
      vendorId: await config.read16(PCI_CONFIG.vendorId),
      deviceId: await config.read16(PCI_CONFIG.deviceId),
      subsystemVendorId: await config.read16(PCI_CONFIG.subsystemVendorId),
      subsystemId: await config.read16(PCI_CONFIG.subsystemId),
      classCode: revisionAndClass >>> 8,
      revision: revisionAndClass & 0xff,
    };
    const wasBusMaster = ((await config.read16(PCI_CONFIG.command)) & PCI_COMMAND.busMaster) !== 0;
    const opened = new PciFunction(MAKING, backend, identity, wasBusMaster, checked);
    const decode = backend.bars.reduce((bits, { kind }) => bits | PCI_COMMAND[kind], 0);
    await config.update16(PCI_CONFIG.command, decode, PCI_COMMAND.busMaster);
    return opened;
  }

  /**
   * Aborted when the driver must let go of the function. The reason is the error that every access fails with from then on:
   * {@link PciGoneError} when it was pulled out, the backend's own error when that ended, {@link PciError}
   * `ERR_DMAPOOL_PCI_RELEASE_REQUESTED` when the system requests the function, `ERR_DMAPOOL_PCI_FAULT` when it reported an
   * uncorrectable error. Hand the signal to whatever must end then. None of these says that DMA has stopped: see
   * {@link PciFunction.stopDma}.
   */
  get removed(): AbortSignal {
    return this.#backend.removed;
  }

  /** True once {@link PciFunction.close} was called. */
  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Claims the function for one driver. A driver does so before it touches a register: two on one function would undo each
   * other's work.
   *
   * @param driver Its name, for the message that the next one gets.
   * @returns Ends the claim; called again it does nothing.
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_BUSY` while a driver has the function, `ERR_DMAPOOL_PCI_CLOSED` after the function
   *   was closed. @throws {@link PciGoneError} after it was pulled out.
   */
  claim(driver: string): () => void {
    if (typeof driver !== 'string') throw new DmaArgumentError('driver', driver, "the driver's name");
    this.removed.throwIfAborted();
    this.#guard();
    if (this.#claim !== null) {
      const message = `the driver ${this.#claim.driver} has it; close that one first`;
      throw this.#error('ERR_DMAPOOL_PCI_BUSY', message);
    }
    const claim = { driver };
    this.#claim = claim;
    return () => {
      if (this.#claim === claim) this.#claim = null;
    };
  }

  /**
   * A region of registers (PCI 3.0, 6.2.5).
   *
   * @param index Number of its base address register, 0 to 5; of one of 64 bits, the lower half's.
   * @throws `DmaArgumentError` for another number. @throws {@link PciError} `ERR_DMAPOOL_PCI_UNSUPPORTED` when the function has no such region.
   */
  bar(index: number): Bar {
    checkBarIndex(index);
    const bar = this.bars.find((candidate) => candidate.index === index);
    if (bar === undefined) {
      const there = this.bars.map((candidate) => String(candidate.index)).join(', ') || 'none';
      throw this.#error('ERR_DMAPOOL_PCI_UNSUPPORTED', `it has no BAR ${String(index)}; there are: ${there}`);
    }
    return bar;
  }

  /**
   * Lets the function do DMA, and send MSI and MSI-X (PCI 3.0, 6.2.2: Bus Master). Call it when the memory that its
   * registers point to is ready.
   *
   * @throws as {@link ConfigSpace.read8}.
   */
  async enableBusMaster(): Promise<void> {
    this.#guard();
    this.#onBusMaster();
    await this.config.update16(PCI_CONFIG.command, PCI_COMMAND.busMaster);
  }

  /**
   * Takes the right to do DMA away. It proves nothing: before memory is released call {@link PciFunction.stopDma}.
   *
   * @throws as {@link ConfigSpace.read8}.
   */
  async disableBusMaster(): Promise<void> {
    await this.config.update16(PCI_CONFIG.command, 0, PCI_COMMAND.busMaster);
  }

  /** True while the function may do DMA. @throws as {@link ConfigSpace.read8}. */
  async isBusMaster(): Promise<boolean> {
    return ((await this.config.read16(PCI_CONFIG.command)) & PCI_COMMAND.busMaster) !== 0;
  }

  /**
   * Stops the function's DMA and proves it: no memory that the device may reach is released without. Tries, in this order,
   * until one is proven: `stop`, the driver's own way, and bus mastering off, read back; a reset; that the function is gone.
   * Waits for a reset that runs first. Works after {@link PciFunction.removed} was aborted, after {@link PciFunction.close}
   * began, and when accesses reject. Concurrent calls share one attempt, with the options of the first. Bus mastering is off
   * afterwards; switching it on again voids the proof.
   *
   * @param options The driver's own way to stop the device, and how long each step may take.
   * @throws `DmaArgumentError` for wrong options.
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_DMA_ACTIVE` when nothing could be proven: the caller keeps all memory that the
   *   device may reach. A later call tries again. Each failure is among the `errors` of its `cause`.
   */
  async stopDma(options: StopDmaOptions = {}): Promise<DmaStopped> {
    const { stop, timeout = STEP_TIME } = readOptions('options', options, STOP_OPTIONS);
    if (stop !== undefined) checkFunction('stop', stop);
    checkInteger('timeout', timeout, 1, MAX_STEP_TIME);
    // With its backend the function went out of this object's hands; it was proven then.
    if (this.#handedBack) return this.#proof!;
    return this.#stopDma(stop, timeout, false);
  }

  /** The proof of {@link PciFunction.stopDma} while it holds, or null. For what can not wait: actions of `device.detach()`. */
  get dmaStopped(): DmaStopped | null {
    return this.#proof?.holds === true ? this.#proof : null;
  }

  #stopDma(stop: (() => Promise<void>) | undefined, timeout: number, isolate: boolean): Promise<DmaStopped> {
    this.#stopping ??= this.#prove(stop, timeout, isolate).finally(() => {
      this.#stopping = null;
    });
    return this.#stopping;
  }

  async #prove(stop: (() => Promise<void>) | undefined, timeout: number, isolate: boolean): Promise<DmaStopped> {
    const backend = this.#backend;
    for (let tries = 1; ; tries++) {
      const starts = this.#starts;
      const reason = await proveStopped(
        {
          address: this.address,
          config: this.#raw,
          resetting: () => this.#resetting,
          reset: () => this.#startReset(),
          atWork: this.#mayBeAtWork,
          settle: backend.settle?.bind(backend),
          isolate: isolate ? backend.isolate?.bind(backend) : undefined,
        },
        stop,
        timeout,
      );
      if (reason === 'gone' || starts === this.#starts) {
        this.#isBusMaster = this.#mayBeAtWork = false;
        const now = this.#starts;
        return (this.#proof = proofOf(reason, () => now === this.#starts));
      }
      if (tries === STOP_TRIES) {
        const message = 'it may still do DMA: bus mastering was switched on again while it was being stopped';
        throw this.#error('ERR_DMAPOOL_PCI_DMA_ACTIVE', message);
      }
    }
  }

  #onBusMaster(): void {
    this.#starts++;
    this.#mayBeAtWork = true;
  }

  /**
   * Resets the function, by the home's own means or a function-level reset (PCI Express 4.0, 6.6.2; it takes 100 ms),
   * and gives it back its addresses, Device Control, MSI and MSI-X. Bus mastering is off afterwards, and DMA has stopped. While a reset runs, another call
   * is part of it. A reset that fails proves nothing: see {@link PciFunction.stopDma}.
   *
   * @returns false when the function offers no reset: it must then be reset through its own registers.
   * @throws as {@link ConfigSpace.capabilities}.
   */
  async reset(): Promise<boolean> {
    this.#guard();
    this.removed.throwIfAborted();
    return this.#startReset();
  }

  #startReset(): Promise<boolean> {
    this.#resetting ??= this.#reset().finally(() => {
      this.#resetting = null;
    });
    return this.#resetting;
  }

  async #reset(): Promise<boolean> {
    // What was begun is finished also when the function is closed meanwhile: the next driver needs its addresses.
    const config = this.#rawConfigSpace();
    if (!this.removed.aborted) await this.#backend.flush();
    const state = await saveState(config);
    let msix: SavedMsix | null = null;
    try {
      if (!((await this.#backend.reset?.()) ?? false)) {
        msix = await saveMsix(config, this.#backend);
        if (!(await functionLevelReset(config))) return false;
      }
    } catch (error) {
      // In whatever state it is: it must not go on with DMA.
      await config.update16(PCI_CONFIG.command, 0, PCI_COMMAND.busMaster).catch(() => undefined);
      throw error;
    }
    await restoreState(config, state);
    this.#isBusMaster = false;
    if (msix !== null && !this.removed.aborted) await restoreMsix(config, this.#backend, msix);
    return true;
  }

  /** Past the guards: for what goes on after `removed` was aborted and after close() began. */
  #rawConfigSpace(): ConfigSpace {
    const { address, configSize } = this.#backend;
    const readConfig: PciBackend['readConfig'] = (offset, width) => this.#raw.read(offset, width);
    const writeConfig: PciBackend['writeConfig'] = (offset, width, value) => this.#raw.write(offset, width, value);
    return new ConfigSpace({ address, configSize, readConfig, writeConfig }, () => {
      // A reset that ends late is no longer this function's affair.
      if (this.#handedBack) this.#guard();
    });
  }

  /**
   * Switches interrupts on, of the first wanted kind that there is. One set at a time: close it before asking again.
   *
   * @param options Which kinds, how many, how often to poll. Default: one interrupt of the best kind that there is.
   * @throws `DmaArgumentError` for wrong options.
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_UNSUPPORTED` when none of the kinds can be had, `ERR_DMAPOOL_PCI_BUSY` when
   *   there are open ones, `ERR_DMAPOOL_PCI_CLOSED` after the function was closed.
   */
  async interrupts(options: InterruptOptions = {}): Promise<Interrupts> {
    const checked = checkInterruptOptions(options);
    this.#guard();
    if (this.#interrupts !== null) {
      throw this.#error('ERR_DMAPOOL_PCI_BUSY', 'it has open interrupts; close them first');
    }
    this.#interrupts = 'opening';
    try {
      this.#interrupts = await this.#openInterrupts(checked);
    } catch (error) {
      this.#interrupts = null;
      throw error;
    }
    const interrupts = this.#interrupts;
    if (this.closed) {
      await interrupts.close();
      this.#guard();
    }
    return interrupts;
  }

  async #openInterrupts(options: CheckedInterruptOptions): Promise<Interrupts> {
    const { kinds, vectors, pollInterval } = options;
    const poll = kinds.includes('poll');
    const real = poll ? kinds.slice(0, kinds.indexOf('poll')) : kinds;
    const backend =
      (real.length === 0 ? null : await this.#backend.openInterrupts(real, vectors)) ??
      (poll ? new PollingInterrupts(pollInterval, () => this.#backend.flush()) : null);
    if (backend === null) {
      throw this.#error('ERR_DMAPOOL_PCI_UNSUPPORTED', `it offers none of these interrupts here: ${kinds.join(', ')}`);
    }
    const onClose = (): void => {
      this.#interrupts = null;
    };
    const onVain = (): (() => void) | null => (this.#isBusMaster || this.#vainReported ? null : this.#reportVain);
    return new Interrupts(this.address, backend, this.removed, options, onClose, onVain);
  }

  readonly #reportVain = (): void => {
    this.#vainReported = true;
    const message =
      'waits in vain for an interrupt while bus mastering is off: it can do no DMA, and send no MSI and MSI-X; call enableBusMaster()';
    this.device.report('warn', 'bus mastering off', message);
  };

  /**
   * The driver is done: DMA is stopped as by {@link PciFunction.stopDma}, interrupts are closed, the device is detached
   * (managed pools are destroyed) and its memory reclaimed; then the backend takes the function back. Closing twice is fine,
   * and a function that is gone can be closed too.
   *
   * A function that nothing stops is cut off from memory where the backend can (VFIO removes its IOMMU mappings). Where it can
   * not, all memory of the device stays reserved (`device.bytesAllocated`), the device's log says so, the function stays open
   * for its backend, and a later call tries again.
   *
   * @throws `DmaReleaseError` after all was tried, with what failed; {@link PciError} `ERR_DMAPOOL_PCI_DMA_ACTIVE` is among its
   *   `errors` when memory stays reserved.
   */
  close(): Promise<void> {
    this.#closed = true;
    this.#closing ??= this.#close().finally(() => {
      if (!this.#handedBack) this.#closing = null;
    });
    return this.#closing;
  }

  /** {@link PciFunction.close}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const errors: unknown[] = [];
    const attempt = async (step: string, action: () => Promise<void>): Promise<void> => {
      try {
        await within(MAX_CLOSE_TIME, step, action);
      } catch (error) {
        // After `removed` they reject by contract.
        if (!this.removed.aborted) errors.push(error);
      }
    };
    if (!this.removed.aborted) await attempt('flushing posted writes', () => this.#backend.flush());
    let proof: DmaStopped | null = null;
    try {
      // An attempt of the driver's that runs may not isolate the function.
      await this.#stopping?.catch(() => undefined);
      proof = await this.#stopDma(undefined, STEP_TIME, true);
    } catch (error) {
      errors.push(error);
    }
    const interrupts = this.#interrupts;
    if (interrupts instanceof Interrupts) await attempt('closing its interrupts', () => interrupts.close());
    if (proof === null) {
      const bytes = String(this.device.bytesAllocated);
      this.device.report(
        'error',
        'kept memory',
        `${bytes} bytes of memory stay reserved: its DMA could not be stopped`,
      );
    } else {
      this.#handedBack = true;
      const memoryErrors = this.#releaseMemory();
      try {
        await this.#backend.close();
      } catch (error) {
        errors.push(error);
      }
      errors.push(...memoryErrors);
    }
    if (errors.length > 0) throw new DmaReleaseError(`${this.address}: failed to close all of it`, errors);
  }

  #releaseMemory(): unknown[] {
    const errors: unknown[] = [];
    for (const step of ['detach', 'reclaim'] as const) {
      try {
        this.device[step]();
      } catch (error) {
        errors.push(error);
      }
    }
    return errors;
  }

  #guard(): void {
    if (this.#closed) throw this.#error('ERR_DMAPOOL_PCI_CLOSED', 'it was closed');
  }

  #error(
    code:
      'ERR_DMAPOOL_PCI_UNSUPPORTED' | 'ERR_DMAPOOL_PCI_BUSY' | 'ERR_DMAPOOL_PCI_CLOSED' | 'ERR_DMAPOOL_PCI_DMA_ACTIVE',
    message: string,
  ): PciError {
    return new PciError(code, this.address, message);
  }
}
