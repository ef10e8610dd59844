/**
 * An NVM Express controller: what users see of it, and its life. NVM Express Base Specification 1.4, 7.
 *
 *     NvmeController -- LifeCycle           states, and what leads from each to the next
 *                    -- ControllerRegisters stop, start and shut down
 *                    -- Dispatcher          queues, doorbells, completions, time-outs
 *
 * At most one activity runs at a time: a start, a reset, a shutdown, or the stop for good. The next one aborts it and waits
 * until it is over. Memory that the controller may reach is released in two places: for a command that it completed, and with
 * the proof of `PciFunction.stopDma` in hand. Without that it is kept.
 *
 * What this driver leaves out: metadata and protection information, scatter-gather lists (SGL), controller memory
 * buffers, namespace management, asynchronous events, power management, and memory pages of other sizes than 4096 bytes.
 */
import type { DmaPool } from 'dmapool';
import { dmaBitMask } from 'dmapool';
import { checkBytes, checkInteger } from 'dmapool/arguments';
import type { DmaStopped, Interrupts, PciFunction } from 'dmapool/pci';
import { checkFunctionOf, checkMaking, MAKING } from '../common/arguments.ts';
import { releaseStopped } from '../common/release.ts';
import { abortable, settled, waitUntil } from '../common/time.ts';
import { ControllerRegisters } from './controller-registers.ts';
import { BouncedData, BouncePages, type CommandData } from './data.ts';
import { Dispatcher } from './dispatcher.ts';
import { NvmeError, NvmeResetError, NvmeStatusError, NvmeTimeoutError } from './errors.ts';
import { NamespaceFormats } from './formats.ts';
import {
  type NvmeIdentity,
  type NvmeNamespaceIdentity,
  parseController,
  parseNamespace,
  parseNamespaceList,
  parseNamespaceSize,
} from './identify.ts';
import { LifeCycle, type LifeEvent } from './life-cycle.ts';
import { type NamespaceOwner, NvmeNamespace } from './namespace.ts';
import {
  type CheckedNvmeOptions,
  checkNvmeOptions,
  commandTimeout,
  MAX_TRANSFER,
  type NvmeCommandOptions,
  type NvmeOptions,
} from './options.ts';
import {
  adminTimeout,
  checkAdminTransfer,
  checkNvmTransfer,
  directionOf,
  formatChangedBy,
  transfersBlocks,
} from './passthrough.ts';
import { PrpLists } from './prp.ts';
import { checkCommand, type NvmeCommand } from './queue-pair.ts';
import { createQueues, deleteQueues, requestQueues, type SubmitAdmin } from './queue-setup.ts';
import {
  ADMIN,
  CLASS_NVME,
  IDENTIFY,
  IDENTIFY_SIZE,
  NAMESPACE_LIST_LENGTH,
  PAGE_SIZE,
  VERSION_1_1,
} from './registers.ts';
import { STATUS } from './status.ts';

/** Commands in flight on the admin queue. */
const ADMIN_DEPTH = 31;
/** Milliseconds that a shutdown is waited for at least (7.6.2), and at most, whatever the controller asks for. */
const SHUTDOWN_LEAST = 1000;
const SHUTDOWN_MOST = 60_000;

/** Milliseconds that closing the interrupts may take. */
const CLOSE_TIME = 10_000;

/** Figures of a controller since it was started. */
export interface NvmeStatistics {
  /** Commands that were given to the controller, or wait for it, now. */
  readonly load: number;
  /** Commands submitted on each I/O queue. */
  readonly submitted: readonly number[];
  /** Commands that took too long. */
  readonly timeouts: number;
  /** Abort commands that were sent for them. */
  readonly aborts: number;
  /** Resets of the controller. */
  readonly resets: number;
  /**
   * Commands that failed and whose memory is kept: the controller could not be stopped, and may still use it. They count as
   * load, and end with a later `close()`.
   */
  readonly kept: number;
}

