/**
 * The queues of a controller at work: what waits is submitted, what is complete is settled, what is late is noticed.
 *
 *     submit --> waiting --(end of this turn's microtasks: one doorbell a queue)--> controller
 *     promise <-- reap <-- serve: one loop a vector, while commands are in flight <-- interrupt, or polling
 *     watchdog: late? --> complete after all --> abort --> reset
 */
import type { Device } from 'dmapool';
import type { Bar, DmaStopped, Interrupts } from 'dmapool/pci';
import type { CommandData } from './data.ts';
import { NvmeError, type NvmeStatusError, NvmeTimeoutError } from './errors.ts';
import { type NvmeCommand, QueuePair, Request } from './queue-pair.ts';
import { ADMIN } from './registers.ts';
import { STATUS } from './status.ts';

/** The watchdog looks so often in the time that a command may take; milliseconds at least. */
const LOOKS = 4;
const LEAST_LOOK = 5;

/** What a dispatcher needs of its controller. */
export interface DispatcherOwner {
  readonly device: Device;
  readonly interrupts: Interrupts;
  readonly registers: Bar;
  /** Bytes from one doorbell to the next. */
  readonly doorbellStride: number;
  /** Milliseconds that a command may take unless it says otherwise. */
  readonly timeout: number;
  /** How many Abort commands the controller takes now; 0 while it is no use to send any. */
  abortLimit(): number;
  /** Whether the controller reports a fatal error. */
  isFatal(): Promise<boolean>;
  /** Why submission queues are deleted; null when that is not the driver's doing. */
  refusal(): Error | null;
  /** A command is late for good, or the controller reports a fatal error. Called again while that lasts. */
  onLate(reason: Error): void;
  /** Accesses to the controller fail: no completion will be seen any more. */
  onLost(error: Error): void;
}

export class Dispatcher {
  readonly #owner: DispatcherOwner;
  /** By their IDs: 0 is the admin queue. */
  readonly #queues: QueuePair[] = [];
  /** By vector: a loop looks after the completions. */
  readonly #serving: boolean[];
  #kicked = false;
  /** Why nothing is submitted any more; null while commands are. */
  #end: Error | null = null;
  #watchdog: ReturnType<typeof setTimeout> | undefined;
  /** Milliseconds until the watchdog looks; no command has a shorter time. */
  #shortest: number;
  #timeouts = 0;
  #aborts = 0;

  constructor(owner: DispatcherOwner) {
    this.#owner = owner;
    this.#shortest = owner.timeout;
    this.#serving = new Array<boolean>(owner.interrupts.vectors).fill(false);
  }

  /** Makes a queue pair. @throws `DmaOutOfMemoryError`, or what the memory source throws. */
  addQueue(depth: number): QueuePair {
    const { device, registers, doorbellStride } = this.#owner;
    const id = this.#queues.length;
    const explain = (request: Request, error: NvmeStatusError): Error => this.#explain(request, error);
    const queue = new QueuePair(
      { device, registers, doorbellStride, explain },
      id,
      depth,
      id % this.#owner.interrupts.vectors,
    );
    this.#queues.push(queue);
    return queue;
  }

  get admin(): QueuePair {
    return this.#queues[0]!;
  }

  get ioQueues(): readonly QueuePair[] {
    return this.#queues.slice(1);
  }

  /** Commands that were given to the controller or wait for it. */
  get load(): number {
    return this.#queues.reduce((sum, queue) => sum + queue.load, 0);
  }

  /** Says whether there are I/O commands to a namespace, or to any for `ALL_NAMESPACES`: in flight, or waiting. */
  hasIoOf(nsid: number): boolean {
    return this.ioQueues.some((queue) => queue.hasCommandOf(nsid));
  }

  /** Commands that took too long. */
  get timeouts(): number {
    return this.#timeouts;
  }

  /** Abort commands that were sent for them. */
  get aborts(): number {
    return this.#aborts;
  }

