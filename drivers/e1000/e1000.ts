/**
 * A driver for Intel's 82540EM network card, the "e1000" of QEMU, from its manual (see registers.ts).
 *
 *     user <--receive-- [packet][packet]...   receive ring <--DMA-- card <== wire
 *          --transmit-> [packet][packet]...  transmit ring --DMA--> card ==> wire
 *                 \--- alloc, free: one pool of buffers ---/
 *
 * Limits: no jumbo packets (a packet fits one buffer of 2048 bytes), no VLAN, checksum or segmentation offload, no flow
 * control, no wake-up, and of the multicast filter only all or nothing.
 */
import { type Device, DmaArgumentError, DmaReleaseError } from 'dmapool';
import type { Bar, DmaStopped, Interrupts, PciFunction } from 'dmapool/pci';
import { isArray } from 'dmapool/arguments';
import { checkFunctionOf, checkMaking, MAKING } from '../common/arguments.ts';
import { releaseStopped, runAll } from '../common/release.ts';
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
  /** True if there is somebody at the other end. */
  readonly up: boolean;
  /** Megabits a second: 10, 100 or 1000. */
  readonly speed: number;
  /** Both ends may send at once. */
  readonly fullDuplex: boolean;
}

/** Milliseconds to wait for packets, for the link, for packets to be out, unless the user says. */
const WAIT_TIMEOUT = 1000;
const LINK_TIMEOUT = 5000;
const DRAIN_TIMEOUT = 5000;
/** Milliseconds between looks at what raises no interrupt. */
const LOOK_INTERVAL = 5;
const SPEEDS: readonly number[] = [10, 100, 1000, 1000];

