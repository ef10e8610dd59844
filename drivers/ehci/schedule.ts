/**
 * The asynchronous schedule: the ring of queue heads, which the controller traverses in its spare time. EHCI 1.0, 4.8.
 */
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

/** Time limit in milliseconds. The specification says a few microframes; emulated controllers may be slow. */
const ADVANCE_TIMEOUT = 2000;
/** Doorbell cycles per unlink. One is not enough: some controllers set the status before their cache is clear. */
const DOORBELL_CYCLES = 2;
/** Milliseconds without a change of its overlay after which an unlinked queue head that was active counts as idle. */
const QUIET_TIME = 2;
const UNLINKED = {} as Unlinked;

export class AsyncSchedule {
  readonly #registers: OperationalRegisters;
  readonly #pool: DmaPool<'ehci_qh'>;
  /** Fixed head of the ring. It executes nothing, marks the start (4.9), and is never unlinked. */
  readonly #head: QhBlock;
  /** The other queue heads, in ring order. */
  readonly #ring: QhBlock[] = [];
  /** Serializes changes of the ring: there is only one doorbell. */
  #changes: Promise<unknown> = Promise.resolve();
  /** The controller is stopped, being stopped or not responding: the ring is not changed any more. */
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

  /** Links a queue head into the ring (4.8.1). The first one enables the schedule. */
  link(qh: QhBlock): Promise<void> {
    return this.#change(async () => {
      if (this.#ended) return;
      // Use the driver's own copy of the ring: the controller can overwrite the links in memory.
      qh.u32[QH.link] = linkTo(this.#ring[0] ?? this.#head, LINK.queueHead);
      storeRelease32(this.#head.u32, QH.link, linkTo(qh, LINK.queueHead));
      if (this.#ring.unshift(qh) > 1) return;
      // Rewrite the register: the controller has advanced it while it ran (2.3.7).
      this.#registers.write(REGISTER.asyncList, this.#head.dma);
      // Throws if the write failed: the register may still hold the address of a queue head that was freed.
      await this.#registers.flush();
      if (!this.#ended) this.#registers.command(COMMAND.asyncEnable);
    });
  }

  /**
   * Unlinks a queue head. When this resolves with a proof, the controller uses neither the queue head nor its qTDs
   * (4.8.2).
   *
   * The queue head may be active, when a transfer timed out or its pipe is closed. The specification says to deactivate
   * its qTDs first and to wait until the queue head is inactive. But the overlay holds the current qTD, and only the
   * controller may write it. While the device answers NAK the overlay stays active, so that wait might never end. Two
   * rules replace it, as in Linux: wait for two doorbell cycles, or for the schedule to stop; then wait until the
   * overlay of an active queue head is unchanged for {@link QUIET_TIME}, since some controllers continue a transaction
   * after the doorbell.
   *
   * @returns The proof; null if the schedule has ended, which proves nothing.
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_CONTROLLER` when the controller does not respond in time. The schedule
   *   has ended then.
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

  /** Ends the schedule before the controller is stopped: the ring is not changed any more. */
  end(): void {
    this.#ended = true;
  }

  /**
   * Frees the head of the ring.
   *
   * @param proof Proof that the controller does no DMA.
   */
  free(proof: DmaStopped): void {
    this.#ended = true;
    if (this.#freed || !proof.holds) return;
    this.#freed = true;
    this.#ring.length = 0;
    this.#pool.free(this.#head);
  }

  /** Disables the schedule. The enable bit may be changed only while it equals the status bit (2.3.1). */
  async #stop(): Promise<void> {
    const { asyncActive } = STATUS;
    await this.#registers.until(
      REGISTER.status,
      asyncActive,
      asyncActive,
      ADVANCE_TIMEOUT,
      'start of the asynchronous schedule',
    );
    this.#registers.command(0, COMMAND.asyncEnable);
    await this.#registers.until(REGISTER.status, asyncActive, 0, ADVANCE_TIMEOUT, 'end of the asynchronous schedule');
  }

  /**
   * Rings the doorbell and waits for the status bit, which is set once the controller has dropped all cached queue
   * heads. To wait for the doorbell bit is not enough: it clears earlier. The status bit may be set as late as the next
   * interrupt threshold, and would then be mistaken for the answer to the next doorbell.
   */
  async #ringDoorbell(): Promise<void> {
    const { asyncAdvance } = STATUS;
    this.#registers.ring(COMMAND.doorbell);
    await this.#registers.until(REGISTER.status, asyncAdvance, asyncAdvance, ADVANCE_TIMEOUT, 'answer to the doorbell');
    this.#registers.write(REGISTER.status, asyncAdvance);
    // Throws if the write failed: a bit that stays set would be mistaken for the answer to the next doorbell.
    await this.#registers.flush();
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
