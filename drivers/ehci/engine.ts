/**
 * Runs transfers: the schedule, the endpoint queues, their pools, and the loop that serves the controller's interrupts.
 */
import { DmaPool, DmaReleaseError } from 'dmapool';
import { describeThrown } from 'dmapool/arguments';
import { type DmaStopped, type Interrupts, type PciFunction, PciGoneError } from 'dmapool/pci';
import { closeInterrupts, releaseStopped, runAll } from '../common/release.ts';
import { settled } from '../common/time.ts';
import { type DataPool, UsbBuffer } from './buffer.ts';
import { UsbError } from './errors.ts';
import { EndpointQueue, type QueueHost, type QueueOptions } from './queue.ts';
import { COMMAND, INTERRUPTS, type OperationalRegisters, REGISTER, STATUS } from './registers.ts';
import { AsyncSchedule } from './schedule.ts';
import { DESCRIPTOR_POOL, PAGE } from './structures.ts';

/** Maximum milliseconds between checks of the controller: for time-outs and lost interrupts. */
const WATCH_INTERVAL = 100;
/** Time limit in milliseconds for the halt (USBCMD, Run/Stop: 16 microframes) and for the reset. */
const STOP_TIMEOUT = 1000;
/** Time limit in milliseconds for the end of the loop that serves interrupts: an access may hang. */
const SERVE_TIMEOUT = 10_000;

export class TransferEngine {
  readonly #pci: PciFunction;
  readonly #registers: OperationalRegisters;
  readonly #interrupts: Interrupts;
  readonly #onPortChange: () => Promise<void>;
  readonly #data: DataPool;
  readonly #queues = new Set<EndpointQueue>();
  readonly #schedule: AsyncSchedule;
  readonly #host: QueueHost;
  readonly #ended = new AbortController();
  readonly #forgetRelease: () => boolean;
  #stopping: Promise<void> | null = null;
  /** Proof with which all memory was released; null before. */
  #proof: DmaStopped | null = null;
  #serving: Promise<void> = Promise.resolve();

