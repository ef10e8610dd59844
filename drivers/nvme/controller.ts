/**
 * Driver for an NVM Express controller. NVM Express Base Specification 1.4, 7.
 *
 *     NvmeController -- LifeCycle           state machine
 *                    -- ControllerRegisters stop, start and shut down
 *                    -- Dispatcher          queues, doorbells, completions, time-outs
 *
 * At most one activity runs at a time: a start, a reset, a shutdown, or the final stop. A new activity aborts the
 * running one and waits until it has ended. Memory that the controller may reach is released in two cases: for a
 * command that has completed, and with a proof from `PciFunction.stopDma`. Otherwise it is kept.
 *
 * Not supported: metadata and protection information, scatter-gather lists (SGL), controller memory buffers, namespace
 * management, asynchronous events, power management, and memory page sizes other than 4096 bytes.
 */
import type { DmaPool } from 'dmapool';
import { dmaBitMask } from 'dmapool';
import { checkBytes, checkInteger } from 'dmapool/arguments';
import type { DmaStopped, Interrupts, PciFunction } from 'dmapool/pci';
import { checkFunctionOf, checkConstructorKey, CONSTRUCTOR_KEY } from '../common/arguments.ts';
import { releaseStopped } from '../common/release.ts';
import { abortable, settled, waitUntil } from '../common/time.ts';
import { ControllerRegisters } from './controller-registers.ts';
import { BouncedData, BouncePages, type CommandData } from './data.ts';
import { Dispatcher } from './dispatcher.ts';
import { isDmaActive, NvmeError, NvmeResetError, NvmeStatusError, NvmeTimeoutError } from './errors.ts';
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

/** Maximum commands in flight on the admin queue. */
const ADMIN_DEPTH = 31;
/** Minimum and maximum time limit of a shutdown in milliseconds (7.6.2), whatever latency the controller reports. */
const MIN_SHUTDOWN_TIME = 1000;
const MAX_SHUTDOWN_TIME = 60_000;

/** Time limit in milliseconds for closing the interrupts. */
const CLOSE_TIME = 10_000;

/** Statistics of a controller since it was opened. */
export interface NvmeStatistics {
  /** Commands in flight or waiting now. */
  readonly load: number;
  /** Commands submitted so far, by I/O queue. */
  readonly submitted: readonly number[];
  /** Commands that timed out. */
  readonly timeouts: number;
  /** Abort commands sent for them. */
  readonly aborts: number;
  /** Resets of the controller. */
  readonly resets: number;
  /**
   * Failed commands whose memory is kept: the controller could not be stopped and may still use it. They count as load
   * until a later `close()` succeeds.
   */
  readonly kept: number;
}

