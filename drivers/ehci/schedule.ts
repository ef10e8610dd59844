/** The asynchronous schedule: the ring of queue heads that the controller walks whenever it has time. EHCI 1.0, 4.8. */
import { type DmaPool, storeRelease32 } from 'dmapool';
import { COMMAND, type OperationalRegisters, REGISTER, STATUS } from './registers.ts';
import {
  CAPABILITIES_MULT_1,
  CHARACTERISTICS,
  LINK,
  linkTo,
  QH,
  type QhBlock,
  TOKEN,
  writeQueueHead,
} from './structures.ts';

/** Milliseconds; the specification asks for a few microframes, emulated and virtual machines may be slow. */
const ADVANCE_TIMEOUT = 2000;

export class AsyncSchedule {
  readonly #registers: OperationalRegisters;
  readonly #pool: DmaPool<'ehci_qh'>;
  /** The ring's fixed member: it executes nothing, marks the start (4.9), and is never unlinked. */
  readonly #head: QhBlock;
  /** The others, in the order of the ring. */
  readonly #ring: QhBlock[] = [];
  /** One change at a time: there is one doorbell. */
  #changes: Promise<unknown> = Promise.resolve();
  #freed = false;

  /** @throws `DmaOutOfMemoryError` */
  constructor(registers: OperationalRegisters, pool: DmaPool<'ehci_qh'>) {
    this.#registers = registers;
    this.#pool = pool;
    this.#head = pool.alloc();
    const { head, speedHigh } = CHARACTERISTICS;
    writeQueueHead(this.#head, head | speedHigh, CAPABILITIES_MULT_1, LINK.terminate);
    this.#head.u32[QH.token] = TOKEN.halted;
    this.#head.u32[QH.link] = linkTo(this.#head, LINK.queueHead);
  }

  /** Puts a queue head into the ring (4.8.1). The first one starts the schedule. */
  link(qh: QhBlock): Promise<void> {
    return this.#change(() => {
      if (this.#freed) return Promise.resolve();
      const { u32 } = this.#head;
      qh.u32[QH.link] = u32[QH.link]!;
      storeRelease32(u32, QH.link, linkTo(qh, LINK.queueHead));
      if (this.#ring.unshift(qh) === 1) {
        // The register has moved on to wherever the controller stopped (2.3.7).
        this.#registers.write(REGISTER.asyncList, this.#head.dma);
        this.#registers.command(COMMAND.asyncEnable);
      }
      return Promise.resolve();
    });
  }

  /**
   * Takes a queue head out of the ring. When this resolves the controller does not know it any more, nor anything that
   * hangs on it (4.8.2).
   *
   * Also one that is still active, when a transfer took too long or its pipe is closed. The specification would have its
   * qTDs deactivated first, and wait for the queue head to go inactive. But the qTD being executed is in the overlay,
   * which only the controller may write, and there it stays active for as long as the device answers NAK: that wait has
   * no end just when it is needed. Until the controller has let go (its answer to the doorbell, or the end of the
   * schedule) it may go on with the transfer; so nothing is read, changed or freed before.
   *
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_CONTROLLER` when the controller does not say so in time.
   */
  unlink(qh: QhBlock): Promise<void> {
    return this.#change(async () => {
      const at = this.#ring.indexOf(qh);
      if (at === -1 || this.#freed) return;
      const before = at === 0 ? this.#head : this.#ring[at - 1]!;
      storeRelease32(before.u32, QH.link, qh.u32[QH.link]!);
      this.#ring.splice(at, 1);
      if (this.#ring.length === 0) await this.#stop();
      else await this.#ringDoorbell();
    });
  }

  /** Gives the head back. For when the controller is stopped. */
  free(): void {
    if (this.#freed) return;
    this.#freed = true;
    this.#ring.length = 0;
    this.#pool.free(this.#head);
  }

  /** The enable bit may only change while it and the status bit agree (2.3.1). */
  async #stop(): Promise<void> {
    const { asyncActive } = STATUS;
    await this.#registers.until(REGISTER.status, asyncActive, asyncActive, ADVANCE_TIMEOUT, 'asynchronous schedule');
    this.#registers.command(0, COMMAND.asyncEnable);
    await this.#registers.until(REGISTER.status, asyncActive, 0, ADVANCE_TIMEOUT, 'end of the asynchronous schedule');
  }

  /**
   * The status bit says that the controller has let go of all that it had cached. Not the doorbell's own bit, which reads
   * zero earlier: the status may wait for the interrupt threshold, and would then look like the next doorbell's answer.
   */
  async #ringDoorbell(): Promise<void> {
    const { asyncAdvance } = STATUS;
    this.#registers.ring(COMMAND.doorbell);
    await this.#registers.until(REGISTER.status, asyncAdvance, asyncAdvance, ADVANCE_TIMEOUT, 'answer to the doorbell');
    this.#registers.write(REGISTER.status, asyncAdvance);
  }

  #change(action: () => Promise<void>): Promise<void> {
    const change = this.#changes.then(action);
    this.#changes = change.catch(() => undefined);
    return change;
  }
}