  /**
   * @param registers Registers of a controller that was reset.
   * @param interrupts The engine closes them, unless the constructor throws.
   * @throws `DmaOutOfMemoryError`
   */
  constructor(
    pci: PciFunction,
    registers: OperationalRegisters,
    interrupts: Interrupts,
    onPortChange: () => Promise<void>,
  ) {
    this.#pci = pci;
    this.#registers = registers;
    this.#interrupts = interrupts;
    this.#onPortChange = onPortChange;
    const { device } = pci;
    const made: Disposable[] = [];
    const keep = <T extends Disposable>(pool: T): T => {
      made.push(pool);
      return pool;
    };
    try {
      const qtds = keep(DmaPool.createManaged('ehci_qtd', device, DESCRIPTOR_POOL));
      const qhs = keep(DmaPool.createManaged('ehci_qh', device, DESCRIPTOR_POOL));
      this.#data = keep(DmaPool.createManaged('usb_data', device, { size: PAGE, align: PAGE }));
      this.#schedule = new AsyncSchedule(registers, qhs);
      this.#host = {
        qtds,
        qhs,
        schedule: this.#schedule,
        onFailure: (error) => this.end(error),
        onClosed: (queue) => this.#queues.delete(queue),
      };
    } catch (error) {
      for (const pool of made) pool[Symbol.dispose]();
      throw error;
    }
    // Actions run in reverse order: registered last, this one runs first if the function is closed before the driver.
    this.#forgetRelease = device.addAction(() => {
      const error = new UsbError('ERR_DMAPOOL_USB_CLOSED', pci.address, 'the PCI function was closed');
      const proof = pci.dmaStopped;
      if (proof !== null) this.#release(proof, error);
      else this.#keep(error, 'its device was detached while the controller may do DMA');
    });
  }

  /** Starts the controller. Closes the engine if that fails. */
  async start(): Promise<void> {
    const registers = this.#registers;
    try {
      await this.#pci.enableBusMaster();
      registers.write(REGISTER.interruptEnable, INTERRUPTS);
      registers.command(COMMAND.run | COMMAND.threshold8);
      await registers.until(REGISTER.status, STATUS.halted, 0, STOP_TIMEOUT, 'start');
    } catch (error) {
      // Report the original error. The device's log reports memory that is kept.
      await this.close().catch(() => undefined);
      throw error;
    }
    this.#serving = this.#serve();
  }

  /** The controller may still reach the engine's memory. */
  get keepsMemory(): boolean {
    return this.#proof === null;
  }

  /** The controller is being stopped, or has stopped. */
  get stopping(): boolean {
    return this.#stopping !== null;
  }

  /** Aborted when the controller has stopped. The reason is a {@link UsbError}. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  /** @throws `DmaOutOfMemoryError` @throws {@link UsbError} when the controller has stopped. */
  buffer(length: number): UsbBuffer {
    this.ended.throwIfAborted();
    return new UsbBuffer(this.#data, length);
  }

  /** @throws `DmaArgumentError` unless `value` is a buffer of this controller. */
  checkBuffer(value: UsbBuffer): void {
    UsbBuffer.check(value, this.#data);
  }

  /** Creates the queue of an endpoint. The caller links and closes it. @throws as {@link TransferEngine.buffer} */
  openQueue(options: QueueOptions): EndpointQueue {
    this.ended.throwIfAborted();
    const queue = new EndpointQueue(this.#host, options);
    this.#queues.add(queue);
    return queue;
  }

  /** Stops the controller for good. All transfers fail. Without a proof that it stopped, memory is kept. */
  end(cause: unknown): Promise<void> {
    return (this.#stopping ??= this.#stop(this.#asUsbError(cause)));
  }

  /**
   * {@link TransferEngine.end}, then closes the interrupts and releases all memory.
   *
   * @throws `PciError` `ERR_DMAPOOL_PCI_DMA_ACTIVE` when the controller can't be proven to have stopped. Its memory is
   *   kept, and a later call tries again. @throws `DmaReleaseError`; errors of closing the interrupts. The memory is
   *   released nevertheless.
   */
  async close(): Promise<void> {
    await this.end(new UsbError('ERR_DMAPOOL_USB_CLOSED', this.#pci.address, 'the controller was closed'));
    const { address } = this.#pci;
    const errors = await runAll([
      () => closeInterrupts(this.#interrupts, address),
      () => settled(this.#serving, SERVE_TIMEOUT),
    ]);
    const proof = this.#proof ?? (await this.#proveStopped());
    this.#release(proof, this.ended.reason as UsbError);
    // Let callers whose transfers failed just now free their buffers.
    await new Promise((resolve) => setTimeout(resolve));
    this.#forgetRelease();
    const pools = [this.#data, this.#host.qhs, this.#host.qtds];
    const releases = pools.map((pool) => () => {
      pool.destroy();
    });
    const release = (): void => {
      releaseStopped(proof, `${address}: releasing the driver's memory failed`, releases);
    };
    errors.push(...(await runAll([release])));
    if (errors.length === 1) throw errors[0];
    if (errors.length > 1) throw new DmaReleaseError(`${address}: failed to close all of it`, errors);
  }

  async #serve(): Promise<void> {
    try {
      for (;;) {
        const status = await this.#registers.read(REGISTER.status);
        // Ignore the port changes that the reset of a stopping controller causes.
        if (this.stopping) return;
        // Acknowledge first: events that occur during the checks raise a new interrupt.
        const events = status & INTERRUPTS;
        if (events !== 0) this.#registers.write(REGISTER.status, events);
        // A host system error halts the controller. Otherwise it halts only when Run/Stop is cleared (2.3.2).
        if ((status & (STATUS.hostSystemError | STATUS.halted)) !== 0) {
          const what = (status & STATUS.hostSystemError) === 0 ? 'halted by itself' : 'reported a host system error';
          throw new UsbError('ERR_DMAPOOL_USB_CONTROLLER', this.#pci.address, `the controller ${what}`);
        }
        if ((status & STATUS.portChange) !== 0) await this.#onPortChange();
        const now = performance.now();
        for (const queue of this.#queues) queue.poll(now);
        await this.#interrupts.wait({ timeout: WATCH_INTERVAL });
      }
    } catch (error) {
      await this.end(error);
    }
  }

  async #stop(error: UsbError): Promise<void> {
    this.#schedule.end();
    try {
      this.#release(await this.#proveStopped(), error);
    } catch (failure) {
      this.#keep(error, (failure as Error).message);
    }
  }

  /** @throws `PciError` `ERR_DMAPOOL_PCI_DMA_ACTIVE` */
  async #proveStopped(): Promise<DmaStopped> {
    const attempt = new AbortController();
    const stop = async (): Promise<void> => {
      this.#registers.write(REGISTER.interruptEnable, 0);
      this.#registers.command(0, COMMAND.run | COMMAND.asyncEnable);
      await this.#registers.until(REGISTER.status, STATUS.halted, STATUS.halted, STOP_TIMEOUT, 'halt');
      attempt.signal.throwIfAborted();
      this.#registers.ring(COMMAND.reset);
      // Throws if the write failed. Without this, a reset that was never requested would look complete below.
      await this.#registers.flush();
      await this.#registers.until(REGISTER.command, COMMAND.reset, 0, STOP_TIMEOUT, 'end of the reset');
    };
    try {
      return await this.#pci.stopDma({ stop });
    } finally {
      // A hanging attempt must not write to a controller that was started again.
      attempt.abort();
    }
  }

  /** Releases all memory of a stopped controller except the pools. */
  #release(proof: DmaStopped, error: UsbError): void {
    if (this.#proof !== null) return;
    this.#proof = proof;
    this.#schedule.end();
    this.#ended.abort(error);
    for (const queue of [...this.#queues]) queue.abandon(proof, error);
    this.#schedule.free(proof);
  }

  /** Fails all transfers of a controller that may still run. Its memory is kept until there is a proof. */
  #keep(error: UsbError, reason: string): void {
    this.#schedule.end();
    this.#ended.abort(error);
    for (const queue of this.#queues) queue.keep(error);
    const counts = [this.#host.qhs, this.#host.qtds, this.#data].map((pool) => String(pool.statistics().active));
    const message = `${counts[0]!} queue heads, ${counts[1]!} transfer descriptors and ${counts[2]!} pages are kept: ${reason}`;
    this.#pci.device.report('error', 'EHCI kept memory', message);
  }

  #asUsbError(cause: unknown): UsbError {
    if (cause instanceof UsbError) return cause;
    const { address } = this.#pci;
    if (cause instanceof PciGoneError || this.#pci.removed.aborted) {
      return new UsbError('ERR_DMAPOOL_USB_GONE', address, 'the controller is gone', { cause });
    }
    if (this.#pci.closed) {
      return new UsbError('ERR_DMAPOOL_USB_CLOSED', address, 'the PCI function was closed', { cause });
    }
    const what = cause instanceof Error ? cause.message : describeThrown(cause);
    return new UsbError('ERR_DMAPOOL_USB_CONTROLLER', address, what, { cause });
  }
}