/**
 * A driver of one NVMe controller. Errors of commands: `NvmeError` and its kin; `DmaOutOfMemoryError` when there is no
 * memory; `PciGoneError` when the device was pulled out. Whatever the outcome, the driver releases a command's memory, with
 * one exception: `PciError` `ERR_DMAPOOL_PCI_DMA_ACTIVE` says that nothing stopped the controller. It may still use the
 * memory of the command: the driver keeps its own, and you keep yours, until a `close()` succeeds.
 *
 * @example
 * ```ts
 * const machine = await QemuMachine.start({
 *   drives: [{ id: 'disk0', file: 'null-co://', options: { 'file.read-zeroes': true, 'file.size': 1048576 } }],
 *   devices: [{ driver: 'nvme', id: 'nvme0', drive: 'disk0', serial: '1' }],
 * });
 * try {
 *   const pci = await machine.open('nvme0');
 *   const nvme = await NvmeController.open(pci, { queues: 2, queueDepth: 64 });
 *   const disk = await nvme.namespace(1);
 *   const sector = new Uint8Array(disk.blockSize);
 *   await disk.read(0, sector);
 *   await disk.write(1, sector);
 *   await disk.flush();
 *   await nvme.close();
 *   await pci.close();
 * } finally {
 *   await machine.close();
 * }
 * ```
 */
export class NvmeController {
  readonly #pci: PciFunction;
  readonly #options: CheckedNvmeOptions;
  readonly #registers: ControllerRegisters;
  readonly #lists: PrpLists;
  readonly #bounce: BouncePages;
  readonly #endClaim: () => void;
  /** Takes back what is to be done should the function be closed under us. */
  #forget: () => boolean = () => false;
  readonly #life = new LifeCycle();
  /** Ends the activity that runs. */
  #activity = new AbortController();
  /** Resolves when the activity that runs is over. */
  #work: Promise<void> = Promise.resolve();
  /** That the stopped controller does no DMA, or why that could not be proven. */
  #proof: DmaStopped | null = null;
  #unproven: Error | null = null;
  #closing: Promise<void> | null = null;
  #identity!: NvmeIdentity;
  #interrupts: Interrupts | null = null;
  #dispatcher: Dispatcher | null = null;
  readonly #formats = new NamespaceFormats();
  #resets = 0;

  private constructor(
    key: symbol,
    pci: PciFunction,
    options: CheckedNvmeOptions,
    registers: ControllerRegisters,
    endClaim: () => void,
  ) {
    checkMaking(key, 'NvmeController', 'NvmeController.open()');
    this.#pci = pci;
    this.#options = options;
    this.#registers = registers;
    this.#endClaim = endClaim;
    this.#lists = new PrpLists(pci.device, MAX_TRANSFER / PAGE_SIZE);
    this.#bounce = new BouncePages(pci.device, this.#lists, options.bounceMemory / PAGE_SIZE);
    // After the pools, so that it comes before them.
    this.#watchDetach();
  }

