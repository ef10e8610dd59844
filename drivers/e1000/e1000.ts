/**
 * Driver for Intel's 82540EM network card, QEMU's "e1000", written from the manual (see registers.ts).
 *
 *     user <--receive-- [packet][packet]...   receive ring <--DMA-- card <== wire
 *          --transmit-> [packet][packet]...  transmit ring --DMA--> card ==> wire
 *                 \--- alloc, free: one pool of buffers ---/
 *
 * Not supported: jumbo packets (a packet fits one buffer of 2048 bytes), VLANs, checksum and segmentation offload, flow
 * control, wake-up, and multicast filters: the card receives all multicasts or none.
 */
import { type Device, DmaArgumentError, DmaReleaseError } from 'dmapool';
import type { Bar, DmaStopped, Interrupts, PciFunction } from 'dmapool/pci';
import { isArray } from 'dmapool/arguments';
import { checkFunctionOf, checkConstructorKey, CONSTRUCTOR_KEY } from '../common/arguments.ts';
import { closeInterrupts, releaseStopped, runAll } from '../common/release.ts';
import { turn, waitUntil } from '../common/time.ts';
import { configure, enableReceiver, enableTransmitter, formatMac, readMac, resetCard, silence } from './card.ts';
import { E1000Error } from './errors.ts';
import { checkOptions, checkWait, type E1000Options, type E1000WaitOptions } from './options.ts';
import { checkRange, countOf, type Packet, PacketPool } from './packets.ts';
import { ReceiveQueue } from './receive.ts';
import { DEVICE_IDS, INTERRUPT, REG, STATUS, VENDOR_INTEL } from './registers.ts';
import { Counters, type E1000Statistics } from './statistics.ts';
import { TransmitQueue } from './transmit.ts';

/** State of the link. */
export interface E1000Link {
  /** The link partner is connected. */
  readonly up: boolean;
  /** Megabits per second: 10, 100 or 1000. */
  readonly speed: number;
  /** Both ends may send at the same time. */
  readonly fullDuplex: boolean;
}

/** Default time limits in milliseconds: for packets to arrive, the link to come up, transmission to finish. */
const WAIT_TIMEOUT = 1000;
const LINK_TIMEOUT = 5000;
const DRAIN_TIMEOUT = 5000;
/** Polling interval in milliseconds for states that raise no interrupt. */
const POLL_INTERVAL = 5;
const SPEEDS: readonly number[] = [10, 100, 1000, 1000];

/**
 * Driver of one 82540EM.
 *
 * `receive` and `transmit` are synchronous and handle batches. They read descriptors in memory, write one register per
 * batch, and allocate no JavaScript objects. The card reads and writes packet buffers directly; nothing is copied.
 *
 * @example
 * ```ts
 * const machine = await QemuMachine.start({ devices: ['e1000,id=nic0'] });
 * const pci = await machine.open('nic0');
 * const nic = await E1000.open(pci);
 * const batch: Packet[] = [];
 * if (await nic.waitForPackets({ timeout: 10 })) {
 *   const count = nic.receive(batch, 64);
 *   for (let i = 0; i < count; i++) console.log(batch[i]!.bytes.subarray(0, batch[i]!.length));
 *   nic.packets.freeBatch(batch, 0, count);
 * }
 * await nic.close();
 * await pci.close();
 * await machine.close();
 * ```
 */
export class E1000 {
  readonly #pci: PciFunction;
  readonly #bar: Bar;
  readonly #options: Required<E1000Options>;
  readonly #counters: Counters;
  /** Release functions, called in reverse order. Each takes the proof that the card does no DMA. */
  readonly #held: ((proof: DmaStopped) => void)[] = [];
  #mac: Uint8Array = new Uint8Array(6);
  #packets: PacketPool | null = null;
  #receive!: ReceiveQueue;
  #transmit!: TransmitQueue;
  #interrupts: Interrupts | null = null;
  /** Error that ended the driver; null while it works. */
  #dead: Error | null = null;
  #closing: Promise<void> | null = null;
  #released = false;
  #forgetManaged: () => unknown = () => undefined;
  #endClaim: () => void = () => undefined;

  private constructor(key: symbol, pci: PciFunction, options: Required<E1000Options>) {
    checkConstructorKey(key, 'E1000', 'E1000.open()');
    this.#pci = pci;
    this.#options = options;
    this.#bar = pci.bar(0);
    this.#counters = new Counters(this.#bar);
  }

