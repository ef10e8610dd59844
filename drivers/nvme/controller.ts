/**
 * An NVM Express controller and its queues: NVM Express Base Specification 1.4, 7.
 *
 *     open ---> live --close--> closing         commands are taken while live, and wait while it is reset
 *                |  ^
 *       late     v  |  all is as it was, but what was in flight failed
 *             resetting
 *
 *     dead: from any of these, when the controller is gone or a reset does not help
 *
 * What this driver leaves out: metadata and protection information, scatter-gather lists (SGL), controller memory
 * buffers, namespace management, asynchronous events, power management, and memory pages of other sizes than 4096 bytes.
 */
import type { DmaPool } from 'dmapool';
import { dmaBitMask, DmaArgumentError } from 'dmapool';
import { checkBytes, checkInteger } from 'dmapool/arguments';
import type { Interrupts, PciFunction } from 'dmapool/pci';
import { checkFunctionOf, checkMaking, MAKING } from '../common/arguments.ts';
import { releaseAll, runAll } from '../common/release.ts';
import { ControllerRegisters } from './controller-registers.ts';
import { BouncedData, BouncePages, type CommandData } from './data.ts';
import { NvmeError, NvmeResetError, NvmeStatusError, NvmeTimeoutError } from './errors.ts';
import {
  type NvmeIdentity,
  parseController,
  parseNamespace,
  parseNamespaceList,
  parseNamespaceSize,
} from './identify.ts';
import { NvmeNamespace } from './namespace.ts';
import { type CheckedNvmeOptions, checkNvmeOptions, MAX_TRANSFER, type NvmeOptions } from './options.ts';
import { PrpLists } from './prp.ts';
import { checkCommand, type NvmeCommand, QueuePair, Request } from './queue-pair.ts';
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
/** The watchdog looks so often in the time that a command may take; milliseconds at least. */
const LOOKS = 4;
const LEAST_LOOK = 5;
/** Milliseconds that a shutdown is waited for at least (7.6.2), and at most, whatever the controller asks for. */
const SHUTDOWN_LEAST = 1000;
const SHUTDOWN_MOST = 60_000;

type State = 'starting' | 'live' | 'resetting' | 'closing';

/** Who writes to a command's buffer: `fromDevice` the controller, `toDevice` the user. */
export type NvmeDirection = 'fromDevice' | 'toDevice';

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
}

