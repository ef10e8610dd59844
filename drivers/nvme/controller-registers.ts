/**
 * Stop, start and shutdown of a controller through its registers: NVM Express Base Specification 1.4, 3.1, 7.3, 7.6.
 */
import type { PciFunction } from 'dmapool/pci';
import { PciGoneError } from 'dmapool/pci';
import { waitUntil } from '../common/time.ts';
import { NvmeError, NvmeTimeoutError } from './errors.ts';
import { CC, type ControllerCapabilities, CSTS, PAGE_SIZE, parseCapabilities, REGISTER } from './registers.ts';

/** Size and addresses of the admin queue. */
export interface AdminQueueLocation {
  readonly entries: number;
  readonly submissionAddress: number;
  readonly completionAddress: number;
}

export class ControllerRegisters {
  readonly capabilities: ControllerCapabilities;
  /** Version of the specification: major in bits 31:16, minor in 15:8, tertiary in 7:0. */
  readonly version: number;
  readonly #pci: PciFunction;

  private constructor(pci: PciFunction, capabilities: ControllerCapabilities, version: number) {
    this.#pci = pci;
    this.capabilities = capabilities;
    this.version = version;
  }

  /** Reads the controller's capabilities. @throws {@link NvmeError} `ERR_DMAPOOL_NVME_UNSUPPORTED` */
  static async read(pci: PciFunction): Promise<ControllerRegisters> {
    const capabilities = parseCapabilities(await pci.bar(0).read64(REGISTER.cap));
    const { nvmCommandSet, minPageSize, maxEntries } = capabilities;
    if (!nvmCommandSet || minPageSize > PAGE_SIZE || maxEntries < 2) {
      const why = `NVM command set ${nvmCommandSet ? 'yes' : 'no'}, memory pages from ${String(minPageSize)} bytes on`;
      const message = `this driver needs the NVM command set and memory pages of ${String(PAGE_SIZE)} bytes; the controller has: ${why}`;
      throw new NvmeError('ERR_DMAPOOL_NVME_UNSUPPORTED', pci.address, message);
    }
    return new ControllerRegisters(pci, capabilities, await pci.bar(0).read32(REGISTER.vs));
  }

  async #status(): Promise<number> {
    const status = await this.#pci.bar(0).read32(REGISTER.csts);
    // No controller sets all bits: the device is gone, although configuration space may still respond.
    if (status === 0xffff_ffff) throw new PciGoneError(this.#pci.address, 'its controller status reads all ones');
    return status;
  }

  /** CSTS.CFS (9.5): an internal error, which only a reset clears. */
  async isFatal(): Promise<boolean> {
    return ((await this.#status()) & CSTS.fatal) !== 0;
  }

  /** Waits until CSTS satisfies `done`. @throws {@link NvmeTimeoutError}, the reason of `signal` */
  async #wait(done: (status: number) => boolean, timeout: number, what: string, signal: AbortSignal): Promise<void> {
    let status = 0;
    if (await waitUntil(async () => done((status = await this.#status())), timeout, 1, signal)) {
      signal.throwIfAborted();
      return;
    }
    const message = `the controller did not ${what} within ${String(timeout)} ms (CSTS is 0x${status.toString(16)})`;
    throw new NvmeTimeoutError(this.#pci.address, message);
  }

  /** Time limit of {@link ControllerRegisters.disable} in milliseconds: it waits at most twice until RDY equals EN. */
  get stopTimeout(): number {
    return 2 * this.capabilities.readyTimeout + 1000;
  }

  /**
   * Controller Level Reset: clears CC.EN (7.3.2). Afterwards the controller has no I/O queues.
   *
   * @param signal Once it is aborted, nothing is written.
   * @throws {@link NvmeTimeoutError} when the controller does not stop.
   */
  async disable(signal: AbortSignal): Promise<void> {
    const { readyTimeout } = this.capabilities;
    const bar = this.#pci.bar(0);
    const configuration = await bar.read32(REGISTER.cc);
    if ((configuration & CC.enable) !== 0) {
      // EN must not be cleared before RDY has followed it (3.1.5). After a fatal error RDY may never be set.
      const settled = (status: number): boolean => (status & (CSTS.ready | CSTS.fatal)) !== 0;
      await this.#wait(settled, readyTimeout, 'become ready', signal);
      bar.write32(REGISTER.cc, configuration & ~(CC.enable | CC.shutdownMask));
    }
    await this.#wait((status) => (status & CSTS.ready) === 0, readyTimeout, 'stop', signal);
  }

  /**
   * Resets the function of a controller that could not be disabled.
   *
   * @param failure Error of the attempt to disable it.
   * @throws `failure` when the function has no reset; {@link NvmeTimeoutError}
   */
  async resetFunction(failure: Error, signal: AbortSignal): Promise<void> {
    if (!(failure instanceof NvmeTimeoutError) || !(await this.#pci.reset())) throw failure;
    const stopped = (status: number): boolean => (status & CSTS.ready) === 0;
    await this.#wait(stopped, this.capabilities.readyTimeout, 'stop after a reset of the function', signal);
  }

  /**
   * Starts the controller with its admin queue (7.6.1, steps 1 to 6). It must be disabled. From now on it may do DMA.
   * @param signal Once it is aborted, nothing is written.
   * @throws {@link NvmeTimeoutError}, {@link NvmeError} `ERR_DMAPOOL_NVME_PROTOCOL` when it reports a fatal error.
   */
  async enable(admin: AdminQueueLocation, signal: AbortSignal): Promise<void> {
    const bar = this.#pci.bar(0);
    await this.#pci.enableBusMaster();
    signal.throwIfAborted();
    bar.write32(REGISTER.aqa, (admin.entries - 1) | ((admin.entries - 1) << 16));
    bar.write64(REGISTER.asq, admin.submissionAddress);
    bar.write64(REGISTER.acq, admin.completionAddress);
    // Throws if a write failed: an enabled controller without these addresses would write to other memory.
    await bar.flush();
    signal.throwIfAborted();
    // Round-robin arbitration, pages of 4096 bytes and the NVM command set are all encoded as 0.
    bar.write32(REGISTER.cc, CC.entrySizes | CC.enable);
    const settled = (status: number): boolean => (status & (CSTS.ready | CSTS.fatal)) !== 0;
    await this.#wait(settled, this.capabilities.readyTimeout, 'become ready', signal);
    if (await this.isFatal()) {
      throw new NvmeError(
        'ERR_DMAPOOL_NVME_PROTOCOL',
        this.#pci.address,
        'fatal controller status (CSTS.CFS) after enable',
      );
    }
  }

  /** Normal shutdown (7.6.2): the controller flushes its caches. Waits until it is complete. */
  async shutdown(timeout: number, signal: AbortSignal): Promise<void> {
    const bar = this.#pci.bar(0);
    const configuration = await bar.read32(REGISTER.cc);
    signal.throwIfAborted();
    bar.write32(REGISTER.cc, (configuration & ~CC.shutdownMask) | CC.shutdownNormal);
    const complete = (status: number): boolean => (status & CSTS.shutdownMask) === CSTS.shutdownComplete;
    await this.#wait(complete, timeout, 'shut down', signal);
  }
}