  /** Commands that failed and whose memory is kept, for it is not proven that the controller does not use it. */
  get kept(): number {
    return this.#queues.reduce((sum, queue) => sum + queue.kept, 0);
  }

  // ---- submitting

  /** Submits an admin command. */
  submitAdmin(command: NvmeCommand, data: CommandData | null, timeout: number = this.#owner.timeout): Promise<number> {
    return this.#submit(this.admin, command, data, timeout);
  }

  /** Submits an I/O command to the queue with the least to do. */
  submitIo(command: NvmeCommand, data: CommandData | null, timeout: number = this.#owner.timeout): Promise<number> {
    const queues = this.#queues;
    let least = queues[1]!;
    for (let id = 2; id < queues.length; id++) if (queues[id]!.load < least.load) least = queues[id]!;
    return this.#submit(least, command, data, timeout);
  }

  #submit(queue: QueuePair, command: NvmeCommand, data: CommandData | null, timeout: number): Promise<number> {
    if (this.#end !== null) return Promise.reject(this.#end);
    if (timeout < this.#shortest) this.#lookWithin(timeout);
    return new Promise((resolve, reject) => {
      queue.add(new Request(command, data, timeout, resolve, reject));
      this.#kick();
    });
  }

  /** Submits what waits once this turn's code has submitted all it wants: one doorbell for all of it. */
  #kick(): void {
    if (this.#kicked) return;
    this.#kicked = true;
    queueMicrotask(() => {
      this.#kicked = false;
      this.#dispatch();
    });
  }

  #dispatch(): void {
    if (this.#end !== null) return;
    try {
      for (const queue of this.#queues) if (queue.hasWaiting) queue.dispatch();
    } catch (error) {
      this.#owner.onLost(error as Error);
      return;
    }
    for (let vector = 0; vector < this.#serving.length; vector++) {
      if (!this.#hasInFlight(vector)) continue;
      this.#watch();
      if (!this.#serving[vector]!) void this.#serve(vector);
    }
  }

  // ---- completions

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
      while (this.#end === null) {
        this.#reapVector(vector);
        // The continuations of these commands come first, and may have submitted the next ones by then.
        if (!this.#hasInFlight(vector)) break;
        await this.#owner.interrupts.wait(wait);
      }
      this.#serving[vector] = false;
    } catch (error) {
      this.#serving[vector] = false;
      if (this.#end === null) this.#owner.onLost(error as Error);
    }
  }

  #reapVector(vector: number): void {
    let reaped = 0;
    for (const queue of this.#queues) if (queue.vector === vector) reaped += queue.reap();
    // Slots and memory are free again.
    if (reaped > 0) this.#kick();
  }

  #reapAll(): void {
    for (let vector = 0; vector < this.#serving.length; vector++) this.#reapVector(vector);
  }

  /** What the driver itself brought about is no status of the controller's. */
  #explain(request: Request, error: NvmeStatusError): Error {
    if (error.statusCodeType !== 0) return error;
    if (request.abortSent && error.statusCode === STATUS.abortRequested) {
      return new NvmeTimeoutError(this.#owner.device.name, `${request.tookTooLong} and was aborted`);
    }
    const refusal = this.#owner.refusal();
    if (error.statusCode === STATUS.submissionQueueDeleted && refusal !== null) return refusal;
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
      Math.max(LEAST_LOOK, this.#shortest / LOOKS),
    );
  }

  /** For a command that may take less time than all others. */
  #lookWithin(timeout: number): void {
    this.#shortest = timeout;
    if (this.#watchdog === undefined) return;
    clearTimeout(this.#watchdog);
    this.#watchdog = undefined;
    this.#watch();
  }

  /** Looks for commands that are late: aborts them (5.1), or has the controller reset when that was done before. */
  async #look(): Promise<void> {
    try {
      if (this.#late().length > 0) {
        const isFatal = await this.#owner.isFatal();
        if (this.#end !== null) return;
        // An interrupt may have been lost: what is complete is not late. Neither is what a reset that began meanwhile ends.
        this.#reapAll();
        const reason = this.#abortLate(isFatal);
        if (reason !== null) this.#owner.onLate(reason);
      }
      this.#shortest = this.#queues.reduce(
        (shortest, queue) => Math.min(shortest, queue.shortestTimeout),
        this.#owner.timeout,
      );
      if (this.#end === null && this.#queues.some((queue) => queue.inFlight > 0)) this.#watch();
    } catch (error) {
      if (this.#end === null) this.#owner.onLost(error as Error);
    }
  }

  #late(): Request[] {
    const now = performance.now();
    return this.#queues.flatMap((queue) => queue.late(now));
  }

  /** Aborts what is late. @returns Why the controller must be reset instead, or null. */
  #abortLate(isFatal: boolean): Error | null {
    const { name } = this.#owner.device;
    for (const request of this.#late()) {
      if (isFatal) return new NvmeError('ERR_DMAPOOL_NVME_PROTOCOL', name, 'fatal controller status (CSTS.CFS)');
      if (!this.#abort(request)) return new NvmeTimeoutError(name, request.tookTooLong);
    }
    return null;
  }

  /** Has the controller abort a command. False when that is no use (any more). */
  #abort(request: Request): boolean {
    const limit = this.#owner.abortLimit();
    if (limit === 0 || request.queue === 0 || request.abortSent) return false;
    // The controller may refuse more than its limit (5.1); the others get their turn at the next look.
    if (this.admin.load >= limit) return true;
    request.abortSent = true;
    request.deadline = performance.now() + this.#owner.timeout;
    this.#timeouts++;
    this.#aborts++;
    const command = { opcode: ADMIN.abort, cdw10: request.queue | (request.cid << 16) };
    // Whether it worked is seen by the command itself, which is then completed, or late for the second time.
    this.submitAdmin(command, null).catch(() => undefined);
    return true;
  }

  // ---- resets, and the end

  /** Submits to all queues from now on. */
  open(): void {
    for (const queue of this.#queues) queue.state = 'open';
    this.#kick();
  }

  /** Fails the I/O commands that wait, and takes no more of them. Those in flight are still waited for. */
  closeIo(reason: Error): void {
    for (const queue of this.ioQueues) {
      if (queue.state === 'open') queue.state = 'closing';
      queue.failWaiting(reason);
    }
  }

  /** Submits nothing from now on, and rings no doorbell; commands wait. For when the controller is about to be stopped. */
  hold(): void {
    for (const queue of this.#queues) queue.state = 'absent';
  }

  /** {@link Dispatcher.hold} for good: what waits fails. */
  end(reason: Error): void {
    this.#end = reason;
    clearTimeout(this.#watchdog);
    this.#watchdog = undefined;
    this.hold();
    for (const queue of this.#queues) queue.failWaiting(reason);
  }

  /** Settles what was completed before the controller was stopped, and fails the rest of what is in flight. */
  failInFlight(proof: DmaStopped, errorOf: (request: Request) => Error): void {
    for (const queue of this.#queues) {
      queue.reap();
      queue.failInFlight(proof, errorOf);
    }
  }

  /** Makes the queues empty for a controller that was stopped; before the first interrupt, which they may share. */
  reset(): void {
    for (const queue of this.#queues) queue.reset();
  }

  /** Fails what is in flight, and keeps its memory: the controller may still use it. @returns How many were. */
  keepInFlight(error: Error): number {
    return this.#queues.reduce((sum, queue) => sum + queue.keepInFlight(error), 0);
  }

  /** What gives the memory of the queues back. */
  releases(proof: DmaStopped): (() => void)[] {
    return this.#queues.flatMap((queue) => queue.releases(proof));
  }
}