/**
 * A driver of one NVMe controller. Errors of commands: `NvmeError` and its kin; `DmaOutOfMemoryError` when there is no
 * memory; `PciGoneError` when the device was pulled out. Whatever the outcome, a command's memory is given back.
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
  readonly #forget: () => boolean;
  readonly #submitAdmin: SubmitAdmin = (command, data) => this.#submit(0, command, data);
  #state: State = 'starting';
  /** It will not do anything any more, and touches no memory. */
  #dead = false;
  /** With what commands are refused once it is closing or dead. */
  #failure: Error | null = null;
  #identity!: NvmeIdentity;
  /** By their IDs: 0 is the admin queue. None before there is one. */
  readonly #queues: QueuePair[] = [];
  #interrupts: Interrupts | null = null;
  /** By vector: somebody looks after the completions. */
  #serving: boolean[] = [];
  #kicked = false;
  #watchdog: ReturnType<typeof setTimeout> | undefined;
  #recovery: Promise<void> | null = null;
  #closing: Promise<void> | null = null;
  #timeouts = 0;
  #aborts = 0;
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
    this.#forget = pci.device.addAction(() => {
      this.#releaseMemory();
    });
  }

  /**
   * Takes a function over: resets and enables its controller, identifies it and makes its queues (7.6.1).
   *
   * @param pci An open function of class 010802h. It stays the caller's to close, after {@link NvmeController.close}.
   * @param options Queues, their depth, time-outs; all have defaults.
   * @throws `DmaArgumentError`, `DmaOutOfMemoryError`, `PciGoneError`, {@link NvmeError} and its kin. The controller is
   *   then stopped, and all memory is given back.
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
      await controller.#begin();
      return controller;
    } catch (error) {
      // Report the original error.
      if (controller !== null) await controller.#abandon(error as Error).catch(() => undefined);
      endClaim();
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
    return this.#queues.length - 1;
  }

  /** Commands in flight on each I/O queue, at most. */
  get queueDepth(): number {
    return this.#queues[1]!.depth;
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
    const load = this.#queues.reduce((sum, queue) => sum + queue.load, 0);
    const submitted = this.#queues.slice(1).map((queue) => queue.submitted);
    return { load, submitted, timeouts: this.#timeouts, aborts: this.#aborts, resets: this.#resets };
  }

  /**
   * IDs of the namespaces there are now, ascending; the first 1024 (5.15.2.3). A controller of version 1.0 has no list: each
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
   * Opens a namespace.
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
    const bytes = await this.#identify(IDENTIFY.namespace, nsid).catch((error: unknown) => {
      const isInvalid = error instanceof NvmeStatusError && error.is(0, STATUS.invalidNamespace);
      throw isInvalid ? none(error.status, { cause: error }) : error;
    });
    const identity = parseNamespace(bytes, this.address, nsid);
    // Of those that it might have, but has not, it tells zeros (5.15.2.1).
    if (identity.blocks === 0) throw none('it is not active');
    return new NvmeNamespace(
      {
        address: this.address,
        identity: this.#identity,
        maxTransfer: this.maxTransfer,
        lists: this.#lists,
        bounce: this.#bounce,
        transfer: (command, data) => this.#transfer(command, data),
      },
      nsid,
      identity,
    );
  }

  /**
   * Any admin command that moves no data, or one buffer of at most {@link NvmeController.maxTransfer} bytes.
   *
   * @param buffer Filled by the controller, or read by it: as the command has it.
   * @returns Dword 0 of its completion.
   */
  admin(command: NvmeCommand, buffer?: Uint8Array, direction: NvmeDirection = 'fromDevice'): Promise<number> {
    return this.#submit(0, checkCommand(command), this.#dataOf(buffer, direction));
  }

  /**
   * Any command of the NVM command set, on the queue with the least to do; see {@link NvmeController.admin}. For what
   * {@link NvmeNamespace} does not have.
   */
  io(command: NvmeCommand, buffer?: Uint8Array, direction: NvmeDirection = 'fromDevice'): Promise<number> {
    return this.#transfer(checkCommand(command), this.#dataOf(buffer, direction));
  }

  #dataOf(buffer: Uint8Array | undefined, direction: NvmeDirection): CommandData | null {
    if (direction !== 'fromDevice' && direction !== 'toDevice') {
      throw new DmaArgumentError('direction', direction, 'fromDevice or toDevice');
    }
    if (buffer === undefined) return null;
    checkBytes('buffer', buffer);
    checkInteger('buffer.length', buffer.length, 4, this.maxTransfer);
    return new BouncedData(this.#bounce, buffer, direction === 'toDevice');
  }

  /** Submits an I/O command. */
  #transfer(command: NvmeCommand, data: CommandData | null): Promise<number> {
    let least = 1;
    for (let id = 2; id < this.#queues.length; id++) {
      if (this.#queues[id]!.load < this.#queues[least]!.load) least = id;
    }
    return this.#submit(least, command, data);
  }

  #submit(id: number, command: NvmeCommand, data: CommandData | null): Promise<number> {
    return this.#failure === null ? this.#enqueue(id, command, data) : Promise.reject(this.#failure);
  }

  /** The same for the driver's own commands, which are not refused while it is being closed. */
  #enqueue(id: number, command: NvmeCommand, data: CommandData | null): Promise<number> {
    if (this.#dead) return Promise.reject(this.#failure!);
    return new Promise((resolve, reject) => {
      this.#queues[id]!.add(new Request(command, data, resolve, reject));
      this.#kick();
    });
  }

  async #identify(cns: number, nsid: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(IDENTIFY_SIZE);
    const data = new BouncedData(this.#bounce, bytes, false);
    await this.#submit(0, { opcode: ADMIN.identify, nsid, cdw10: cns }, data);
    return bytes;
  }

  // ---- starting

  async #begin(): Promise<void> {
    const { device } = this.#pci;
    const { queues, queueDepth, timeout, interrupts } = this.#options;
    const { capabilities } = this.#registers;
    await this.#registers.disable();
    this.#interrupts = await this.#pci.interrupts({ ...interrupts, vectors: queues + 1 });
    const { vectors } = this.#interrupts;
    this.#serving = new Array<boolean>(vectors).fill(false);
    const owner = {
      device,
      registers: this.#pci.bar(0),
      doorbellStride: capabilities.doorbellStride,
      timeout,
      explain: (request: Request, error: NvmeStatusError) => this.#explain(request, error),
    };
    const addQueue = (id: number, depth: number): void => {
      this.#queues.push(new QueuePair(owner, id, Math.min(depth, capabilities.maxEntries - 1), id % vectors));
    };
    addQueue(0, ADMIN_DEPTH);
    await this.#enable();
    this.#identity = parseController(await this.#identify(IDENTIFY.controller, 0), this.#registers.version);
    const granted = Math.min(queues, await requestQueues(this.#submitAdmin, queues));
    for (let id = 1; id <= granted; id++) addQueue(id, queueDepth);
    await createQueues(this.#submitAdmin, this.#queues.slice(1), this.#interrupts.kind !== 'poll');
    this.#goLive();
  }

  /** Starts the controller, which is disabled, with an empty admin queue. */
  async #enable(): Promise<void> {
    const admin = this.#queues[0]!;
    await this.#registers.enable(admin);
    admin.state = 'open';
  }

  #goLive(): void {
    this.#state = 'live';
    for (const queue of this.#queues) queue.state = 'open';
    this.#kick();
  }

  // ---- running

  /** Submits what waits, once this turn's code has asked for all it wants: one doorbell for all of it. */
  #kick(): void {
    if (this.#kicked) return;
    this.#kicked = true;
    queueMicrotask(() => {
      this.#kicked = false;
      this.#dispatch();
    });
  }

  #dispatch(): void {
    try {
      for (const queue of this.#queues) if (queue.hasWaiting) queue.dispatch();
    } catch (error) {
      void this.#stopFor(error as Error);
      return;
    }
    for (let vector = 0; vector < this.#serving.length; vector++) {
      if (!this.#hasInFlight(vector)) continue;
      this.#watch();
      if (!this.#serving[vector]!) void this.#serve(vector);
    }
  }

  #hasInFlight(vector: number): boolean {
    for (const queue of this.#queues) if (queue.vector === vector && queue.inFlight > 0) return true;
    return false;
  }

  #hasCompletion(vector: number): boolean {
    for (const queue of this.#queues) if (queue.vector === vector && queue.hasCompletion) return true;
    return false;
  }

  /** Looks after the completions of a vector as long as there are any to come. */
  async #serve(vector: number): Promise<void> {
    this.#serving[vector] = true;
    const wait = { vector, ready: () => this.#hasCompletion(vector) };
    try {
      for (;;) {
        this.#reap(vector);
        // Who waited for these goes first, and may have the next ones by then.
        if (!this.#hasInFlight(vector)) break;
        await this.#interrupts!.wait(wait);
      }
      this.#serving[vector] = false;
    } catch (error) {
      this.#serving[vector] = false;
      await this.#stopFor(error as Error);
    }
  }

  #reap(vector: number): void {
    let reaped = 0;
    for (const queue of this.#queues) if (queue.vector === vector) reaped += queue.reap();
    // Room and memory came back.
    if (reaped > 0) this.#kick();
  }

  /** What the driver itself brought about is no status of the controller's. */
  #explain(request: Request, error: NvmeStatusError): Error {
    if (error.statusCodeType !== 0) return error;
    if (request.abortSent && error.statusCode === STATUS.abortRequested) {
      const took = `took longer than ${String(this.#options.timeout)} ms and was aborted`;
      return new NvmeTimeoutError(this.#pci.address, `${request.name} ${took}`);
    }
    if (error.statusCode === STATUS.submissionQueueDeleted && this.#failure !== null) return this.#failure;
    return error;
  }

  // ---- time-outs

  #watch(): void {
    if (this.#watchdog !== undefined) return;
    this.#watchdog = setTimeout(
      () => {
        this.#watchdog = undefined;
        void this.#look();
      },
      Math.max(LEAST_LOOK, this.#options.timeout / LOOKS),
    );
  }

  /** Looks for commands that are late: aborts them (5.1), or resets the controller when that was done before. */
  async #look(): Promise<void> {
    try {
      const now = performance.now();
      if (this.#late(now).length > 0) {
        const isFatal = await this.#registers.isFatal();
        // An interrupt may have been lost: what is complete is not late. And what a reset that began meanwhile ends isn't, either.
        for (let vector = 0; vector < this.#serving.length; vector++) this.#reap(vector);
        for (const request of this.#late(now)) {
          if (isFatal) {
            const what = 'fatal controller status (CSTS.CFS)';
            await this.#recover(new NvmeError('ERR_DMAPOOL_NVME_PROTOCOL', this.#pci.address, what));
            return;
          }
          if (!this.#abort(request)) {
            const what = `${request.name} took longer than ${String(this.#options.timeout)} ms`;
            await this.#recover(new NvmeTimeoutError(this.#pci.address, what));
            return;
          }
        }
      }
      if (this.#queues.some((queue) => queue.inFlight > 0)) this.#watch();
    } catch (error) {
      await this.#stopFor(error as Error);
    }
  }

  #late(now: number): Request[] {
    return this.#queues.flatMap((queue) => queue.late(now));
  }

  /** Asks the controller to abort a command. False when that makes no sense (any more). */
  #abort(request: Request): boolean {
    if (this.#state !== 'live' || request.queue === 0 || request.abortSent) return false;
    // More than the limit it may refuse (5.1); the others get their turn at the next look.
    if (this.#queues[0]!.load >= this.#identity.abortLimit) return true;
    request.abortSent = true;
    request.deadline = performance.now() + this.#options.timeout;
    this.#timeouts++;
    this.#aborts++;
    const command = { opcode: ADMIN.abort, cdw10: request.queue | (request.cid << 16) };
    // Whether it worked is seen by the command itself, which is then completed, or late for the second time.
    this.#submit(0, command, null).catch(() => undefined);
    return true;
  }

  /** Resets the controller. What is in flight fails; what waits goes on afterwards. */
  #recover(reason: Error): Promise<void> {
    if (this.#state !== 'live') {
      // While it is started, reset or shut down a reset is no way out.
      return this.#stopFor(reason);
    }
    this.#state = 'resetting';
    this.#resets++;
    this.#pci.device.report('warn', 'nvme reset', `resetting the controller: ${reason.message}`);
    this.#recovery = this.#resetFor(reason).finally(() => {
      this.#recovery = null;
    });
    return this.#recovery;
  }

  async #resetFor(reason: Error): Promise<void> {
    try {
      await this.#stop();
      for (const queue of this.#queues) {
        queue.failInFlight((request) => new NvmeResetError(this.#pci.address, request.name, reason));
        // Before the first interrupt: it may be shared, and then what is old would be taken for new.
        queue.reset();
      }
      await this.#enable();
      const granted = await requestQueues(this.#submitAdmin, this.queues);
      if (granted < this.queues) {
        const message = `has ${String(granted)} I/O queues after a reset, and had ${String(this.queues)}`;
        throw new NvmeError('ERR_DMAPOOL_NVME_PROTOCOL', this.#pci.address, message);
      }
      await createQueues(this.#submitAdmin, this.#queues.slice(1), this.interruptKind !== 'poll');
      if (this.#state === 'resetting') this.#goLive();
    } catch (error) {
      await this.#stopFor(error as Error);
    }
  }

  /** Stops the controller. Then what it had completed until then is settled, for nobody will be told of it. */
  async #stop(): Promise<void> {
    for (const queue of this.#queues) queue.state = 'absent';
    await this.#registers.disable();
    // When it died in the meantime the queues' memory may be somebody else's.
    if (!this.#dead) for (const queue of this.#queues) queue.reap();
  }

  /** Stops the controller for good, if it still listens, and fails everything. */
  async #stopFor(error: Error): Promise<void> {
    try {
      await this.#stop();
    } catch {
      // It is gone, or may do no DMA any more.
    }
    this.#die(error);
  }

  /** The controller is of no use any more, and touches no memory. */
  #die(error: Error): void {
    this.#dead = true;
    this.#failure ??= error;
    const failure = this.#failure;
    for (const queue of this.#queues) {
      queue.state = 'absent';
      queue.failInFlight(() => failure);
      queue.failWaiting(failure);
    }
  }

  // ---- ending

  /**
   * Shuts the controller down (7.6.2), gives its memory back and takes its right to do DMA away. Commands that are in
   * flight or wait fail with `ERR_DMAPOOL_NVME_CLOSED`. Closing twice is fine, and so is closing one that is gone.
   *
   * @throws `DmaReleaseError` when memory failed to go back: all of it was tried.
   */
  close(): Promise<void> {
    return (this.#closing ??= this.#shutDown());
  }

  /** {@link NvmeController.close}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #shutDown(): Promise<void> {
    const error = new NvmeError('ERR_DMAPOOL_NVME_CLOSED', this.#pci.address, 'the driver was closed');
    const wasLive = this.#state === 'live';
    this.#failure ??= error;
    this.#state = 'closing';
    for (const queue of this.#queues.slice(1)) {
      if (queue.state === 'open') queue.state = 'closing';
      queue.failWaiting(error);
    }
    await this.#recovery;
    try {
      if (wasLive) await this.#shutDownOrderly();
    } catch {
      // It is dead, or does not listen. Then the hard way, which is next.
    }
    try {
      await this.#abandon(error);
    } finally {
      this.#endClaim();
    }
  }

  async #shutDownOrderly(): Promise<void> {
    // Not through #submit: that refuses everything by now.
    await deleteQueues((command, data) => this.#enqueue(0, command, data), this.#queues.slice(1));
    const latency = this.#identity.shutdownLatency / 1000;
    await this.#registers.shutdown(Math.min(Math.max(SHUTDOWN_LEAST, latency), SHUTDOWN_MOST));
  }

  /** Stops the controller and lets go of everything. */
  async #abandon(error: Error): Promise<void> {
    await this.#stopFor(error);
    clearTimeout(this.#watchdog);
    // What fails is gone or closed already.
    await runAll([() => this.#pci.disableBusMaster(), () => this.#interrupts?.close()]);
    this.#forget();
    this.#releaseMemory();
  }

  #releaseMemory(): void {
    const failure =
      this.#failure ?? new NvmeError('ERR_DMAPOOL_NVME_CLOSED', this.#pci.address, 'its PCI function was closed');
    this.#die(failure);
    const releases = this.#queues.flatMap((queue) => queue.releases());
    for (const pool of this.pools) {
      releases.push(() => {
        pool.destroy();
      });
    }
    releaseAll(`${this.#pci.address}: memory of the NVMe driver failed to go back`, releases);
  }
}
