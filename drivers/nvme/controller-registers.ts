/** Stopping, starting and shutting down a controller by its registers: NVM Express Base Specification 1.4, 3.1, 7.3, 7.6. */
import type { PciFunction } from 'dmapool/pci';
import { PciGoneError } from 'dmapool/pci';
import { waitUntil } from '../common/time.ts';
import { NvmeError, NvmeTimeoutError } from './errors.ts';
import { CC, type ControllerCapabilities, CSTS, PAGE_SIZE, parseCapabilities, REGISTER } from './registers.ts';

/** What the admin queue is, for the controller. */
export interface AdminQueueLocation {
  readonly entries: number;
  readonly submissionAddress: number;
  readonly completionAddress: number;
}

export class ControllerRegisters {
  readonly capabilities: ControllerCapabilities;
  /** Version that the controller keeps to: major in bits 31:16, minor in 15:8, tertiary in 7:0. */
  readonly version: number;
  readonly #pci: PciFunction;

  private constructor(pci: PciFunction, capabilities: ControllerCapabilities, version: number) {
    this.#pci = pci;
    this.capabilities = capabilities;
    this.version = version;
  }

  /** Looks at what the controller can do. @throws {@link NvmeError} `ERR_DMAPOOL_NVME_UNSUPPORTED` */
  static async read(pci: PciFunction): Promise<ControllerRegisters> {
    const capabilities = parseCapabilities(await pci.bar(0).read64(REGISTER.cap));
    const { nvmCommandSet, minPageSize, maxEntries } = capabilities;
    if (!nvmCommandSet || minPageSize > PAGE_SIZE || maxEntries < 2) {
      const why = `NVM command set ${nvmCommandSet ? 'yes' : 'no'}, memory pages from ${String(minPageSize)} bytes on`;
      const message = `this driver needs the NVM command set and memory pages of ${String(PAGE_SIZE)} bytes; it has: ${why}`;
      throw new NvmeError('ERR_DMAPOOL_NVME_UNSUPPORTED', pci.address, message);
    }
    return new ControllerRegisters(pci, capabilities, await pci.bar(0).read32(REGISTER.vs));
  }

  async #status(): Promise<number> {
    const status = await this.#pci.bar(0).read32(REGISTER.csts);
    // No controller has all bits set: nobody is there, though configuration space may still answer.
    if (status === 0xffff_ffff) throw new PciGoneError(this.#pci.address, 'its controller status reads all ones');
    return status;
  }

  /** True after an internal error that only a reset can mend: CSTS.CFS (9.5). */
  async isFatal(): Promise<boolean> {
    return ((await this.#status()) & CSTS.fatal) !== 0;
  }

  /** Waits until CSTS satisfies `done`. @throws {@link NvmeTimeoutError} */
  async #wait(done: (status: number) => boolean, timeout: number, what: string): Promise<void> {
    let status = 0;
    if (await waitUntil(async () => done((status = await this.#status())), timeout)) return;
    const message = `did not ${what} within ${String(timeout)} ms (CSTS is 0x${status.toString(16)})`;
    throw new NvmeTimeoutError(this.#pci.address, message);
  }

  /**
   * Controller Level Reset by CC.EN (7.3.2): when it is over the controller touches no memory and has no I/O queues. Where
   * that does not help, the function is reset.
   *
   * @throws {@link NvmeTimeoutError} when the controller does not stop; it may then no longer do DMA.
   */
  async disable(): Promise<void> {
    const { readyTimeout } = this.capabilities;
    try {
      await this.#clearEnable(readyTimeout);
    } catch (error) {
      if (!(error instanceof NvmeTimeoutError)) throw error;
      if (!(await this.#pci.reset())) {
        await this.#pci.disableBusMaster();
        throw error;
      }
      await this.#wait((status) => (status & CSTS.ready) === 0, readyTimeout, 'stop after a reset of the function');
    }
  }

  async #clearEnable(timeout: number): Promise<void> {
    const bar = this.#pci.bar(0);
    const configuration = await bar.read32(REGISTER.cc);
    if ((configuration & CC.enable) !== 0) {
      // EN must not be cleared before RDY has followed it (3.1.5); a fatal one need not become ready any more.
      await this.#wait((status) => (status & (CSTS.ready | CSTS.fatal)) !== 0, timeout, 'become ready');
      bar.write32(REGISTER.cc, configuration & ~(CC.enable | CC.shutdownMask));
    }
    await this.#wait((status) => (status & CSTS.ready) === 0, timeout, 'stop');
  }

  /**
   * Starts the controller with its admin queue (7.6.1, steps 1 to 5). It must be disabled, and may do DMA from now on.
   * @throws {@link NvmeTimeoutError}, {@link NvmeError} `ERR_DMAPOOL_NVME_PROTOCOL` when it reports a fatal error.
   */
  async enable(admin: AdminQueueLocation): Promise<void> {
    const bar = this.#pci.bar(0);
    await this.#pci.enableBusMaster();
    bar.write32(REGISTER.aqa, (admin.entries - 1) | ((admin.entries - 1) << 16));
    bar.write64(REGISTER.asq, admin.submissionAddress);
    bar.write64(REGISTER.acq, admin.completionAddress);
    // Round robin, pages of 4096 bytes, NVM command set: all of these are 0.
    bar.write32(REGISTER.cc, CC.entrySizes | CC.enable);
    const settled = (status: number): boolean => (status & (CSTS.ready | CSTS.fatal)) !== 0;
    await this.#wait(settled, this.capabilities.readyTimeout, 'become ready');
    if (await this.isFatal()) {
      throw new NvmeError(
        'ERR_DMAPOOL_NVME_PROTOCOL',
        this.#pci.address,
        'fatal controller status (CSTS.CFS) when enabled',
      );
    }
  }

  /** Tells the controller to save what it has in its caches, and waits until it did (7.6.2). */
  async shutdown(timeout: number): Promise<void> {
    const bar = this.#pci.bar(0);
    const configuration = await bar.read32(REGISTER.cc);
    bar.write32(REGISTER.cc, (configuration & ~CC.shutdownMask) | CC.shutdownNormal);
    await this.#wait((status) => (status & CSTS.shutdownMask) === CSTS.shutdownComplete, timeout, 'shut down');
  }
}
