/** One endpoint's transfers: a queue head and its chain of qTDs. EHCI 1.0, 4.10. */
import { loadAcquire32, type DmaPool, storeRelease32 } from 'dmapool';
import type { DmaStopped } from 'dmapool/pci';
import type { UsbBuffer } from './buffer.ts';
import { UsbError } from './errors.ts';
import type { AsyncSchedule } from './schedule.ts';
import {
  BYTES_A_QTD,
  CAPABILITIES_MULT_1,
  CHARACTERISTICS,
  LINK,
  linkTo,
  PAGE,
  PAGES_A_QTD,
  PID,
  type Pid,
  QH,
  type QhBlock,
  QTD,
  type QtdBlock,
  type ReleaseProof,
  SETUP_OFFSET,
  SETUP_SIZE,
  TOKEN,
  type Unlinked,
  writeDummy,
  writeOverlay,
  writeQueueHead,
} from './structures.ts';

/** What a queue needs of its controller. */
export interface QueueHost {
  readonly schedule: Pick<AsyncSchedule, 'link' | 'unlink'>;
  readonly qhs: DmaPool<'ehci_qh'>;
  readonly qtds: DmaPool<'ehci_qtd'>;
  /** The controller does not answer: it is stopped, and every queue abandoned or kept, when this resolves. */
  readonly onFailure: (error: unknown) => Promise<void>;
  /** Nothing is left of a queue. */
  readonly onClosed: (queue: EndpointQueue) => void;
}

/** Which endpoint. */
export interface QueueOptions {
  /** For messages: controller, device and endpoint. */
  readonly name: string;
  readonly address: number;
  readonly endpoint: number;
  readonly packetSize: number;
  readonly control: boolean;
  /** What a failed transaction really means: perhaps the device is gone. */
  readonly explain: (error: UsbError) => Promise<UsbError>;
}

/** What one transfer moves. */
export interface TransferRequest {
  /** Of a control transfer: the eight bytes of its SETUP packet. */
  readonly setup: Uint8Array | null;
  /** Direction of the data. */
  readonly pid: typeof PID.in | typeof PID.out;
  /** May be null when there are no data. */
  readonly buffer: UsbBuffer | null;
  /** Bytes of the buffer to send, or to receive at most. */
  readonly length: number;
  /** Milliseconds. */
  readonly timeout: number;
}

interface Transfer {
  /** Its qTDs. */
  readonly chain: readonly QtdBlock[];
  /** Which of them move data: from `first` up to, without, `end`. */
  readonly first: number;
  readonly end: number;
  readonly request: TransferRequest;
  readonly deadline: number;
  readonly resolve: (length: number) => void;
  readonly reject: (error: UsbError) => void;
  failing: boolean;
}

/**
 * The queue always ends in a _dummy_: a qTD that is not active, before which the controller waits. A new transfer is
 * written into it and behind it, with a new dummy at its end; the dummy's token is written last, and that starts it. So
 * transfers begin without stopping the controller, and without telling it.
 *
 *     QH --> dummy               becomes          QH --> qTD --> qTD --> new dummy
 *
 * One transfer runs at a time; others wait their turn.
 */
export class EndpointQueue {
  readonly #host: QueueHost;
  readonly #options: QueueOptions;
  #qh: QhBlock | null;
  #dummy: QtdBlock;
  #transfer: Transfer | null = null;
  #turn: Promise<void> = Promise.resolve();
  /** What unlinks the queue head happens one after the other. */
  #changes: Promise<void> = Promise.resolve();
  #ended: UsbError | null = null;
  /** The transfer failed without proof that the controller does not go on with it; its buffer, if any. */
  #isKept = false;
  #kept: UsbBuffer | null = null;

