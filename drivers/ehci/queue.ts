/** Transfer queue of one endpoint: a queue head and its chain of qTDs. EHCI 1.0, 4.10. */
import { loadAcquire32, type DmaPool, storeRelease32 } from 'dmapool';
import type { DmaStopped } from 'dmapool/pci';
import type { UsbBuffer } from './buffer.ts';
import { UsbError } from './errors.ts';
import type { AsyncSchedule } from './schedule.ts';
import {
  BYTES_PER_QTD,
  CAPABILITIES_MULT_1,
  CHARACTERISTICS,
  LINK,
  linkTo,
  PAGE,
  PAGES_PER_QTD,
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

/** The transfer engine, as seen by a queue. */
export interface QueueHost {
  readonly schedule: Pick<AsyncSchedule, 'link' | 'unlink'>;
  readonly qhs: DmaPool<'ehci_qh'>;
  readonly qtds: DmaPool<'ehci_qtd'>;
  /**
   * Called when the controller does not respond. When it resolves, the controller is stopped and every queue abandoned
   * or kept.
   */
  readonly onFailure: (error: unknown) => Promise<void>;
  /** Called when the memory of a queue is released. */
  readonly onClosed: (queue: EndpointQueue) => void;
}

/** The endpoint of a queue. */
export interface QueueOptions {
  /** Name for messages: controller, device and endpoint. */
  readonly name: string;
  readonly address: number;
  readonly endpoint: number;
  readonly packetSize: number;
  readonly control: boolean;
  /** Finds the cause of a failed transaction: the device may be gone. */
  readonly explain: (error: UsbError) => Promise<UsbError>;
}

/** Parameters of one transfer. */
export interface TransferRequest {
  /** The eight bytes of the SETUP packet of a control transfer; null for other endpoints. */
  readonly setup: Uint8Array | null;
  /** Direction of the data. */
  readonly pid: typeof PID.in | typeof PID.out;
  /** Data buffer; may be null if there is no data. */
  readonly buffer: UsbBuffer | null;
  /** Bytes to send, or the maximum to receive. */
  readonly length: number;
  /** Time limit in milliseconds. */
  readonly timeout: number;
}

interface Transfer {
  /** Its qTDs. */
  readonly chain: readonly QtdBlock[];
  /** `chain[first..end)` are the qTDs that carry data. */
  readonly first: number;
  readonly end: number;
  readonly request: TransferRequest;
  readonly deadline: number;
  readonly resolve: (length: number) => void;
  readonly reject: (error: UsbError) => void;
  failing: boolean;
}

/**
 * The chain always ends in an inactive qTD, the dummy, at which the controller stops. A new transfer is written into
 * the dummy and the qTDs behind it, and ends in a new dummy. The token of the old dummy is written last, which
 * activates the transfer. So transfers start without stopping the controller and without a register write.
 *
 *     QH --> dummy               becomes          QH --> qTD --> qTD --> new dummy
 *
 * One transfer runs at a time; others wait.
 */
export class EndpointQueue {
  readonly #host: QueueHost;
  readonly #options: QueueOptions;
  #qh: QhBlock | null;
  #dummy: QtdBlock;
  #transfer: Transfer | null = null;
  #turn: Promise<void> = Promise.resolve();
  /** Serializes link and unlink operations of the queue head. */
  #changes: Promise<void> = Promise.resolve();
  #ended: UsbError | null = null;
  /**
   * The transfer failed, but the controller may still use its memory. `#kept` is the buffer of that transfer, or null.
   */
  #isKept = false;
  #kept: UsbBuffer | null = null;

  /** Creates the queue of an endpoint. It is idle until {@link EndpointQueue.link}. @throws `DmaOutOfMemoryError` */
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

  /** Links the queue head into the schedule. */
  link(): Promise<void> {
    return this.#change(async () => {
      if (this.#qh !== null) await this.#host.schedule.link(this.#qh);
    });
  }

  /**
   * Runs one transfer.
   * @returns Bytes of data transferred. A device may send fewer than requested.
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
   * Resets the data toggle to DATA0 after `reset` has done so in the device (USB 2.0, 9.4.5).
   * @throws {@link UsbError} when the queue has ended; errors of `reset`.
   */
  restart(reset: () => Promise<void>): Promise<void> {
    return this.#inTurn(async () => {
      await reset();
      await this.#relink(() => 0);
    });
  }

  /** Checks whether the transfer has completed or timed out. Called at each interrupt and periodically. */
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
      const what = `transfer not complete within ${String(transfer.request.timeout)} ms`;
      void this.#fail(transfer, this.#error('ERR_DMAPOOL_USB_TIMEOUT', what));
    }
  }

  /** @returns Bytes transferred, the error of a failed transfer, or null while it runs. */
  #outcomeOf({ chain, first, end, request }: Transfer): number | UsbError | null {
    let moved = 0;
    for (let i = 0; i < chain.length; i++) {
      const token = loadAcquire32(chain[i]!.u32, QTD.token);
      if ((token & TOKEN.halted) !== 0) return this.#explainHalt(token);
      if ((token & TOKEN.active) !== 0) return null;
      if (i < first || i >= end) continue;
      const left = (token >>> TOKEN.lengthShift) & TOKEN.lengthMask;
      const given = lengthOf(i - first, request.length);
      // A correct controller ends no transfer in this state. A faulty one may continue with any of the qTDs.
      if (left > given || (left > 0 && request.pid === PID.out)) return this.#explainLeft(left, given);
      moved += given - left;
      // A short packet ends the data; the controller continues at the alternate link (4.10.2).
      if (left > 0) i = end - 1;
    }
    return moved;
  }

  /** Ends the queue. Running and waiting transfers fail with `error`. Resolves when its memory is released. */
  close(error: UsbError): Promise<void> {
    this.#ended ??= error;
    return this.#change(async () => {
      if (this.#qh === null) return;
      const proof = await this.#host.schedule.unlink(this.#qh);
      // Without a proof the controller is being stopped; then `abandon` or `keep` follows.
      if (proof !== null) this.#release(proof, error);
    });
  }

  /** {@link EndpointQueue.close} after the controller was proven stopped. */
  abandon(proof: DmaStopped, error: UsbError): void {
    this.#ended ??= error;
    const kept = this.#kept;
    this.#kept = null;
    this.#release(proof, error);
    kept?.endKeep(proof);
  }

  /** Ends the queue without a proof that the controller stopped. Transfers fail; their memory is kept. */
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

  /** Runs `action` after the actions queued before it. */
  async #inTurn<T>(action: () => Promise<T>): Promise<T> {
    const before = this.#turn;
    let done!: () => void;
    this.#turn = new Promise((resolve) => {
      done = resolve;
    });
    try {
      await before;
      // Wait until pending operations have linked the queue head again.
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
    const dataQtds = setup !== null && length === 0 ? 0 : Math.max(1, Math.ceil(length / BYTES_PER_QTD));
    const end = first + dataQtds;
    const count = end + first;
    const chain: QtdBlock[] = [];
    this.#host.qtds.allocBulk(chain, count);
    // The old dummy becomes the first qTD; the last block allocated becomes the new dummy.
    chain.unshift(this.#dummy);
    const dummy = chain[count]!;
    writeDummy(dummy);
    // The controller continues here after a short packet.
    const alternate = pid === PID.in ? linkTo(chain[end]!) : LINK.terminate;
    // Data and status stages of a control transfer start with DATA1 (USB 2.0, 8.5.3). Each data qTD except the last
    // carries an even number of packets, so each starts with DATA1. For other endpoints the queue head holds the
    // toggle.
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
        const page = (i - first) * PAGES_PER_QTD;
        const bytes = lengthOf(i - first, length);
        for (let k = 0; k * PAGE < bytes; k++) words[QTD.buffer + k] = buffer!.pages[page + k]!.dma;
        token |= pid | toggle | (bytes << TOKEN.lengthShift);
      } else {
        // The status stage has the opposite direction; without data it is IN.
        words[QTD.alternate] = LINK.terminate;
        token |= statusPid(pid, length) | toggle;
      }
      // Store-release. The first qTD's token comes last: the controller stops at it until it is active.
      storeRelease32(words, QTD.token, token);
    }
    this.#dummy = dummy;
    chain.pop();
    return new Promise((resolve, reject) => {
      const deadline = performance.now() + timeout;
      this.#transfer = { chain, first, end, request, deadline, resolve, reject, failing: false };
    });
  }

  /** Frees the qTDs of a transfer that the controller no longer uses: it completed, or there is a proof. */
  #finish(_proof: 'completed' | ReleaseProof, transfer: Transfer): void {
    this.#transfer = null;
    this.#host.qtds.freeBulk(transfer.chain);
  }

  /** Takes a failed transfer back from the controller, prepares the queue for the next one, and rejects the promise. */
  async #fail(transfer: Transfer, error: UsbError): Promise<void> {
    transfer.failing = true;
    const reason = error.code === 'ERR_DMAPOOL_USB_TRANSACTION' ? await this.#options.explain(error) : error;
    await this.#relink((proof, qh) => {
      // The transfer ran until the unlink and may have completed. The toggle is that of its last packet.
      const outcome = this.#outcomeOf(transfer);
      const toggle = qh.u32[QH.token]! & TOKEN.toggle;
      this.#finish(proof, transfer);
      if (typeof outcome === 'number') transfer.resolve(outcome);
      else transfer.reject(reason);
      return toggle;
    });
  }

  /**
   * Unlinks the queue head, empties it and links it again. `whenUnlinked` runs in between and returns the data toggle.
   */
  #relink(whenUnlinked: (proof: Unlinked, qh: QhBlock) => number): Promise<void> {
    return this.#change(async () => {
      const qh = this.#qh;
      if (qh === null) return;
      const proof = await this.#host.schedule.unlink(qh);
      // The controller may have been stopped meanwhile.
      if (proof === null || this.#qh === null) return;
      writeOverlay(qh, linkTo(this.#dummy), whenUnlinked(proof, qh));
      await this.#host.schedule.link(qh);
    });
  }

  #change(action: () => Promise<void>): Promise<void> {
    this.#changes = this.#changes.then(action).catch((error: unknown) => this.#host.onFailure(error));
    return this.#changes;
  }

  /** @returns The cause of a halt (3.5.3). CERR is 0 after failed transactions and greater than 0 after a STALL. */
  #explainHalt(token: number): UsbError {
    if ((token & TOKEN.babble) !== 0)
      return this.#error('ERR_DMAPOOL_USB_BABBLE', 'the device sent more data than requested');
    if ((token & TOKEN.errorCount3) !== 0)
      return this.#error('ERR_DMAPOOL_USB_STALL', 'the device responded with STALL');
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

/** Bytes of data qTD number `i`. */
function lengthOf(i: number, length: number): number {
  return Math.min(BYTES_PER_QTD, length - i * BYTES_PER_QTD);
}

function statusPid(pid: Pid, length: number): Pid {
  return length > 0 && pid === PID.in ? PID.out : PID.in;
}