/**
 * Driver of one NVMe controller. Commands fail with `NvmeError` or a subclass, with `DmaOutOfMemoryError` when there is
 * no memory, and with `PciGoneError` when the device was unplugged. In all these cases the driver has released the
 * command's memory. The exception is `PciError` `ERR_DMAPOOL_PCI_DMA_ACTIVE`: the controller could not be stopped and
 * may still use the command's memory. The driver keeps its own memory, and the caller must keep its buffers, until
 * `close()` succeeds.
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
  /** Unregisters the action that runs if the function is closed before the driver. */
  #forget: () => boolean = () => false;
  readonly #life = new LifeCycle();
  /** Aborts the running activity. */
  #activity = new AbortController();
  /** Resolves when the running activity has ended. */
  #work: Promise<void> = Promise.resolve();
  /** Proof that the stopped controller does no DMA, or the error of the attempt to prove it. */
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
    checkConstructorKey(key, 'NvmeController', 'NvmeController.open()');
    this.#pci = pci;
    this.#options = options;
    this.#registers = registers;
    this.#endClaim = endClaim;
    this.#lists = new PrpLists(pci.device, MAX_TRANSFER / PAGE_SIZE);
    this.#bounce = new BouncePages(pci.device, this.#lists, options.bounceMemory / PAGE_SIZE);
    // Actions run in reverse order: registered after the pools, this one runs before they are destroyed.
    this.#watchDetach();
  }

  #watchDetach(): void {
    this.#forget = this.#pci.device.addAction(() => {
      this.#onDetach();
    });
  }

  /**
   * Claims a function, resets and enables its controller, identifies it and creates its queues (7.6.1).
   *
   * @param pci An open function of class 010802h. The caller closes it, after {@link NvmeController.close}.
   * @param options Queues, depth, time limits; all have defaults.
   * @throws `DmaArgumentError`, `DmaOutOfMemoryError`, `PciGoneError`, {@link NvmeError} and its subclasses. The
   *   controller is then stopped and all memory is released. If it can't be stopped, its memory and the claim of the
   *   function are kept until `pci.close()`, and the device's log reports it.
   * @throws `PciError` `ERR_DMAPOOL_PCI_BUSY` when another driver has claimed the function.
   */
  static async open(pci: PciFunction, options: NvmeOptions = {}): Promise<NvmeController> {
    const checked = checkNvmeOptions(options);
    checkFunctionOf(pci);
    if (pci.classCode !== CLASS_NVME) {
      const message = `class 0x${pci.classCode.toString(16)} is not an NVMe controller`;
      throw new NvmeError('ERR_DMAPOOL_NVME_UNSUPPORTED', pci.address, message);
    }
    const endClaim = pci.claim('NVMe');
    let controller: NvmeController | null = null;
    try {
      // PRP entries hold 64-bit addresses.
      pci.device.setDmaMask(dmaBitMask(64));
      controller = new NvmeController(CONSTRUCTOR_KEY, pci, checked, await ControllerRegisters.read(pci), endClaim);
      await controller.#start();
      return controller;
    } catch (error) {
      // Keep the claim while the memory is kept: another driver would enable DMA, and the controller may reach that memory.
      if (controller === null || controller.#life.state !== 'stuck') endClaim();
      throw error;
    }
  }

  /** Address of its function, such as `0000:00:04.0`. */
  get address(): string {
    return this.#pci.address;
  }

  /** Identity and capabilities that the controller reports. */
  get identity(): NvmeIdentity {
    return this.#identity;
  }

  /** Maximum bytes per command. Longer reads and writes are split. */
  get maxTransfer(): number {
    return Math.min(this.#identity.maxTransfer, MAX_TRANSFER);
  }

  /** Number of I/O queue pairs. */
  get queues(): number {
    return this.#dispatcher!.ioQueues.length;
  }

  /** Maximum commands in flight per I/O queue. */
  get queueDepth(): number {
    return this.#dispatcher!.ioQueues[0]!.depth;
  }

  /** Kind of interrupts in use. */
  get interruptKind(): string {
    return this.#interrupts!.kind;
  }

  /** Its pools: bounce pages, and two of PRP lists. */
  get pools(): readonly DmaPool[] {
    return [this.#bounce.pool, ...this.#lists.pools];
  }

  /** Statistics so far. */
  statistics(): NvmeStatistics {
    const { load, timeouts, aborts, kept, ioQueues } = this.#dispatcher!;
    const submitted = ioQueues.map((queue) => queue.submitted);
    return { load, submitted, timeouts, aborts, resets: this.#resets, kept };
  }

  /**
   * IDs of the active namespaces, ascending; the first 1024 (5.15.2). A controller of version 1.0 has no list, so each ID
   * up to 1024 is identified.
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
   * Opens a namespace. Waits for commands that may change its format (see {@link NvmeController.admin}).
   *
   * @param nsid Namespace ID, from 1; see {@link NvmeController.namespaceIds}.
   * @throws {@link NvmeError} `ERR_DMAPOOL_NVME_NO_NAMESPACE` when no active namespace has that ID,
   *   `ERR_DMAPOOL_NVME_UNSUPPORTED` when it has metadata or blocks larger than a command can transfer.
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
      // For an inactive namespace the data structure is all zeros (5.15.2).
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
        transfer: (command, data, timeout) => {
          const { refusal } = this.#life;
          return refusal === null ? this.#dispatcher!.transfer(command, data, timeout) : Promise.reject(refusal);
        },
        transferAll: (transfers) => {
          const { refusal } = this.#life;
          return refusal === null ? this.#dispatcher!.transferAll(transfers) : Promise.reject(refusal);
        },
      };
      return new NvmeNamespace(owner, nsid, identity, format);
    });
  }

  /**
   * Submits any admin command that transfers no data, or one buffer of at most {@link NvmeController.maxTransfer}
   * bytes. Bits 1:0 of its opcode give the direction: the controller writes the buffer, reads it, or both.
   *
   * The driver rejects commands that would interfere with it: those that create or delete queues, Doorbell Buffer
   * Config, Set Features for the Host Memory Buffer, and Asynchronous Event Request.
   *
   * Format NVM, Namespace Management and Namespace Attachment may change the block size of a namespace. Open it again
   * after them. From the call on, commands to a namespace that was opened before fail with
   * `ERR_DMAPOOL_NVME_STALE_NAMESPACE`. Commands already in flight complete first.
   *
   * @param command Opcode, namespace and dwords.
   * @param buffer Required if and only if the command transfers data. If the length is known, it must match.
   * @param options Time limit.
   * @returns Dword 0 of the completion.
   * @throws `DmaArgumentError` before the command is submitted.
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
   * Submits any command of the NVM command set to the I/O queue with the lowest load, for commands that
   * {@link NvmeNamespace} does not have; see {@link NvmeController.admin}. The buffer of Read, Write and Compare must
   * hold exactly the addressed blocks. To check this, the driver identifies a namespace that was not opened.
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
    // If the controller fills only part of the buffer, the rest must keep its content.
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

  /**
   * Submits commands for an activity, even while others are rejected. The promises reject when the activity is aborted.
   */
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

  // ---- life cycle

  /**
   * Processes an event and starts the activity of the next state.
   * @param reason Cause of the event; commands fail with it.
   */
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

  /** Ends submission. Waiting commands fail. */
  #end(reason: Error): void {
    this.#dispatcher?.end(reason);
  }

  /** Aborts the running activity and runs this one after it. If it fails, the controller is stopped. */
  #run(activity: (signal: AbortSignal) => Promise<void>): void {
    this.#activity.abort(this.#life.refusal ?? undefined);
    const { signal } = (this.#activity = new AbortController());
    const previous = this.#work;
    this.#work = (async (): Promise<void> => {
      // An access to the device may hang forever; this activity must start nevertheless.
      await settled(previous, this.#registers.stopTimeout);
      await activity(signal);
    })().catch((error: unknown) => {
      this.#advance('stop', this.#reasonOf(error));
    });
  }

  /** The error of later commands. Only those that the controller may still run reject with "not stopped" itself. */
  #reasonOf(error: unknown): Error {
    if (!isDmaActive(error)) return error as Error;
    return new NvmeTimeoutError(this.#pci.address, 'the controller could not be stopped for a reset', { cause: error });
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

  /** Enables the disabled controller with an empty admin queue. */
  async #enable(signal: AbortSignal): Promise<void> {
    const { admin } = this.#dispatcher!;
    await this.#registers.enable(admin, signal);
    admin.state = 'open';
  }

  /** Resets the controller. Commands in flight fail; waiting commands are submitted afterwards. */
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
      const message = `the controller granted ${String(granted)} I/O queues after a reset, ${String(this.queues)} before`;
      throw new NvmeError('ERR_DMAPOOL_NVME_PROTOCOL', this.#pci.address, message);
    }
    await createQueues(submit, dispatcher.ioQueues, this.interruptKind !== 'poll');
    this.#advance('ready');
  }

  /** Normal shutdown (7.6.2). */
  async #shutDown(signal: AbortSignal): Promise<void> {
    try {
      await deleteQueues(this.#submitFor(signal), this.#dispatcher!.ioQueues);
    } catch {
      // The controller did not delete a queue. Shut it down nevertheless.
      signal.throwIfAborted();
    }
    const latency = this.#identity.shutdownLatency / 1000;
    await this.#registers.shutdown(Math.min(Math.max(MIN_SHUTDOWN_TIME, latency), MAX_SHUTDOWN_TIME), signal);
    this.#advance('stop', this.#life.refusal!);
  }

  /** Stops the controller for good. Commands in flight fail. With a proof their memory is released, otherwise kept. */
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

  /** Ignores errors: if the function is gone or closed, its interrupts are closed already. */
  async #closeInterrupts(): Promise<void> {
    if (this.#interrupts !== null) await settled(this.#interrupts.close(), CLOSE_TIME);
  }

  /**
   * Stops the controller's DMA and disables it.
   *
   * @returns The proof, and the error if the controller could not be disabled, else null.
   * @throws `PciError` `ERR_DMAPOOL_PCI_DMA_ACTIVE` when there is no proof.
   */
  async #stopDma(): Promise<{ readonly proof: DmaStopped; readonly failure: Error | null }> {
    const timeout = this.#registers.stopTimeout;
    const attempt = new AbortController();
    const result = {
      failure: new NvmeTimeoutError(
        this.#pci.address,
        `the controller was not disabled within ${String(timeout)} ms`,
      ) as Error | null,
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
      // A hanging attempt must not write to a controller that was started again.
      attempt.abort();
    }
  }

  // ---- close

  /**
   * Shuts the controller down (7.6.2), stops its DMA and releases its memory. If a reset is running, it does so after
   * the reset. Commands in flight or waiting fail with `ERR_DMAPOOL_NVME_CLOSED`. It is safe to call `close` twice and
   * to close a controller that is gone.
   *
   * @throws `PciError` `ERR_DMAPOOL_PCI_DMA_ACTIVE` when the controller may still do DMA. All its memory is kept, and
   *   the device's log reports it. A later `close` or `pci.close()` tries again.
   * @throws `DmaReleaseError` when releasing some of the memory failed.
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

  /**
   * Called when the function is closed before the driver; then there is a proof that its DMA stopped. Also called when
   * other code detaches its device; then there is none.
   */
  #onDetach(): void {
    const message = 'its PCI function was closed';
    const reason = this.#life.refuse(new NvmeError('ERR_DMAPOOL_NVME_CLOSED', this.address, message));
    const proof = this.#pci.dmaStopped;
    if (proof === null) {
      this.#advance('stop', reason);
      // Register this action again: it releases the kept memory when the function is closed, unless `close` did so before.
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
    releaseStopped(proof, `${this.address}: releasing the driver's memory failed`, releases);
  }
}
