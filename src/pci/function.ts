/**
 * A PCI function as a driver sees it, the same for every backend.
 *
 *     PciFunction -- config        configuration space, capabilities       awaited
 *                 -- bar(n)        registers                               writes posted, reads awaited
 *                 -- device        its DMA: mask, coherent memory, pools
 *                 -- interrupts()  waits for an interrupt, with a time-out
 *                 -- removed       aborted when the driver must release it
 */
import { Device } from '../device/device.ts';
import type { DeviceLog } from '../device/log.ts';
import { checkFunction, checkInteger, type OptionNames, readOptions } from '../arguments.ts';
import { DmaReleaseError } from '../device/errors.ts';
import { DmaArgumentError } from '../errors.ts';
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
import {
  functionLevelReset,
  restoreMsix,
  restoreState,
  saveMsix,
  saveState,
  type SavedMsix,
  type TableBackend,
} from './reset.ts';
import { type DmaStopped, proofOf, proveStopped, STEP_TIME, type StopDmaOptions, within } from './stop.ts';

/** Identity of a function (PCI 3.0, 6.2.1 and 6.2.4). Drivers match on it. */
export interface PciIdentity {
  /**
   * Vendor ID: 16 bits, assigned by the PCI-SIG, such as 0x8086 for Intel. Never 0xffff, the value of an empty slot.
   */
  readonly vendorId: number;
  /** Device ID: 16 bits, assigned by the vendor. */
  readonly deviceId: number;
  /** Subsystem vendor ID: vendor of the card or system, 16 bits; 0 if not implemented (6.2.4). */
  readonly subsystemVendorId: number;
  /** Subsystem ID: 16 bits, assigned by the subsystem vendor (6.2.4). */
  readonly subsystemId: number;
  /** Base class, subclass and programming interface: 24 bits, such as 0x010802 for NVMe (6.2.1). */
  readonly classCode: number;
  /** Revision ID: 8 bits, assigned by the vendor (6.2.1). */
  readonly revision: number;
}

/** Options of opening a function. */
export interface PciOpenOptions {
  /** Log of its `Device`. Default: the console. */
  readonly log?: DeviceLog;
  /**
   * Coherent allocator in place of the backend's own, such as a wrapper that counts or injects failures. It must return
   * memory that the function can reach.
   */
  readonly memory?: CoherentAllocator;
  /** Highest reachable address. Default `dmaBitMask(32)`, as in Linux; drivers raise it by `device.setDmaMask`. */
  readonly dmaMask?: number;
}

interface RunningReset {
  /** Resolves to false when the function offers no reset. */
  readonly done: Promise<boolean>;
  /** As `done`, and false when the reset does not prove that DMA is stopped. */
  readonly proof: Promise<boolean>;
}

const OPEN_OPTIONS: OptionNames<PciOpenOptions> = { log: true, memory: true, dmaMask: true };
const STOP_OPTIONS: OptionNames<StopDmaOptions> = { stop: true, timeout: true };
/** Passed by {@link PciFunction.open}: `private` does not keep JavaScript from calling the constructor. */
const CONSTRUCTOR_KEY: unique symbol = Symbol('PciFunction');

/** Maximum milliseconds of a step of {@link PciFunction.stopDma}. */
const MAX_STEP_TIME = 600_000;
/** Attempts to stop a function whose driver re-enables bus mastering meanwhile. */
const STOP_ATTEMPTS = 3;
/** Maximum milliseconds of a step of `close`, except for those that stop DMA. */
const MAX_CLOSE_TIME = 10_000;
/** Maximum milliseconds of the backend's close: it may reset the device, and a kernel waits up to a minute for that. */
const MAX_BACKEND_CLOSE_TIME = 90_000;

