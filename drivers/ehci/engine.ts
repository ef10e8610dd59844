/** What runs transfers: the schedule, the endpoints' queues, their pools, and the loop that hears what the controller says. */
import { DmaPool } from 'dmapool';
import { describeThrown } from 'dmapool/arguments';
import { type DmaStopped, type Interrupts, type PciFunction, PciGoneError } from 'dmapool/pci';
import { releaseStopped } from '../common/release.ts';
import { type DataPool, UsbBuffer } from './buffer.ts';
import { UsbError } from './errors.ts';
import { EndpointQueue, type QueueHost, type QueueOptions } from './queue.ts';
import { COMMAND, INTERRUPTS, type OperationalRegisters, REGISTER, STATUS } from './registers.ts';
import { AsyncSchedule } from './schedule.ts';
import { DESCRIPTOR_POOL, PAGE } from './structures.ts';

/** Milliseconds from one look at the controller to the next when it does not interrupt: time-outs, lost interrupts. */
const WATCH_INTERVAL = 100;
/** Milliseconds until the controller must have halted (USBCMD, Run/Stop: 16 microframes) and been reset. */
const STOP_TIMEOUT = 1000;

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
  /** With it all memory was released. */
  #proof: DmaStopped | null = null;
  #serving: Promise<void> = Promise.resolve();

  /**
   * @param registers Of a controller that has been reset.
   * @param interrupts The engine closes them, but not when it can not be made.
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
    // Registered last, so done first should somebody close the function under us: its DMA is proven stopped by then.
    this.#forgetRelease = device.addAction(() => {
      const error = new UsbError('ERR_DMAPOOL_USB_CLOSED', pci.address, 'the PCI function was closed');
      const proof = pci.dmaStopped;
      if (proof !== null) this.#release(proof, error);
      else this.#keep(error, 'its device was detached while the controller may do DMA');
    });
  }

  /** Starts the controller. When that fails, the engine is closed. */
  async start(): Promise<void> {
    const registers = this.#registers;
    try {
      await this.#pci.enableBusMaster();
      registers.write(REGISTER.interruptEnable, INTERRUPTS);
      registers.command(COMMAND.run | COMMAND.threshold8);
      await registers.until(REGISTER.status, STATUS.halted, 0, STOP_TIMEOUT, 'start');
    } catch (error) {
      // Report the original error; the device's log has memory that is kept.
      await this.close().catch(() => undefined);
      throw error;
    }
    this.#serving = this.#serve();
  }

  /** True while the controller may reach memory of the engine's. */
  get keepsMemory(): boolean {
    return this.#proof === null;
  }

  /** True once the controller is being stopped. */
  get stopping(): boolean {
    return this.#stopping !== null;
  }

  /** Aborted when the controller was stopped, with the {@link UsbError} that says why. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  /** @throws `DmaOutOfMemoryError` @throws {@link UsbError} when the controller was stopped. */
  buffer(length: number): UsbBuffer {
    this.ended.throwIfAborted();
    return new UsbBuffer(this.#data, length);
  }

  /** Throws `DmaArgumentError` unless `value` is a buffer of this controller's. */
  checkBuffer(value: UsbBuffer): void {
    UsbBuffer.check(value, this.#data);
  }

  /** Makes the queue of an endpoint, which is the caller's to link and close. @throws as {@link TransferEngine.buffer} */
  openQueue(options: QueueOptions): EndpointQueue {
    this.ended.throwIfAborted();
    const queue = new EndpointQueue(this.#host, options);
    this.#queues.add(queue);
    return queue;
  }

  /** Stops the controller for good; every transfer fails. What it may still reach is kept. */
  end(cause: unknown): Promise<void> {
    return (this.#stopping ??= this.#stop(this.#asUsbError(cause)));
  }

  /**
   * {@link TransferEngine.end}, and takes down all the rest.
   *
   * @throws `PciError` `ERR_DMAPOOL_PCI_DMA_ACTIVE` when nothing proves that the controller stopped: its memory is kept, and a
   *   later call tries again. @throws `DmaReleaseError`
   */
  async close(): Promise<void> {
    await this.end(new UsbError('ERR_DMAPOOL_USB_CLOSED', this.#pci.address, 'the controller was closed'));
    await this.#interrupts.close();
    await this.#serving;
    const proof = this.#proof ?? (await this.#proveStopped());
    this.#release(proof, this.ended.reason as UsbError);
    // Those whose transfers failed just now give their buffers back first.
    await new Promise((resolve) => setTimeout(resolve));
    this.#forgetRelease();
    const pools = [this.#data, this.#host.qhs, this.#host.qtds];
    const releases = pools.map((pool) => () => {
      pool.destroy();
    });
    releaseStopped(proof, `${this.#pci.address}: memory of the EHCI driver failed to go back`, releases);
  }

  async #serve(): Promise<void> {
    try {
      for (;;) {
        const status = await this.#registers.read(REGISTER.status);
        // A controller that is being reset drops its ports: that is no news of devices.
        if (this.stopping) return;
        // Acknowledged before looking, so that what happens meanwhile interrupts again.
        const news = status & INTERRUPTS;
        if (news !== 0) this.#registers.write(REGISTER.status, news);
        // After a host system error it halts; else it halts only when told to (2.3.2).
        if ((status & (STATUS.hostSystemError | STATUS.halted)) !== 0) {
          const what = (status & STATUS.hostSystemError) === 0 ? 'halted by itself' : 'reports a host system error';
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
      // Reports a failed write here: without a reset, the bit below reads 0 too.
      await this.#pci.bar(0).flush();
      await this.#registers.until(REGISTER.command, COMMAND.reset, 0, STOP_TIMEOUT, 'end of the reset');
    };
    try {
      return await this.#pci.stopDma({ stop });
    } finally {
      // What hangs must not write to a controller that was started again.
      attempt.abort();
    }
  }

  /** Takes everything back from a controller that is stopped. */
  #release(proof: DmaStopped, error: UsbError): void {
    if (this.#proof !== null) return;
    this.#proof = proof;
    this.#schedule.end();
    this.#ended.abort(error);
    for (const queue of [...this.#queues]) queue.abandon(proof, error);
    this.#schedule.free(proof);
  }

  /** Fails everything of a controller that may go on; its memory stays reserved until it is proven stopped. */
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