/**
 * One 82540EM.
 *
 * `receive` and `transmit` are plain calls without waiting, on batches: they look at descriptors in memory, touch one
 * register a batch, and make no garbage. Packets are buffers that the card itself reads and writes; nothing is copied.
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
  /** What is given back at the end, last things first. Each needs the proof that the card stopped. */
  readonly #held: ((proof: DmaStopped) => void)[] = [];
  #mac: Uint8Array = new Uint8Array(6);
  #packets: PacketPool | null = null;
  #receive!: ReceiveQueue;
  #transmit!: TransmitQueue;
  #interrupts: Interrupts | null = null;
  /** Why nothing goes any more. */
  #dead: Error | null = null;
  #closing: Promise<void> | null = null;
  #released = false;
  #forgetManaged: () => unknown = () => undefined;
  #endClaim: () => void = () => undefined;

  private constructor(key: symbol, pci: PciFunction, options: Required<E1000Options>) {
    checkMaking(key, 'E1000', 'E1000.open()');
    this.#pci = pci;
    this.#options = options;
    this.#bar = pci.bar(0);
    this.#counters = new Counters(this.#bar);
  }

  /**
   * Resets a card and makes it send and receive. The link may take its time: see {@link E1000.waitForLink}.
   *
   * The DMA mask is left as it is, 32 bits unless you raise it: descriptors have addresses of 64 bits, but this card is
   * said to be unsafe with them on some boards.
   *
   * @param pci The card's function. It stays yours to close, after the driver.
   * @throws `DmaArgumentError` for wrong options.
   * @throws {@link E1000Error} `ERR_DMAPOOL_E1000_UNSUPPORTED` for another device, `ERR_DMAPOOL_E1000_TIMEOUT`, `ERR_DMAPOOL_E1000_EEPROM`.
   * @throws `PciError` `ERR_DMAPOOL_PCI_BUSY` when a driver has it already; `PciGoneError`;
   *   `DmaOutOfMemoryError`. All memory was given back then, and the card is silent.
   */
  static async open(pci: PciFunction, options: E1000Options = {}): Promise<E1000> {
    const checked = checkOptions(options);
    checkFunctionOf(pci);
    if (pci.vendorId !== VENDOR_INTEL || !DEVICE_IDS.includes(pci.deviceId)) {
      const id = [pci.vendorId, pci.deviceId].map((part) => part.toString(16).padStart(4, '0')).join(':');
      throw new E1000Error(
        'ERR_DMAPOOL_E1000_UNSUPPORTED',
        pci.address,
        `this is no 82540EM, but a device of ID ${id}`,
      );
    }
    const nic = new E1000(MAKING, pci, checked);
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

  /** Buffers for packets to transmit, and where those received go back to. */
  get packets(): PacketPool {
    return this.#packets!;
  }

  /** The card's own address, 6 bytes. */
  get mac(): Uint8Array {
    return this.#mac.slice();
  }

  /** The card's own address as text: `52:54:00:12:34:56`. */
  get macAddress(): string {
    return formatMac(this.#mac);
  }

  /** Who does the DMA. */
  get device(): Device {
    return this.#pci.device;
  }

  /**
   * Takes packets that have come, at once: at most `max`, in the order of their arrival, into `into[0..n)`. They are the
   * caller's, to free or to transmit. Damaged ones are dropped and counted.
   *
   * @returns How many. Fewer than `max`: there are no more, or no fresh buffers to put in their place; those wait. Buffers
   *   of packets that are out count as fresh ones: it looks for them when there are no others.
   * @throws `DmaArgumentError`; {@link E1000Error} `ERR_DMAPOOL_E1000_CLOSED`; `PciGoneError`.
   */
  receive(into: Packet[], max: number): number {
    if (this.#dead !== null) throw this.#dead;
    if (!isArray(into)) throw new DmaArgumentError('into', into, 'an array');
    if (!Number.isInteger(max) || max < 0) throw new DmaArgumentError('max', max, 'a whole number from 0 up');
    return this.#receive.receive(into, max);
  }

  /**
   * Hands `packets[from..to)` to the card, as many as there is room for; those are the card's, and free once they are
   * out. Packets of less than 60 bytes are filled up with zeros.
   *
   * @param packets What to send.
   * @param from First of them, 0 by default.
   * @param to Behind the last of them, all by default.
   * @returns How many were taken, from `from` on. The rest is still the caller's: try again later.
   * @throws `DmaArgumentError` for a length out of range, `DmaBlockError` for a packet that is not the
   *   caller's to give: none is taken then. @throws {@link E1000Error} `ERR_DMAPOOL_E1000_CLOSED`; `PciGoneError`.
   */
  transmit(packets: readonly Packet[], from = 0, to: number = countOf(packets)): number {
    if (this.#dead !== null) throw this.#dead;
    checkRange(packets, from, to);
    return this.#transmit.transmit(packets, from, to);
  }

  /**
   * Packets that the card was given and that are not out yet. Looks, and frees the buffers of those that are out;
   * `transmit` does so too.
   */
  get transmitting(): number {
    if (this.#dead !== null) throw this.#dead;
    return this.#transmit.reap();
  }

  /** True if the last `receive` left packets in the ring for want of a fresh buffer: free some. */
  get starving(): boolean {
    return this.#receive.starving;
  }

  /**
   * Waits until there is something to receive, or the time is over. The event loop turns at least once, so a loop around
   * this call never keeps out all else.
   *
   * @param options The time-out, by default 1000 ms, and a signal.
   * @returns Whether there is.
   * @throws the signal's reason; {@link E1000Error} `ERR_DMAPOOL_E1000_CLOSED`; `PciGoneError`.
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
      // A cause that came up in between stands, masked, and interrupts as soon as it is unmasked (13.4.20).
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
   * Waits until all packets are out.
   *
   * @param options The time-out, by default 5000 ms, and a signal.
   * @throws {@link E1000Error} `ERR_DMAPOOL_E1000_TIMEOUT`: the card hangs, or has no link; `ERR_DMAPOOL_E1000_CLOSED`. `PciGoneError`
   */
  async drain(options: E1000WaitOptions = {}): Promise<void> {
    const out = await this.#look(options, DRAIN_TIMEOUT, () => this.transmitting === 0);
    if (out) return;
    const [head, tail] = await Promise.all([this.#bar.read32(REG.tdh), this.#bar.read32(REG.tdt)]);
    const where = `its head is at ${String(head)}, its tail at ${String(tail)}`;
    const message = `${String(this.transmitting)} packets are not out after the time for it; ${where}`;
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
   * Waits for the link: negotiation takes seconds.
   *
   * @param options The time-out, by default 5000 ms, and a signal.
   * @returns Whether it is up.
   */
  async waitForLink(options: E1000WaitOptions = {}): Promise<boolean> {
    return this.#look(options, LINK_TIMEOUT, async () => (await this.link()).up);
  }

  /** What the card and the driver counted since the driver was opened. */
  async statistics(): Promise<E1000Statistics> {
    if (this.#dead !== null) throw this.#dead;
    const counters = await this.#counters.read();
    this.#transmit.reap();
    const { received, bytes: receivedBytes, dropped, starved } = this.#receive;
    const { sent, bytes: sentBytes, failed } = this.#transmit;
    return { ...counters, received, receivedBytes, dropped, starved, sent, sentBytes, failed };
  }

  /** Receive also what is for others (`on`: true), or no longer. */
  setPromiscuous(on: boolean): void {
    if (this.#dead !== null) throw this.#dead;
    if (typeof on !== 'boolean') throw new DmaArgumentError('on', on, 'true or false');
    enableReceiver(this.#bar, on);
  }

  /**
   * Stops the card and gives all memory back: what was being sent may be lost (see {@link E1000.drain}), waits are
   * rejected. Packets in the user's hands can still be freed, and the memory goes back with the last of them. Closing
   * twice is fine, and so is closing a card that is gone.
   *
   * @throws `PciError` `ERR_DMAPOOL_PCI_DMA_ACTIVE` when nothing proves that the card stopped: the memory of both rings and
   *   their buffers is kept, the device's log says so, and a later call tries again, as `pci.close()` does.
   * @throws `DmaReleaseError` when memory failed to go back; what closing the interrupts fails with.
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
    // Should the function be closed before the driver, its device takes the memory with it.
    this.#manage();
    await resetCard(pci);
    this.#mac = await readMac(pci);
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
    // Closed meanwhile, the memory of the rings was released.
    this.#throwIfDead();
    // The rings first: the card reads them from the moment that it is enabled.
    receive.install();
    enableReceiver(this.#bar, this.#options.promiscuous);
    transmit.install();
    enableTransmitter(this.#bar);
    await this.#bar.flush();
    // It may have been pulled out or closed in the meantime.
    this.#throwIfDead();
  }

  #throwIfDead(): void {
    if (this.#dead !== null) throw this.#dead;
  }

  async #close(): Promise<void> {
    this.#dead ??= this.#closedError();
    this.#pci.removed.removeEventListener('abort', this.#onRemoved);
    let proof: DmaStopped | null = null;
    const errors = await runAll([
      async () => {
        proof = await this.#stop();
      },
      () => this.#interrupts?.close(),
      () => {
        if (proof !== null) this.#release(proof);
      },
    ]);
    if (proof === null) throw errors[0] as Error;
    this.#endClaim();
    if (errors.length === 1) throw errors[0];
    if (errors.length > 1) throw new DmaReleaseError(`${this.#pci.address}: failed to close all of it`, errors);
  }

  /** Proves that the card does no DMA any more. @throws `PciError` `ERR_DMAPOOL_PCI_DMA_ACTIVE` */
  async #stop(): Promise<DmaStopped> {
    const attempt = new AbortController();
    try {
      return await this.#pci.stopDma({ stop: () => resetCard(this.#pci, attempt.signal) });
    } catch (error) {
      this.#reportKept((error as Error).message);
      throw error;
    } finally {
      // A reset that hangs must not go on when the card is another driver's.
      attempt.abort();
    }
  }

  /** Has the memory released with the device, should the function be closed before the driver. */
  #manage(): void {
    this.#forgetManaged = this.#pci.device.addAction(() => {
      this.#dead ??= this.#closedError();
      if (this.#releaseIfStopped()) return;
      this.#reportKept('its device was detached while the card may do DMA');
      this.#awaitReclaim();
    });
  }

  /** The action of detach() is spent: what is kept goes back when the function is closed. */
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

  /** Gives the memory back. */
  #release(proof: DmaStopped): void {
    this.#forgetManaged();
    this.#released = true;
    const releases = this.#held
      .splice(0)
      .reverse()
      .map((release) => () => {
        release(proof);
      });
    releaseStopped(proof, `${this.#pci.address}: memory of the network card failed to go back`, releases);
  }

  readonly #onRemoved = (): void => {
    this.#dead ??= this.#pci.removed.reason as Error;
  };

  #closedError(): E1000Error {
    return new E1000Error('ERR_DMAPOOL_E1000_CLOSED', this.#pci.address, 'the driver was closed');
  }

  /** Looks now and then until `done`, or the time is over; returns which. */
  async #look(options: E1000WaitOptions, usual: number, done: () => boolean | Promise<boolean>): Promise<boolean> {
    const { timeout, signal } = checkWait(options, usual);
    return waitUntil(done, timeout, LOOK_INTERVAL, signal);
  }
}