  /** Makes the queue of an endpoint. It does nothing before {@link EndpointQueue.link}. @throws `DmaOutOfMemoryError` */
  constructor(host: QueueHost, options: QueueOptions) {
    this.#host = host;
    this.#options = options;
    const qh = host.qhs.alloc();
    try {
      this.#dummy = host.qtds.alloc();
    } catch (error) {
      host.qhs.free(qh);
      throw error;
    }
    this.#qh = qh;
    writeDummy(this.#dummy);
    const { endpointShift, packetShift, speedHigh, toggleFromQtd, nakReload } = CHARACTERISTICS;
    const { address, endpoint, packetSize, control } = options;
    const kind = speedHigh + nakReload + (control ? toggleFromQtd : 0);
    const characteristics = kind + (packetSize << packetShift) + (endpoint << endpointShift) + address;
    writeQueueHead(qh, characteristics, CAPABILITIES_MULT_1, linkTo(this.#dummy));
  }

  /** Shows the queue to the controller. */
  link(): Promise<void> {
    return this.#change(async () => {
      if (this.#qh !== null) await this.#host.schedule.link(this.#qh);
    });
  }

  /**
   * Runs one transfer.
   * @returns Bytes of data that were moved: a device may send fewer than asked for.
   * @throws {@link UsbError} @throws `DmaOutOfMemoryError`
   */
  async run(request: TransferRequest): Promise<number> {
    request.buffer?.hold();
    try {
      return await this.#inTurn(() => this.#start(request));
    } finally {
      request.buffer?.release();
    }
  }

  /**
   * Begins with DATA0 again, once `reset` has made the device's endpoint do so too (USB 2.0, 9.4.5).
   * @throws {@link UsbError} when the queue has ended; what `reset` throws.
   */
  restart(reset: () => Promise<void>): Promise<void> {
    return this.#inTurn(async () => {
      await reset();
      await this.#relink(() => 0);
    });
  }

  /** Looks whether the transfer is over. Called at each interrupt, and now and then. */
  poll(now: number): void {
    const transfer = this.#transfer;
    if (transfer === null || transfer.failing || this.#isKept) return;
    const outcome = this.#outcomeOf(transfer);
    if (typeof outcome === 'number') {
      this.#finish('completed', transfer);
      transfer.resolve(outcome);
    } else if (outcome !== null) {
      void this.#fail(transfer, outcome);
    } else if (now >= transfer.deadline) {
      const what = `not done within ${String(transfer.request.timeout)} ms`;
      void this.#fail(transfer, this.#error('ERR_DMAPOOL_USB_TIMEOUT', what));
    }
  }

  /** Bytes that a transfer moved, or what it failed with; null while it runs. */
  #outcomeOf({ chain, first, end, request }: Transfer): number | UsbError | null {
    let moved = 0;
    for (let i = 0; i < chain.length; i++) {
      const token = loadAcquire32(chain[i]!.u32, QTD.token);
      if ((token & TOKEN.halted) !== 0) return this.#explainHalt(token);
      if ((token & TOKEN.active) !== 0) return null;
      if (i < first || i >= end) continue;
      const left = (token >>> TOKEN.lengthShift) & TOKEN.lengthMask;
      const given = lengthOf(i - first, request.length);
      // There is no such end: the controller may go on with any of the qTDs.
      if (left > given || (left > 0 && request.pid === PID.out)) return this.#explainLeft(left, given);
      moved += given - left;
      // A short packet ends the data; the controller goes on at the alternate link (4.10.2).
      if (left > 0) i = end - 1;
    }
    return moved;
  }

