/** The asynchronous schedule: the ring of queue heads that the controller walks whenever it has time. EHCI 1.0, 4.8. */
import { type DmaPool, loadAcquire32, storeRelease32 } from 'dmapool';
import type { DmaStopped } from 'dmapool/pci';
import { delay } from '../common/time.ts';
import { UsbError } from './errors.ts';
import { COMMAND, type OperationalRegisters, REGISTER, STATUS } from './registers.ts';
import {
  CAPABILITIES_MULT_1,
  CHARACTERISTICS,
  LINK,
  linkTo,
  QH,
  type QhBlock,
  TOKEN,
  type Unlinked,
  writeQueueHead,
} from './structures.ts';

/** Milliseconds; the specification asks for a few microframes, emulated and virtual machines may be slow. */
const ADVANCE_TIMEOUT = 2000;
/** Doorbell cycles until an unlinked queue head is surely not cached: some controllers answer the first one too early. */
const DOORBELL_CYCLES = 2;
/** Milliseconds without a change of its overlay after which an unlinked queue head that was active is at rest. */
const QUIET_TIME = 2;
const UNLINKED = {} as Unlinked;

export class AsyncSchedule {
  readonly #registers: OperationalRegisters;
  readonly #pool: DmaPool<'ehci_qh'>;
  /** The ring's fixed member: it executes nothing, marks the start (4.9), and is never unlinked. */
  readonly #head: QhBlock;
  /** The others, in the order of the ring. */
  readonly #ring: QhBlock[] = [];
  /** One change at a time: there is one doorbell. */
  #changes: Promise<unknown> = Promise.resolve();
  /** The controller is stopped or being stopped, or does not answer: nothing is linked or unlinked any more. */
  #ended = false;
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
      if (this.#ended) return Promise.resolve();
      // By what is known here: the controller can write to the links in memory.
      qh.u32[QH.link] = linkTo(this.#ring[0] ?? this.#head, LINK.queueHead);
      storeRelease32(this.#head.u32, QH.link, linkTo(qh, LINK.queueHead));
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
   * no end just when it is needed. So nothing is read, changed or freed before the controller answered the doorbell twice,
   * or the schedule ended, and before the overlay of an active queue head was stable for {@link QUIET_TIME}: there are
   * controllers that go on with a transaction after their answer. Linux has the same two rules.
   *
   * @returns The proof; null when the schedule ended, which proves nothing.
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_CONTROLLER` when the controller does not say so in time. The schedule has ended then.
   */
  unlink(qh: QhBlock): Promise<Unlinked | null> {
    return this.#change(async () => {
      if (this.#ended) return null;
      const at = this.#ring.indexOf(qh);
      if (at === -1) return UNLINKED;
      const before = at === 0 ? this.#head : this.#ring[at - 1]!;
      const after = this.#ring[at + 1] ?? this.#head;
      const wasActive = isActive(qh);
      try {
        storeRelease32(before.u32, QH.link, linkTo(after, LINK.queueHead));
        this.#ring.splice(at, 1);
        if (this.#ring.length === 0) await this.#stop();
        else for (let cycle = 0; cycle < DOORBELL_CYCLES; cycle++) await this.#ringDoorbell();
        if (wasActive || isActive(qh)) await this.#untilQuiet(qh);
      } catch (error) {
        this.#ended = true;
        throw error;
      }
      return this.#ended ? null : UNLINKED;
    });
  }

  /** Nothing is linked or unlinked from now on: the controller is being stopped. */
  end(): void {
    this.#ended = true;
  }

  /**
   * Gives the head back.
   *
   * @param proof That the controller does not reach it any more.
   */
  free(proof: DmaStopped): void {
    this.#ended = true;
    if (this.#freed || !proof.holds) return;
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

  async #untilQuiet(qh: QhBlock): Promise<void> {
    const end = performance.now() + ADVANCE_TIMEOUT;
    let seen = overlayOf(qh);
    for (let since = performance.now(); performance.now() - since < QUIET_TIME;) {
      await delay(1);
      const now = overlayOf(qh);
      if (now === seen) continue;
      seen = now;
      since = performance.now();
      if (since < end) continue;
      const what = `the overlay of an unlinked queue head still changes after ${String(ADVANCE_TIMEOUT)} ms`;
      throw new UsbError('ERR_DMAPOOL_USB_CONTROLLER', this.#pool.device.name, what);
    }
  }

  #change<T>(action: () => Promise<T>): Promise<T> {
    const change = this.#changes.then(action);
    this.#changes = change.catch(() => undefined);
    return change;
  }
}

function isActive(qh: QhBlock): boolean {
  return (loadAcquire32(qh.u32, QH.token) & TOKEN.active) !== 0;
}

function overlayOf(qh: QhBlock): string {
  return [loadAcquire32(qh.u32, QH.token), ...qh.u32.subarray(QH.current, QH.words)].join();
}