  /**
   * Resets a card and starts receiving and transmitting. The link may come up later: see {@link E1000.waitForLink}.
   *
   * The DMA mask stays as it is, 32 bits by default. Descriptors hold 64-bit addresses, but addresses above 4 GiB are
   * said to be unreliable on some boards.
   *
   * @param pci The card's function. The caller closes it, after the driver.
   * @throws `DmaArgumentError` for invalid options.
   * @throws {@link E1000Error} `ERR_DMAPOOL_E1000_UNSUPPORTED` for another device; `ERR_DMAPOOL_E1000_TIMEOUT`;
   *   `ERR_DMAPOOL_E1000_EEPROM`.
   * @throws `PciError` `ERR_DMAPOOL_PCI_BUSY` when another driver has claimed the function; `PciGoneError`;
   *   `DmaOutOfMemoryError`. After any error all memory is released. If the card can't be stopped, its memory is kept
   *   until `pci.close()`, and the device's log reports it.
   */
  static async open(pci: PciFunction, options: E1000Options = {}): Promise<E1000> {
    const checked = checkOptions(options);
    checkFunctionOf(pci);
    if (pci.vendorId !== VENDOR_INTEL || !DEVICE_IDS.includes(pci.deviceId)) {
      const id = [pci.vendorId, pci.deviceId].map((part) => part.toString(16).padStart(4, '0')).join(':');
      throw new E1000Error('ERR_DMAPOOL_E1000_UNSUPPORTED', pci.address, `device ${id} is not an 82540EM`);
    }
    const nic = new E1000(CONSTRUCTOR_KEY, pci, checked);
    nic.#endClaim = pci.claim('e1000');
    try {
      await nic.#start();
    } catch (error) {
      // Report the original error.
      await nic.close().catch(() => undefined);
      throw error;
    }
    return nic;
  }

  /** The packet buffers. */
  get packets(): PacketPool {
    return this.#packets!;
  }

  /** The card's Ethernet address, 6 bytes. */
  get mac(): Uint8Array {
    return this.#mac.slice();
  }