  /** Ends the queue: the transfer that runs and those that wait fail with `error`. Resolves when nothing is left of it. */
  close(error: UsbError): Promise<void> {
    this.#ended ??= error;
    return this.#change(async () => {
      if (this.#qh === null) return;
      const proof = await this.#host.schedule.unlink(this.#qh);
      // Without proof the controller is being stopped, which decides what becomes of the queue.
      if (proof !== null) this.#release(proof, error);
    });
  }

  /** {@link EndpointQueue.close} for when the controller has been stopped. */
  abandon(proof: DmaStopped, error: UsbError): void {
    this.#ended ??= error;
    const kept = this.#kept;
    this.#kept = null;
    this.#release(proof, error);
    kept?.endKeep(proof);
  }

  /** Ends the queue whose controller was not proven stopped: transfers fail, and all memory stays reserved. */
  keep(error: UsbError): void {
    this.#ended ??= error;
    const transfer = this.#transfer;
    if (transfer === null || this.#isKept) return;
    this.#isKept = true;
    this.#kept = transfer.request.buffer;
    this.#kept?.keep();
    transfer.reject(error);
  }

  #release(proof: ReleaseProof, error: UsbError): void {
    const qh = this.#qh;
    if (qh === null) return;
    this.#qh = null;
    const transfer = this.#transfer;
    if (transfer !== null) this.#finish(proof, transfer);
    this.#host.qtds.free(this.#dummy);
    this.#host.qhs.free(qh);
    this.#host.onClosed(this);
    transfer?.reject(error);
  }

  /** Runs `action` after those that were asked for before it. */
  async #inTurn<T>(action: () => Promise<T>): Promise<T> {
    const before = this.#turn;
    let done!: () => void;
    this.#turn = new Promise((resolve) => {
      done = resolve;
    });
    try {
      await before;
      // Whatever unlinked the queue head has linked it again.
      await this.#changes;
      if (this.#ended !== null) throw this.#ended;
      return await action();
    } finally {
      done();
    }
  }

  #start(request: TransferRequest): Promise<number> {
    const { setup, pid, buffer, length, timeout } = request;
    const first = setup === null ? 0 : 1;
    const dataQtds = setup !== null && length === 0 ? 0 : Math.max(1, Math.ceil(length / BYTES_A_QTD));
    const end = first + dataQtds;
    const count = end + first;
    const chain: QtdBlock[] = [];
    this.#host.qtds.allocBulk(chain, count);
    // The old dummy is the first; what was allocated last is the new one.
    chain.unshift(this.#dummy);
    const dummy = chain[count]!;
    writeDummy(dummy);
    // Where the queue goes on after a short packet.
    const alternate = pid === PID.in ? linkTo(chain[end]!) : LINK.terminate;
    // A control transfer's data and status begin with DATA1 (USB 2.0, 8.5.3); a qTD but the last has an even number of
    // packets, so each begins so. Other endpoints' toggles are kept by the queue head.
    const toggle = setup === null ? 0 : TOKEN.toggle;
    for (let i = count - 1; i >= 0; i--) {
      const words = chain[i]!.u32;
      words[QTD.next] = linkTo(chain[i + 1]!);
      words.fill(0, QTD.buffer, QTD.words);
      let token = TOKEN.active | TOKEN.errorCount3 | (i === count - 1 ? TOKEN.interrupt : 0);
      if (i < first) {
        chain[i]!.bytes.set(setup!, SETUP_OFFSET);
        words[QTD.alternate] = LINK.terminate;
        words[QTD.buffer] = chain[i]!.dma + SETUP_OFFSET;
        token |= PID.setup | (SETUP_SIZE << TOKEN.lengthShift);
      } else if (i < end) {
        words[QTD.alternate] = alternate;
        const page = (i - first) * PAGES_A_QTD;
        const bytes = lengthOf(i - first, length);
        for (let k = 0; k * PAGE < bytes; k++) words[QTD.buffer + k] = buffer!.pages[page + k]!.dma;
        token |= pid | toggle | (bytes << TOKEN.lengthShift);
      } else {
        // The status stage goes the other way, or to the host when there are no data.
        words[QTD.alternate] = LINK.terminate;
        token |= statusPid(pid, length) | toggle;
      }
      // The first one is published last: the controller waits before it.
      storeRelease32(words, QTD.token, token);
    }
    this.#dummy = dummy;
    chain.pop();
    return new Promise((resolve, reject) => {
      const deadline = performance.now() + timeout;
      this.#transfer = { chain, first, end, request, deadline, resolve, reject, failing: false };
    });
  }

  /** The transfer is over, and the controller past it: it completed, or there is a proof. */
  #finish(_proof: 'completed' | ReleaseProof, transfer: Transfer): void {
    this.#transfer = null;
    this.#host.qtds.freeBulk(transfer.chain);
  }

  /** Takes the transfer back from the controller, makes the queue ready for the next one, and tells who waits. */
  async #fail(transfer: Transfer, error: UsbError): Promise<void> {
    transfer.failing = true;
    const reason = error.code === 'ERR_DMAPOOL_USB_TRANSACTION' ? await this.#options.explain(error) : error;
    await this.#relink((proof, qh) => {
      // It went on until just now: it may have come to its end after all, and the toggle is the last packet's.
      const outcome = this.#outcomeOf(transfer);
      const toggle = qh.u32[QH.token]! & TOKEN.toggle;
      this.#finish(proof, transfer);
      if (typeof outcome === 'number') transfer.resolve(outcome);
      else transfer.reject(reason);
      return toggle;
    });
  }

  /** Unlinks the queue head, and links it anew, empty. `whenOut`, called in between, says with what toggle it begins. */
  #relink(whenOut: (proof: Unlinked, qh: QhBlock) => number): Promise<void> {
    return this.#change(async () => {
      const qh = this.#qh;
      if (qh === null) return;
      const proof = await this.#host.schedule.unlink(qh);
      // The controller may have been stopped meanwhile.
      if (proof === null || this.#qh === null) return;
      writeOverlay(qh, linkTo(this.#dummy), whenOut(proof, qh));
      await this.#host.schedule.link(qh);
    });
  }

  #change(action: () => Promise<void>): Promise<void> {
    this.#changes = this.#changes.then(action).catch((error: unknown) => this.#host.onFailure(error));
    return this.#changes;
  }

  /** Why a qTD was halted (3.5.3): a STALL leaves attempts over, all else used them up. */
  #explainHalt(token: number): UsbError {
    if ((token & TOKEN.babble) !== 0)
      return this.#error('ERR_DMAPOOL_USB_BABBLE', 'the device sent more than it was asked for');
    if ((token & TOKEN.errorCount3) !== 0) return this.#error('ERR_DMAPOOL_USB_STALL', 'the device answered STALL');
    return (token & TOKEN.dataBufferError) !== 0
      ? this.#error('ERR_DMAPOOL_USB_DATA_BUFFER', 'the controller could not keep up with the bus')
      : this.#error('ERR_DMAPOOL_USB_TRANSACTION', 'three transactions failed');
  }

  #explainLeft(left: number, given: number): UsbError {
    const what = `the controller ended a transfer with ${String(left)} of ${String(given)} bytes left`;
    return this.#error('ERR_DMAPOOL_USB_CONTROLLER', what);
  }

  #error(
    code:
      | 'ERR_DMAPOOL_USB_BABBLE'
      | 'ERR_DMAPOOL_USB_CONTROLLER'
      | 'ERR_DMAPOOL_USB_STALL'
      | 'ERR_DMAPOOL_USB_DATA_BUFFER'
      | 'ERR_DMAPOOL_USB_TRANSACTION'
      | 'ERR_DMAPOOL_USB_TIMEOUT',
    what: string,
  ): UsbError {
    return new UsbError(code, this.#options.name, what);
  }
}

/** Bytes of the data's qTD number `i`. */
function lengthOf(i: number, length: number): number {
  return Math.min(BYTES_A_QTD, length - i * BYTES_A_QTD);
}

function statusPid(pid: Pid, length: number): Pid {
  return length > 0 && pid === PID.in ? PID.out : PID.in;
}