/**
 * One function of a PCI device, open for one driver. A backend opens it, such as `QemuMachine.open()` of
 * `dmapool/qemu`.
 *
 * After opening, the function decodes its registers but can't do DMA. Call {@link PciFunction.enableBusMaster} when its
 * memory is ready. `close` releases everything in an order that keeps the device from writing to freed memory.
 *
 * @example
 * ```ts
 * await using machine = await QemuMachine.start({
 *   drives: [{ id: 'disk0', file: 'null-co://' }], // a null disk
 *   devices: [{ driver: 'nvme', id: 'nvme0', drive: 'disk0', serial: '1' }],
 * });
 * const nvme = await machine.open('nvme0');
 * try {
 *   nvme.device.setDmaMask(dmaBitMask(64)); // NVMe devices address 64 bits
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
  /** Domain, bus, device and function: `0000:00:04.0`. Also the name of its `device`. */
  readonly address: string;
  readonly vendorId: number;
  readonly deviceId: number;
  readonly subsystemVendorId: number;
  readonly subsystemId: number;
  readonly classCode: number;
  readonly revision: number;
  /** Its configuration space. */
  readonly config: ConfigSpace;
  /** Its register regions, ascending by index. */
  readonly bars: readonly Bar[];
  /** The bus master: DMA mask, coherent memory, pools, log. {@link PciFunction.close} detaches it. */
  readonly device: Device;
  readonly #backend: PciBackend;
  #interrupts: Interrupts | 'opening' | null = null;
  /** Resolves when the last call of `interrupts()` has ended; null before the first. */
  #opening: Promise<void> | null = null;
  /** The claim of the current driver. */
  #claim: { readonly driver: string } | null = null;
  #closed = false;
  /** Memory is released, and the backend is closed or closing. */
  #released = false;
  /** The `close` that is running or has succeeded. */
  #closing: Promise<void> | null = null;
  /** The reset in progress. */
  #resetting: RunningReset | null = null;
  #stopping: Promise<DmaStopped> | null = null;
  /** The last proof. */
  #proof: DmaStopped | null = null;
  /** Bus mastering as last written. */
  #isBusMaster = false;
  #blockedReported = false;
  /** Bus mastering was on at some time since the last proof. */
  #dmaPossible: boolean;
  /** Number of times that the driver enabled bus mastering, and that its DMA was stopped. */
  #enableCount = 0;
  #stopCount = 0;
  readonly #raw: RawConfigSpace;

  private constructor(
    key: symbol,
    backend: PciBackend,
    identity: PciIdentity,
    wasBusMaster: boolean,
    options: PciOpenOptions,
  ) {
    if (key !== CONSTRUCTOR_KEY) throw new DmaArgumentError('new PciFunction', key, 'PciFunction.open() instead');
    this.#backend = backend;
    this.#dmaPossible = wasBusMaster;
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
    const owner: BarOwner = { backend, guard, checkPresent: () => this.config.checkPresent() };
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
   * Opens a backend's function for a driver: enables the decoding of its registers and disables bus mastering (PCI 3.0,
   * 6.2.2). Called by backends; drivers use a backend's method, such as `QemuMachine.open()`.
   *
   * @param backend The backend, which {@link PciFunction.close} closes. See `PciBackend` for an example.
   * @param options Log, memory and DMA mask of its device.
   * @throws `DmaArgumentError` for invalid options.
   * @throws {@link PciGoneError} when no function responds. After an error the caller closes the backend.
   */
  static async open(backend: PciBackend, options: PciOpenOptions = {}): Promise<PciFunction> {
    const checked = readOptions('options', options, OPEN_OPTIONS);
    checkBackend(backend);
    const config = new ConfigSpace(backend, () => undefined);
    await config.checkPresent();
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
    const opened = new PciFunction(CONSTRUCTOR_KEY, backend, identity, wasBusMaster, checked);
    const decode = backend.bars.reduce((bits, { kind }) => bits | PCI_COMMAND[kind], 0);
    await config.update16(PCI_CONFIG.command, decode, PCI_COMMAND.busMaster);
    return opened;
  }

  /**
   * Aborted when the driver must release the function. All accesses then fail with its reason: {@link PciGoneError}
   * after an unplug, the backend's own error after its end, {@link PciError} `ERR_DMAPOOL_PCI_RELEASE_REQUESTED` when
   * the system requests its release, `ERR_DMAPOOL_PCI_FAULT` after an uncorrectable error. None of these implies that
   * DMA has stopped: see {@link PciFunction.stopDma}.
   */
  get removed(): AbortSignal {
    return this.#backend.removed;
  }

  /** True after {@link PciFunction.close} was called. */
  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Claims the function for one driver. A driver calls it before its first register access, because two drivers on one
   * function would corrupt each other's state.
   *
   * @param driver Its name, for the error message of a second claim.
   * @returns A function that ends the claim; further calls do nothing.
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_BUSY` while a driver has claimed the function, `ERR_DMAPOOL_PCI_CLOSED`
   *   after the function was closed. @throws {@link PciGoneError} after an unplug.
   */
  claim(driver: string): () => void {
    if (typeof driver !== 'string') throw new DmaArgumentError('driver', driver, 'the name of a driver');
    this.removed.throwIfAborted();
    this.#guard();
    if (this.#claim !== null) {
      const message = `driver ${this.#claim.driver} has claimed it; close that driver, or the function, first`;
      throw this.#error('ERR_DMAPOOL_PCI_BUSY', message);
    }
    const claim = { driver };
    this.#claim = claim;
    return () => {
      if (this.#claim === claim) this.#claim = null;
    };
  }

  /**
   * Returns a register region (PCI 3.0, 6.2.5).
   *
   * @param index Number of its base address register, 0 to 5; of a 64-bit one, its lower half.
   * @throws `DmaArgumentError` for another number.
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_UNSUPPORTED` when the function has no such BAR.
   */
  bar(index: number): Bar {
    checkBarIndex(index);
    const bar = this.bars.find((candidate) => candidate.index === index);
    if (bar === undefined) {
      const all = this.bars.map((candidate) => String(candidate.index)).join(', ') || 'none';
      throw this.#error('ERR_DMAPOOL_PCI_UNSUPPORTED', `it has no BAR ${String(index)}; it has: ${all}`);
    }
    return bar;
  }

  /**
   * Enables bus mastering: the function may do DMA and send MSI and MSI-X (PCI 3.0, 6.2.2). Call it when the memory
   * that its registers point to is ready.
   *
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_BUSY` when {@link PciFunction.stopDma} was called meanwhile: bus mastering stays off.
   * @throws as {@link ConfigSpace.read8}.
   */
  async enableBusMaster(): Promise<void> {
    this.#guard();
    this.#onBusMaster();
    const stops = this.#stopCount;
    const command = await this.config.read16(PCI_CONFIG.command);
    // After a stop, the device may still have addresses of memory that was released.
    if (stops !== this.#stopCount) throw this.#error('ERR_DMAPOOL_PCI_BUSY', 'its DMA was stopped meanwhile');
    if ((command & PCI_COMMAND.busMaster) === 0) {
      await this.config.write16(PCI_CONFIG.command, command | PCI_COMMAND.busMaster);
    }
  }

  /**
   * Disables bus mastering. It proves nothing: call {@link PciFunction.stopDma} before memory is released.
   *
   * @throws as {@link ConfigSpace.read8}.
   */
  async disableBusMaster(): Promise<void> {
    await this.config.update16(PCI_CONFIG.command, 0, PCI_COMMAND.busMaster);
  }

  /** True while bus mastering is enabled. @throws as {@link ConfigSpace.read8}. */
  async isBusMaster(): Promise<boolean> {
    return ((await this.config.read16(PCI_CONFIG.command)) & PCI_COMMAND.busMaster) !== 0;
  }

  /**
   * Stops the function's DMA and proves it. Memory that the device may reach is released only with this proof.
   *
   * Tries these steps in order until one is a proof: the caller's `stop` and then bus mastering off, read back; a
   * reset; the function's absence. A reset in progress completes first. Works after {@link PciFunction.removed} has
   * aborted, after {@link PciFunction.close} has begun, and when accesses reject. Concurrent calls share one attempt,
   * with the options of the first. Afterwards bus mastering is off; enabling it invalidates the proof.
   *
   * @param options The driver's own way to stop the device, and the time limit of each step.
   * @throws `DmaArgumentError` for invalid options.
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_DMA_ACTIVE` without a proof: the caller must keep all memory that the
   *   device may reach. A later call tries again. The `errors` of its `cause` have all failures.
   */
  async stopDma(options: StopDmaOptions = {}): Promise<DmaStopped> {
    const { stop, timeout = STEP_TIME } = readOptions('options', options, STOP_OPTIONS);
    if (stop !== undefined) checkFunction('stop', stop);
    checkInteger('timeout', timeout, 1, MAX_STEP_TIME);
    // Nothing can enable bus mastering any more, and the backend may close at any moment.
    const proof = this.dmaStopped;
    if (this.#closed && proof !== null) return proof;
    return this.#stopDma(stop, timeout, false);
  }

  /**
   * The proof of {@link PciFunction.stopDma} while it holds, or null. For callers that can't await, such as managed
   * resources.
   */
  get dmaStopped(): DmaStopped | null {
    return this.#proof?.holds === true ? this.#proof : null;
  }

  #stopDma(stop: (() => Promise<void>) | undefined, timeout: number, isolate: boolean): Promise<DmaStopped> {
    this.#stopping ??= later(() => this.#prove(stop, timeout, isolate)).finally(() => {
      this.#stopping = null;
    });
    return this.#stopping;
  }

  async #prove(stop: (() => Promise<void>) | undefined, timeout: number, isolate: boolean): Promise<DmaStopped> {
    const backend = this.#backend;
    this.#stopCount++;
    for (let tries = 1; ; tries++) {
      const enables = this.#enableCount;
      const reason = await proveStopped(
        {
          address: this.address,
          config: this.#raw,
          resetting: () => this.#resetting?.proof ?? null,
          reset: () => this.#startReset().proof,
          dmaPossible: this.#dmaPossible,
          settle: backend.settle?.bind(backend),
          isolate: isolate ? backend.isolate?.bind(backend) : undefined,
        },
        stop,
        timeout,
      );
      if (reason === 'gone' || enables === this.#enableCount) {
        this.#isBusMaster = this.#dmaPossible = false;
        const now = this.#enableCount;
        return (this.#proof = proofOf(reason, () => now === this.#enableCount));
      }
      if (tries === STOP_ATTEMPTS) {
        const message = 'it may still do DMA: bus mastering was enabled again while it was being stopped';
        throw this.#error('ERR_DMAPOOL_PCI_DMA_ACTIVE', message);
      }
    }
  }

  #onBusMaster(): void {
    this.#enableCount++;
    this.#dmaPossible = true;
  }

  /**
   * Resets the function by the platform's own reset, or a function-level reset (PCI Express 4.0, 6.6.2), which takes
   * 100 ms. Restores its BARs, Device Control, MSI and MSI-X. Afterwards bus mastering is off and DMA has stopped. A
   * call during a reset joins it. A failed reset proves nothing: see {@link PciFunction.stopDma}.
   *
   * @returns false when no reset is available: the driver must use the device's own registers.
   * @throws as {@link ConfigSpace.capabilities}.
   */
  async reset(): Promise<boolean> {
    this.#guard();
    this.removed.throwIfAborted();
    return this.#startReset().done;
  }

  #startReset(): RunningReset {
    if (this.#resetting !== null) return this.#resetting;
    const starts = this.#enableCount;
    const done = later(() => this.#reset()).finally(() => {
      this.#resetting = null;
    });
    // If bus mastering was enabled meanwhile, that may have been after the reset, and DMA is possible again.
    const proof = done.then((isDone) => isDone && starts === this.#enableCount);
    // Callers of `reset()` ignore the proof.
    proof.catch(() => undefined);
    return (this.#resetting = { done, proof });
  }

  async #reset(): Promise<boolean> {
    // A reset completes even if the function is closed meanwhile: the next driver needs the restored registers.
    const config = this.#rawConfigSpace();
    if (!this.removed.aborted) await this.#backend.flush();
    const state = await saveState(config);
    this.#checkOurs();
    let msix: SavedMsix | null = null;
    try {
      if (!((await this.#backend.reset?.()) ?? false)) {
        msix = await saveMsix(config, this.#tableBackend());
        if (!(await functionLevelReset(config))) return false;
      }
    } catch (error) {
      // The state is unknown. Disable DMA.
      await config.update16(PCI_CONFIG.command, 0, PCI_COMMAND.busMaster).catch(() => undefined);
      throw error;
    }
    await restoreState(config, state);
    this.#isBusMaster = false;
    if (msix !== null && !this.removed.aborted) await restoreMsix(config, this.#tableBackend(), msix);
    return true;
  }

  /** Configuration space without guards: works after `removed` has aborted and after close() has begun. */
  #rawConfigSpace(): ConfigSpace {
    const { address, configSize } = this.#backend;
    const readConfig: PciBackend['readConfig'] = (offset, width) => this.#raw.read(offset, width);
    const writeConfig: PciBackend['writeConfig'] = (offset, width, value) => this.#raw.write(offset, width, value);
    return new ConfigSpace({ address, configSize, readConfig, writeConfig }, () => {
      this.#checkOurs();
    });
  }

  /** Access to the registers that a reset saves and restores. */
  #tableBackend(): TableBackend {
    const backend = this.#backend;
    return {
      bars: backend.bars,
      removed: backend.removed,
      read: (bar, offset, width) => {
        this.#checkOurs();
        return backend.read(bar, offset, width);
      },
      write: (bar, offset, width, value) => {
        this.#checkOurs();
        backend.write(bar, offset, width, value);
      },
      flush: () => {
        this.#checkOurs();
        return backend.flush();
      },
    };
  }

  /** Throws after the release: another driver may own the function, and a late reset must not touch it. */
  #checkOurs(): void {
    if (this.#released) this.#guard();
  }

  /**
   * Enables interrupts of the first available kind. One set at a time: close it before the next call.
   *
   * @param options Kinds, number of vectors and polling interval. Default: one interrupt of the best kind.
   * @throws `DmaArgumentError` for invalid options.
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_UNSUPPORTED` when no kind is available, `ERR_DMAPOOL_PCI_BUSY` when
   *   interrupts are open, `ERR_DMAPOOL_PCI_CLOSED` after the function was closed.
   */
  async interrupts(options: InterruptOptions = {}): Promise<Interrupts> {
    const checked = checkInterruptOptions(options);
    this.#guard();
    if (this.#interrupts !== null) {
      throw this.#error('ERR_DMAPOOL_PCI_BUSY', 'it has open interrupts; close them first');
    }
    this.#interrupts = 'opening';
    const opening = this.#keepInterrupts(checked);
    this.#opening = opening.then(
      () => undefined,
      () => undefined,
    );
    return opening;
  }

  async #keepInterrupts(options: CheckedInterruptOptions): Promise<Interrupts> {
    try {
      this.#interrupts = await this.#openInterrupts(options);
    } catch (error) {
      this.#interrupts = null;
      throw error;
    }
    const interrupts = this.#interrupts;
    if (this.closed) {
      // A backend that is closed, or being closed, has ended them.
      if (!this.#released) await interrupts.close();
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
      throw this.#error('ERR_DMAPOOL_PCI_UNSUPPORTED', `none of these interrupts is available: ${kinds.join(', ')}`);
    }
    const onClose = (): void => {
      this.#interrupts = null;
    };
    const onBlocked = (): (() => void) | null =>
      this.#isBusMaster || this.#blockedReported ? null : this.#reportBlocked;
    return new Interrupts(this.address, backend, this.removed, options, onClose, onBlocked);
  }

  readonly #reportBlocked = (): void => {
    this.#blockedReported = true;
    const message =
      'waits for an interrupt while bus mastering is off: it can neither do DMA nor send MSI or MSI-X; ' +
      'call enableBusMaster()';
    this.device.report('warn', 'bus mastering off', message);
  };

  /**
   * Closes the function: stops DMA as {@link PciFunction.stopDma} does, closes interrupts, detaches the device (which
   * destroys managed pools), reclaims its memory, and closes the backend. A second call does nothing. An absent
   * function can be closed too.
   *
   * If DMA can't be stopped, the backend isolates the function from memory if it can (VFIO removes its IOMMU mappings).
   * Otherwise all memory of the device stays reserved (`device.bytesAllocated`), the device's log reports it, the
   * backend stays open, and a later call tries again.
   *
   * @throws `DmaReleaseError` with all failures, after every step was tried. Its `errors` contain {@link PciError}
   *   `ERR_DMAPOOL_PCI_DMA_ACTIVE` when memory stays reserved, and `ERR_DMAPOOL_PCI_TIMEOUT` when a step exceeds its time
   *   limit, such as a backend that does not close within 90 seconds.
   */
  close(): Promise<void> {
    this.#closed = true;
    this.#closing ??= later(() => this.#close()).finally(() => {
      if (!this.#released) this.#closing = null;
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
        await within(this.address, MAX_CLOSE_TIME, step, action);
      } catch (error) {
        // These steps reject after `removed` has aborted.
        if (!this.removed.aborted) errors.push(error);
      }
    };
    if (!this.removed.aborted) await attempt('flushing posted writes', () => this.#backend.flush());
    let proof: DmaStopped | null = null;
    try {
      // Wait for a running stopDma() of the driver, which would not isolate the function.
      await this.#stopping?.catch(() => undefined);
      proof = await this.#stopDma(undefined, STEP_TIME, true);
    } catch (error) {
      errors.push(error);
    }
    const opening = this.#opening;
    if (opening !== null) await attempt('opening its interrupts', () => opening);
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
      this.#released = true;
      const memoryErrors = this.#releaseMemory();
      try {
        await within(this.address, MAX_BACKEND_CLOSE_TIME, 'closing its backend', () => this.#backend.close());
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

/**
 * Starts `action` after the caller has stored the promise. A failing access may abort `removed`, and a listener of `removed`
 * may call the same method: it must find the operation in progress.
 */
function later<T>(action: () => Promise<T>): Promise<T> {
  return Promise.resolve().then(action);
}