  #watchDetach(): void {
    this.#forget = this.#pci.device.addAction(() => {
      this.#onDetach();
    });
  }

  /**
   * Takes a function over: resets and enables its controller, identifies it and makes its queues (7.6.1).
   *
   * @param pci An open function of class 010802h. It stays the caller's to close, after {@link NvmeController.close}.
   * @param options Queues, their depth, time-outs; all have defaults.
   * @throws `DmaArgumentError`, `DmaOutOfMemoryError`, `PciGoneError`, {@link NvmeError} and its kin. The controller is
   *   then stopped, and all memory is released. When nothing stops it, its memory is kept until `pci.close()`, the device's
   *   log says so, and no other driver gets the function.
   * @throws `PciError` `ERR_DMAPOOL_PCI_BUSY` when a driver has the function already. That one goes on.
   */
  static async open(pci: PciFunction, options: NvmeOptions = {}): Promise<NvmeController> {
    const checked = checkNvmeOptions(options);
    checkFunctionOf(pci);
    if (pci.classCode !== CLASS_NVME) {
      const message = `class 0x${pci.classCode.toString(16)} is no NVMe controller`;
      throw new NvmeError('ERR_DMAPOOL_NVME_UNSUPPORTED', pci.address, message);
    }
    const endClaim = pci.claim('NVMe');
    let controller: NvmeController | null = null;
    try {
      // PRP entries have 64 bits.
      pci.device.setDmaMask(dmaBitMask(64));
      controller = new NvmeController(MAKING, pci, checked, await ControllerRegisters.read(pci), endClaim);
      await controller.#start();
      return controller;
    } catch (error) {
      // Another driver would switch on the DMA of a controller that may still reach what is kept.
      if (controller === null || controller.#life.state !== 'stuck') endClaim();
      throw error;
    }
  }

  /** Address of its function: `0000:00:04.0`. */
  get address(): string {
    return this.#pci.address;
  }

  /** What the controller says of itself. */
  get identity(): NvmeIdentity {
    return this.#identity;
  }

  /** Most bytes of one command. Longer reads and writes are cut. */
  get maxTransfer(): number {
    return Math.min(this.#identity.maxTransfer, MAX_TRANSFER);
  }

  /** I/O queue pairs there are. */
  get queues(): number {
    return this.#dispatcher!.ioQueues.length;
  }

  /** Commands in flight on each I/O queue, at most. */
  get queueDepth(): number {
    return this.#dispatcher!.ioQueues[0]!.depth;
  }

  /** The kind of interrupts in use. */
  get interruptKind(): string {
    return this.#interrupts!.kind;
  }

  /** Its pools: pages of data that is copied, and two of PRP lists. */
  get pools(): readonly DmaPool[] {
    return [this.#bounce.pool, ...this.#lists.pools];
  }

  /** What was done so far. */
  statistics(): NvmeStatistics {
    const { load, timeouts, aborts, kept, ioQueues } = this.#dispatcher!;
    const submitted = ioQueues.map((queue) => queue.submitted);
    return { load, submitted, timeouts, aborts, resets: this.#resets, kept };
  }

  /**
   * IDs of the namespaces there are now, ascending; the first 1024 (5.15.2). A controller of version 1.0 has no list: each
   * ID up to 1024 is then looked at.
   */
  async namespaceIds(): Promise<number[]> {
    if (this.#registers.version >= VERSION_1_1) {
      return parseNamespaceList(await this.#identify(IDENTIFY.activeNamespaces, 0));
    }
    const ids: number[] = [];
    const last = Math.min(this.#identity.maxNamespaceId, NAMESPACE_LIST_LENGTH);
    for (let nsid = 1; nsid <= last; nsid++) {
      if (parseNamespaceSize(await this.#identify(IDENTIFY.namespace, nsid)) > 0) ids.push(nsid);
    }
    return ids;
  }

  /**
   * Opens a namespace. While a command runs that may change its format (see {@link NvmeController.admin}), that is waited for.
   *
   * @param nsid Its ID, from 1 up; see {@link NvmeController.namespaceIds}.
   * @throws {@link NvmeError} `ERR_DMAPOOL_NVME_NO_NAMESPACE` when there is none of that ID, `ERR_DMAPOOL_NVME_UNSUPPORTED` when it has
   *   metadata, or blocks that are larger than a command may transfer.
   */
  async namespace(nsid: number): Promise<NvmeNamespace> {
    checkInteger('nsid', nsid, 1, 0xffff_fffe);
    const none = (why: string, options?: ErrorOptions): NvmeError =>
      new NvmeError(
        'ERR_DMAPOOL_NVME_NO_NAMESPACE',
        this.address,
        `there is no namespace ${String(nsid)}: ${why}`,
        options,
      );
    const identify = async (): Promise<NvmeNamespaceIdentity> => {
      const bytes = await this.#identify(IDENTIFY.namespace, nsid).catch((error: unknown) => {
        const isInvalid = error instanceof NvmeStatusError && error.is(0, STATUS.invalidNamespace);
        throw isInvalid ? none(error.status, { cause: error }) : error;
      });
      const identity = parseNamespace(bytes, this.address, nsid);
      // Of those that it might have, but has not, it tells zeros (5.15.2).
      if (identity.blocks === 0) throw none('it is not active');
      return identity;
    };
    return this.#formats.open(nsid, identify, (identity, format) => {
      const owner: NamespaceOwner = {
        address: this.address,
        identity: this.#identity,
        maxTransfer: this.maxTransfer,
        lists: this.#lists,
        bounce: this.#bounce,
        transfer: (command, data, timeout) => this.#submitIo(command, data, timeout),
      };
      return new NvmeNamespace(owner, nsid, identity, format);
    });
  }

  /**
   * Any admin command that moves no data, or one buffer of at most {@link NvmeController.maxTransfer} bytes. Bits 1:0 of its
   * opcode say which: the controller fills the buffer, or reads it, or both.
   *
   * Commands that create or delete queues, Doorbell Buffer Config, Host Memory Buffer and Asynchronous Event Request are
   * refused: they give the controller memory beyond their completion, or wait for what this driver does not deal with. After
   * Format NVM, Namespace Management and Namespace Attachment open namespaces anew: their block size may be another one.
   * From the call on, commands to a namespace that was opened before fail with `ERR_DMAPOOL_NVME_STALE_NAMESPACE`; those that
   * are under way come first.
   *
   * @param command Dwords of the command.
   * @param buffer Needed exactly when the command transfers data; of as many bytes as it transfers, where that is known.
   * @param options How long it may take.
   * @returns Dword 0 of its completion.
   * @throws `DmaArgumentError` before anything is submitted.
   */
  admin(command: NvmeCommand, buffer?: Uint8Array, options: NvmeCommandOptions = {}): Promise<number> {
    const checked = checkCommand(command);
    const timeout = commandTimeout(options) ?? adminTimeout(checked, this.#options.timeout);
    const length = this.#lengthOf(buffer);
    const isSizeKnown = checkAdminTransfer(checked, length);
    const data = this.#dataOf(checked, buffer, isSizeKnown);
    const nsid = formatChangedBy(checked, this.#identity);
    if (nsid === null) return this.#submitAdmin(checked, data, timeout);
    return this.#formats.change(nsid, async () => {
      const isIdle = (): boolean => this.#life.refusal !== null || !this.#dispatcher!.hasIoOf(nsid);
      await waitUntil(isIdle, Infinity);
      return this.#submitAdmin(checked, data, timeout);
    });
  }

  /**
   * Any command of the NVM command set, on the queue with the least to do; see {@link NvmeController.admin}. For what
   * {@link NvmeNamespace} does not have. Read, Write and Compare need a buffer of as many blocks as they transfer; the
   * namespace is identified for that when it was not opened.
   *
   * @throws as {@link NvmeController.namespace}.
   */
  io(command: NvmeCommand, buffer?: Uint8Array, options: NvmeCommandOptions = {}): Promise<number> {
    const checked = checkCommand(command);
    const timeout = commandTimeout(options);
    const length = this.#lengthOf(buffer);
    if (transfersBlocks(checked) && length !== null) return this.#blocksCommand(checked, buffer!, length, timeout);
    const isSizeKnown = checkNvmTransfer(checked, length, null);
    return this.#submitIo(checked, this.#dataOf(checked, buffer, isSizeKnown), timeout);
  }

  async #blocksCommand(
    command: NvmeCommand,
    buffer: Uint8Array,
    length: number,
    timeout: number | undefined,
  ): Promise<number> {
    const { nsid = 0 } = command;
    let format = this.#formats.get(nsid);
    for (; format === undefined; format = this.#formats.get(nsid)) await this.namespace(nsid);
    checkNvmTransfer(command, length, format.blockSize);
    return this.#submitIo(command, this.#dataOf(command, buffer, true), timeout);
  }

  #lengthOf(buffer: Uint8Array | undefined): number | null {
    if (buffer === undefined) return null;
    checkBytes('buffer', buffer);
    const { length } = buffer;
    checkInteger('buffer.length', length, 4, this.maxTransfer);
    return length;
  }

  #dataOf(command: NvmeCommand, buffer: Uint8Array | undefined, isSizeKnown: boolean): CommandData | null {
    const direction = directionOf(command);
    if (buffer === undefined || direction === 'none') return null;
    // A controller that fills less than the buffer leaves the rest as it is.
    const isPartial = direction === 'fromDevice' && !isSizeKnown;
    return new BouncedData(this.#bounce, buffer, isPartial ? 'both' : direction);
  }

  #submitIo(command: NvmeCommand, data: CommandData | null, timeout?: number): Promise<number> {
    const { refusal } = this.#life;
    return refusal === null ? this.#dispatcher!.submitIo(command, data, timeout) : Promise.reject(refusal);
  }

  #submitAdmin(command: NvmeCommand, data: CommandData | null, timeout?: number): Promise<number> {
    const { refusal } = this.#life;
    return refusal === null ? this.#dispatcher!.submitAdmin(command, data, timeout) : Promise.reject(refusal);
  }

  /** Submits for an activity, also when other commands are refused; ends with it. */
  #submitFor(signal: AbortSignal): SubmitAdmin {
    return (command, data) => abortable(this.#dispatcher!.submitAdmin(command, data), signal);
  }

  async #identify(
    cns: number,
    nsid: number,
    submit: SubmitAdmin = (command, data) => this.#submitAdmin(command, data),
  ): Promise<Uint8Array> {
    const bytes = new Uint8Array(IDENTIFY_SIZE);
    const data = new BouncedData(this.#bounce, bytes, 'fromDevice');
    await submit({ opcode: ADMIN.identify, nsid, cdw10: cns }, data);
    return bytes;
  }

  // ---- life

  /** Takes an event, and begins what the next state is there for. @param reason Why it came; commands fail with it. */
  #advance(event: LifeEvent, reason?: Error): void {
    switch (this.#life.advance(event)) {
      case 'live':
        this.#dispatcher!.open();
        break;
      case 'resetting':
        this.#resets++;
        this.#pci.device.report('warn', 'nvme reset', `resetting the controller: ${reason!.message}`);
        this.#run((signal) => this.#reset(reason!, signal));
        break;
      case 'closing':
        this.#run((signal) => this.#shutDown(signal));
        break;
      case 'stopping':
        this.#end(this.#life.refuse(reason!));
        this.#run(() => this.#stop());
        break;
      default:
    }
  }

  /** Submits nothing any more; what waits fails. */
  #end(reason: Error): void {
    this.#dispatcher?.end(reason);
  }

  /** Runs an activity after the one that runs now, which is aborted. When it fails, the controller is stopped. */
  #run(activity: (signal: AbortSignal) => Promise<void>): void {
    this.#activity.abort(this.#life.refusal ?? undefined);
    const { signal } = (this.#activity = new AbortController());
    const previous = this.#work;
    this.#work = (async (): Promise<void> => {
      // An access to a device may hang for ever; what it stands in the way of must happen all the same.
      await settled(previous, this.#registers.stopTimeout);
      await activity(signal);
    })().catch((error: unknown) => {
      this.#advance('stop', error as Error);
    });
  }

  async #start(): Promise<void> {
    this.#run((signal) => this.#begin(signal));
    while (this.#life.state === 'starting' || this.#life.state === 'stopping') await this.#work;
    const { refusal } = this.#life;
    if (refusal === null) return;
    if (this.#life.state === 'stopped') {
      try {
        this.#release(this.#proof!);
      } catch {
        // Report the original error.
      }
    }
    throw refusal;
  }

  async #begin(signal: AbortSignal): Promise<void> {
    const pci = this.#pci;
    const { queues, queueDepth, timeout, interrupts } = this.#options;
    const { doorbellStride, maxEntries } = this.#registers.capabilities;
    const { failure } = await this.#stopDma();
    signal.throwIfAborted();
    if (failure !== null) await this.#registers.resetFunction(failure, signal);
    this.#interrupts = await pci.interrupts({ ...interrupts, vectors: queues + 1 });
    signal.throwIfAborted();
    const dispatcher = new Dispatcher({
      device: pci.device,
      interrupts: this.#interrupts,
      registers: pci.bar(0),
      doorbellStride,
      timeout,
      abortLimit: () => (this.#life.state === 'live' ? this.#identity.abortLimit : 0),
      isFatal: () => this.#registers.isFatal(),
      refusal: () => this.#life.refusal,
      onLate: (reason) => {
        this.#advance('reset', reason);
      },
      onLost: (error) => {
        this.#advance('stop', error);
      },
    });
    this.#dispatcher = dispatcher;
    dispatcher.addQueue(Math.min(ADMIN_DEPTH, maxEntries - 1));
    await this.#enable(signal);
    const submit = this.#submitFor(signal);
    this.#identity = parseController(await this.#identify(IDENTIFY.controller, 0, submit), this.#registers.version);
    const granted = Math.min(queues, await requestQueues(submit, queues));
    for (let id = 1; id <= granted; id++) dispatcher.addQueue(Math.min(queueDepth, maxEntries - 1));
    await createQueues(submit, dispatcher.ioQueues, this.#interrupts.kind !== 'poll');
    this.#advance('ready');
  }

  /** Starts the controller, which is disabled, with an empty admin queue. */
  async #enable(signal: AbortSignal): Promise<void> {
    const { admin } = this.#dispatcher!;
    await this.#registers.enable(admin, signal);
    admin.state = 'open';
  }

  /** Resets the controller. What is in flight fails; what waits goes on afterwards. */
  async #reset(reason: Error, signal: AbortSignal): Promise<void> {
    const dispatcher = this.#dispatcher!;
    dispatcher.hold();
    const { proof, failure } = await this.#stopDma();
    signal.throwIfAborted();
    dispatcher.failInFlight(proof, (request) => new NvmeResetError(this.#pci.address, request.name, reason));
    dispatcher.reset();
    if (failure !== null) await this.#registers.resetFunction(failure, signal);
    await this.#enable(signal);
    const submit = this.#submitFor(signal);
    const granted = await requestQueues(submit, this.queues);
    if (granted < this.queues) {
      const message = `has ${String(granted)} I/O queues after a reset, and had ${String(this.queues)}`;
      throw new NvmeError('ERR_DMAPOOL_NVME_PROTOCOL', this.#pci.address, message);
    }
    await createQueues(submit, dispatcher.ioQueues, this.interruptKind !== 'poll');
    this.#advance('ready');
  }

  /** Orderly shutdown (7.6.2). */
  async #shutDown(signal: AbortSignal): Promise<void> {
    try {
      await deleteQueues(this.#submitFor(signal), this.#dispatcher!.ioQueues);
    } catch {
      // The controller keeps a queue that it should delete. It is told of the shutdown all the same.
      signal.throwIfAborted();
    }
    const latency = this.#identity.shutdownLatency / 1000;
    await this.#registers.shutdown(Math.min(Math.max(SHUTDOWN_LEAST, latency), SHUTDOWN_MOST), signal);
    this.#advance('stop', this.#life.refusal!);
  }

  /** Stops the controller for good. What is in flight fails, and its memory is released if it is proven to do no DMA. */
  async #stop(): Promise<void> {
    const reason = this.#life.refusal!;
    try {
      const { proof } = await this.#stopDma();
      if (this.#life.state !== 'stopping') return;
      this.#dispatcher?.failInFlight(proof, () => reason);
      this.#proof = proof;
      this.#unproven = null;
      await this.#closeInterrupts();
      this.#advance('proven');
    } catch (error) {
      this.#proof = null;
      this.#unproven = error as Error;
      const commands = this.#dispatcher?.keepInFlight(error as Error) ?? 0;
      const what = `the memory of its queues and of ${String(commands)} commands is kept`;
      this.#pci.device.report('error', 'nvme kept memory', `${what}: ${(error as Error).message}`);
      await this.#closeInterrupts();
      this.#advance('unproven');
    }
  }

  /** Fails where the function is gone or closed: then they are closed already. */
  async #closeInterrupts(): Promise<void> {
    if (this.#interrupts !== null) await settled(this.#interrupts.close(), CLOSE_TIME);
  }

  /**
   * Stops the controller's DMA, and disables it.
   *
   * @returns The proof, and why it could not be disabled all the same; null when it was.
   * @throws `PciError` `ERR_DMAPOOL_PCI_DMA_ACTIVE` when nothing could be proven.
   */
  async #stopDma(): Promise<{ readonly proof: DmaStopped; readonly failure: Error | null }> {
    const timeout = this.#registers.stopTimeout;
    const attempt = new AbortController();
    const result = {
      failure: new NvmeTimeoutError(this.#pci.address, `was not disabled within ${String(timeout)} ms`) as Error | null,
    };
    const stop = async (): Promise<void> => {
      try {
        await this.#registers.disable(attempt.signal);
        result.failure = null;
      } catch (error) {
        result.failure = error as Error;
        throw error;
      }
    };
    try {
      const proof = await this.#pci.stopDma({ stop, timeout });
      return { proof, failure: result.failure };
    } finally {
      // What hangs must not write to a controller that was started again.
      attempt.abort();
    }
  }

  // ---- ending

  /**
   * Shuts the controller down (7.6.2), stops its DMA and releases its memory; while a reset runs, after that. Commands that
   * are in flight or wait fail with `ERR_DMAPOOL_NVME_CLOSED`. Closing twice is fine, and so is closing one that is gone.
   *
   * @throws `PciError` `ERR_DMAPOOL_PCI_DMA_ACTIVE` when the controller may still do DMA: all its memory is kept, the device's
   *   log says so, and a later call tries again; so does `pci.close()`.
   * @throws `DmaReleaseError` when memory failed to go back: all of it was tried.
   */
  close(): Promise<void> {
    return (this.#closing ??= this.#close().catch((error: unknown) => {
      if (this.#life.state !== 'closed') this.#closing = null;
      throw error;
    }));
  }

  /** {@link NvmeController.close}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const reason = this.#life.refuse(new NvmeError('ERR_DMAPOOL_NVME_CLOSED', this.address, 'the driver was closed'));
    this.#dispatcher!.closeIo(reason);
    this.#advance('close', reason);
    while (!this.#life.isOver) await this.#work;
    if (this.#life.state === 'stuck') throw this.#unproven!;
    try {
      if (this.#life.state === 'stopped') this.#release(this.#proof!);
    } finally {
      this.#endClaim();
    }
  }

  /** The function was closed under the driver, which proved that it does no DMA; or its device was detached by somebody else. */
  #onDetach(): void {
    const message = 'its PCI function was closed';
    const reason = this.#life.refuse(new NvmeError('ERR_DMAPOOL_NVME_CLOSED', this.address, message));
    const proof = this.#pci.dmaStopped;
    if (proof === null) {
      this.#advance('stop', reason);
      // What is kept until there is a proof is released by close(), or by the detach of the function's close.
      queueMicrotask(() => {
        if (this.#life.state !== 'closed') this.#watchDetach();
      });
      return;
    }
    this.#activity.abort(reason);
    this.#end(reason);
    this.#dispatcher?.failInFlight(proof, () => reason);
    this.#release(proof);
  }

  /** Releases all memory of the driver that the controller could reach. */
  #release(proof: DmaStopped): void {
    this.#forget();
    this.#advance('released');
    const releases = this.#dispatcher?.releases(proof) ?? [];
    for (const pool of this.pools) {
      releases.push(() => {
        pool.destroy();
      });
    }
    releaseStopped(proof, `${this.address}: memory of the NVMe driver failed to go back`, releases);
  }
}