  /** The card's Ethernet address in text form: `52:54:00:12:34:56`. */
  get macAddress(): string {
    return formatMac(this.#mac);
  }

  /** The device that does the DMA. */
  get device(): Device {
    return this.#pci.device;
  }

  /**
   * Takes up to `max` received packets, in order of arrival, into `into[0..n)`. It does not wait. The caller owns the
   * packets and must free or transmit them. Damaged packets are dropped and counted.
   *
   * @returns The number of packets, n. Fewer than `max` if no more packets have arrived, or if no buffer is free to
   *   refill the ring; the other packets then stay in the ring. If no buffer is free, those of transmitted packets are
   *   reclaimed.
   * @throws `DmaArgumentError`; {@link E1000Error} `ERR_DMAPOOL_E1000_CLOSED`; `PciGoneError`.
   */
  receive(into: Packet[], max: number): number {
    this.#throwIfDead();
    if (!isArray(into)) throw new DmaArgumentError('into', into, 'an array');
    if (!Number.isInteger(max) || max < 0) throw new DmaArgumentError('max', max, 'a whole number from 0 up');
    return this.#receive.receive(into, max);
  }

  /**
   * Queues `packets[from..to)` for transmission, as many as fit in the ring. The card owns those packets; they are
   * freed after transmission. Packets of less than 60 bytes are padded with zeros.
   *
   * @param packets Packets to send.
   * @param from Index of the first packet. Default 0.
   * @param to Index after the last packet. Default: the length of `packets`.
   * @returns The number of packets queued, counted from `from`. The caller still owns the rest and may retry later.
   * @throws `DmaArgumentError` for an invalid length, `DmaBlockError` for a packet that the caller does not own. No
   *   packet is queued then. @throws {@link E1000Error} `ERR_DMAPOOL_E1000_CLOSED`; `PciGoneError`.
   */
  transmit(packets: readonly Packet[], from = 0, to: number = countOf(packets)): number {
    this.#throwIfDead();
    checkRange(packets, from, to);
    return this.#transmit.transmit(packets, from, to);
  }

  /**
   * Number of packets in the transmit ring. Reading it frees the buffers of transmitted packets, as `transmit` does.
   */
  get transmitting(): number {
    if (this.#dead !== null) throw this.#dead;
    return this.#transmit.reap();
  }

  /** The last `receive` left packets in the ring because no buffer was free. Free some packets. */
  get starving(): boolean {
    return this.#receive.starving;
  }

  /**
   * Waits until packets can be received or the timeout expires. Each call yields at least one turn of the event loop,
   * so a loop of calls does not block other work.
   *
   * @param options Timeout, 1000 ms by default, and an abort signal.
   * @returns True if packets can be received.
   * @throws The signal's reason; {@link E1000Error} `ERR_DMAPOOL_E1000_CLOSED`; `PciGoneError`.
   */
  async waitForPackets(options: E1000WaitOptions = {}): Promise<boolean> {
    const { timeout, signal } = checkWait(options, WAIT_TIMEOUT);
    const end = performance.now() + timeout;
    await turn();
    for (;;) {
      signal?.throwIfAborted();
      if (this.#dead !== null) throw this.#dead;
      if (this.#receive.ready) return true;
      const left = Math.ceil(end - performance.now());
      if (left <= 0) return false;
      // A cause that was set while masked raises its interrupt once it is unmasked (13.4.20): no packet is missed.
      this.#bar.write32(REG.ims, INTERRUPT.receiveTimer | INTERRUPT.receiveOverrun | INTERRUPT.receiveLow);
      try {
        const wait = { timeout: left, ...(signal === undefined ? {} : { signal }) };
        if (await this.#interrupts!.wait(wait)) await silence(this.#bar);
      } catch (error) {
        throw this.#closing === null ? error : this.#dead;
      }
    }
  }

  /**
   * Waits until all queued packets are transmitted.
   *
   * @param options Timeout, 5000 ms by default, and an abort signal.
   * @throws {@link E1000Error} `ERR_DMAPOOL_E1000_TIMEOUT` when the card hangs or the link is down;
   *   `ERR_DMAPOOL_E1000_CLOSED`. @throws `PciGoneError`
   */
  async drain(options: E1000WaitOptions = {}): Promise<void> {
    const out = await this.#poll(options, DRAIN_TIMEOUT, () => this.transmitting === 0);
    if (out) return;
    const [head, tail] = await Promise.all([this.#bar.read32(REG.tdh), this.#bar.read32(REG.tdt)]);
    const where = `head ${String(head)}, tail ${String(tail)}`;
    const message = `${String(this.transmitting)} packets were not transmitted in time; ${where}`;
    throw new E1000Error('ERR_DMAPOOL_E1000_TIMEOUT', this.#pci.address, message);
  }

  /** State of the link (13.4.2). */
  async link(): Promise<E1000Link> {
    if (this.#dead !== null) throw this.#dead;
    const status = await this.#bar.read32(REG.status);
    return {
      up: (status & STATUS.linkUp) !== 0,
      speed: SPEEDS[(status >>> STATUS.speedShift) & STATUS.speedMask]!,
      fullDuplex: (status & STATUS.fullDuplex) !== 0,
    };
  }

  /**
   * Waits until the link is up. Negotiation takes seconds.
   *
   * @param options Timeout, 5000 ms by default, and an abort signal.
   * @returns True if the link is up.
   */
  async waitForLink(options: E1000WaitOptions = {}): Promise<boolean> {
    return this.#poll(options, LINK_TIMEOUT, async () => (await this.link()).up);
  }

  /** Counts of the card and the driver since `open`. */
  async statistics(): Promise<E1000Statistics> {
    if (this.#dead !== null) throw this.#dead;
    const counters = await this.#counters.read();
    this.#transmit.reap();
    const { received, bytes: receivedBytes, dropped, starved } = this.#receive;
    const { sent, bytes: sentBytes, failed } = this.#transmit;
    return { ...counters, received, receivedBytes, dropped, starved, sent, sentBytes, failed };
  }

  /** Switches promiscuous mode: with `on`, the card also receives packets for other addresses. */
  setPromiscuous(on: boolean): void {
    if (this.#dead !== null) throw this.#dead;
    if (typeof on !== 'boolean') throw new DmaArgumentError('on', on, 'true or false');
    enableReceiver(this.#bar, on);
  }

  /**
   * Stops the card and releases all memory. Queued packets may be lost (see {@link E1000.drain}), and waits reject. The
   * caller may still free its packets; their memory is released with the last one. It is safe to call `close` twice and
   * to close a card that is gone.
   *
   * @throws `PciError` `ERR_DMAPOOL_PCI_DMA_ACTIVE` when the card can't be proven to have stopped. The memory of both
   *   rings and their buffers is kept, and the device's log reports it. A later `close` or `pci.close()` tries again.
   * @throws `DmaReleaseError` when releasing memory failed; errors of closing the interrupts, such as `PciError`
   *   `ERR_DMAPOOL_PCI_TIMEOUT` after 10 seconds. The memory is released nevertheless.
   */
  close(): Promise<void> {
    return (this.#closing ??= this.#close().finally(() => {
      if (!this.#released) this.#closing = null;
    }));
  }

  /** {@link E1000.close}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #start(): Promise<void> {
    const pci = this.#pci;
    pci.removed.throwIfAborted();
    pci.removed.addEventListener('abort', this.#onRemoved);
    // If the function is closed before the driver, its device releases the memory.
    this.#manage();
    await resetCard(pci);
    this.#mac = await readMac(pci);
    // If the device was detached meanwhile, nothing would release the memory.
    this.#throwIfDead();
    configure(this.#bar, this.#mac);
    const { receiveDescriptors, transmitDescriptors, buffers } = this.#options;
    const packets = new PacketPool(pci.device, buffers);
    this.#packets = packets;
    this.#held.push(() => {
      packets.destroy();
    });
    const reclaim = (): boolean => this.#transmit.reclaim();
    const receive = new ReceiveQueue(pci.device, this.#bar, packets, receiveDescriptors, reclaim);
    this.#receive = receive;
    this.#held.push((proof) => {
      receive.free(proof);
    });
    receive.fill();
    const transmit = new TransmitQueue(pci.device, this.#bar, packets, transmitDescriptors);
    this.#transmit = transmit;
    this.#held.push((proof) => {
      transmit.free(proof);
    });
    await this.#counters.clear();
    this.#interrupts = await pci.interrupts();
    await pci.enableBusMaster();
    // If the driver was closed meanwhile, the memory of the rings is released: do not install them.
    this.#throwIfDead();
    receive.install();
    transmit.install();
    // Throws if a write failed: an enabled card without the rings' addresses would read descriptors from address 0.
    await this.#bar.flush();
    this.#throwIfDead();
    enableReceiver(this.#bar, this.#options.promiscuous);
    enableTransmitter(this.#bar);
    await this.#bar.flush();
    // The card may have been unplugged, or the driver closed, meanwhile.
    this.#throwIfDead();
  }

  /** Throws after a close of the function has begun too: a register write in the middle of a batch would throw. */
  #throwIfDead(): void {
    if (this.#dead !== null) throw this.#dead;
    if (this.#pci.closed) throw this.#closedError();
  }

  async #close(): Promise<void> {
    this.#dead ??= this.#closedError();
    this.#pci.removed.removeEventListener('abort', this.#onRemoved);
    let proof: DmaStopped | null = null;
    const errors = await runAll([
      async () => {
        proof = await this.#stop();
      },
      () => closeInterrupts(this.#interrupts, this.#pci.address),
      () => {
        if (proof !== null) this.#release(proof);
      },
    ]);
    if (proof === null) throw errors[0] as Error;
    this.#endClaim();
    if (errors.length === 1) throw errors[0];
    if (errors.length > 1) throw new DmaReleaseError(`${this.#pci.address}: failed to close all of it`, errors);
  }

  /** Proves that the card does no DMA. @throws `PciError` `ERR_DMAPOOL_PCI_DMA_ACTIVE` */
  async #stop(): Promise<DmaStopped> {
    const attempt = new AbortController();
    try {
      return await this.#pci.stopDma({ stop: () => resetCard(this.#pci, attempt.signal) });
    } catch (error) {
      this.#reportKept((error as Error).message);
      throw error;
    } finally {
      // A hanging reset must not write to the card after another driver has claimed it.
      attempt.abort();
    }
  }

  /** Registers the release of the memory with the device, in case the function is closed before the driver. */
  #manage(): void {
    this.#forgetManaged = this.#pci.device.addAction(() => {
      this.#dead ??= this.#closedError();
      if (this.#releaseIfStopped()) return;
      this.#reportKept('its device was detached while the card may do DMA');
      this.#awaitReclaim();
    });
  }

  /** Registers the release of kept memory with the close of the function: the detach action has already run. */
  #awaitReclaim(): void {
    const { device } = this.#pci;
    this.#forgetManaged = device.onReclaim(() => {
      const before = device.bytesAllocated;
      if (!this.#releaseIfStopped()) this.#awaitReclaim();
      return Math.ceil((before - device.bytesAllocated) / device.memory.pageSize);
    });
  }

  #releaseIfStopped(): boolean {
    const proof = this.#pci.dmaStopped;
    if (proof !== null) this.#release(proof);
    return proof !== null;
  }

  #reportKept(reason: string): void {
    if (this.#held.length === 0) return;
    const buffers = String(this.#packets?.active ?? 0);
    const message = `the memory of both rings and ${buffers} buffers is kept: ${reason}`;
    this.#pci.device.report('error', 'e1000 kept memory', message);
  }

  /** Releases all memory. */
  #release(proof: DmaStopped): void {
    this.#forgetManaged();
    this.#released = true;
    const releases = this.#held
      .splice(0)
      .reverse()
      .map((release) => () => {
        release(proof);
      });
    releaseStopped(proof, `${this.#pci.address}: releasing the driver's memory failed`, releases);
  }

  readonly #onRemoved = (): void => {
    this.#dead ??= this.#pci.removed.reason as Error;
  };

  #closedError(): E1000Error {
    return new E1000Error('ERR_DMAPOOL_E1000_CLOSED', this.#pci.address, 'the driver was closed');
  }

  /** Polls until `done` returns true or the timeout expires. @returns True if `done` returned true. */
  async #poll(
    options: E1000WaitOptions,
    defaultTimeout: number,
    done: () => boolean | Promise<boolean>,
  ): Promise<boolean> {
    const { timeout, signal } = checkWait(options, defaultTimeout);
    return waitUntil(done, timeout, POLL_INTERVAL, signal);
  }
}
