/**
 * Runs the queues of a controller: submits waiting commands, settles completed ones, and handles time-outs.
 *
 *     submit --> waiting --(end of this turn's microtasks: one doorbell per queue)--> controller
 *     promise <-- reap <-- serve: one loop per vector, while commands are in flight <-- interrupt, or polling
 *                      <-- dispatch: after each submission
 *     watchdog: timed out? --> reap once more --> abort --> reset
 */
import type { Device } from 'dmapool';
import type { Bar, DmaStopped, Interrupts } from 'dmapool/pci';
import type { CommandData } from './data.ts';
import { isDmaActive, NvmeError, type NvmeStatusError, NvmeTimeoutError } from './errors.ts';
import { type NvmeCommand, QueuePair, Request } from './queue-pair.ts';
import { ADMIN } from './registers.ts';
import { STATUS } from './status.ts';

/** Number of watchdog checks per command time-out, and the minimum milliseconds between them. */
const CHECKS_PER_TIMEOUT = 4;
const MIN_CHECK_INTERVAL = 5;
/**
 * Maximum number of dispatches that also reap completions, between two waits for an interrupt. Bounds the time without a
 * turn of the event loop if commands complete as fast as they are submitted: few waits in a row end without one.
 */
const MAX_LOOKS = 32;
const RESOLVED = Promise.resolve();

/** An I/O command with its data. */
export interface Transfer {
  readonly command: NvmeCommand;
  readonly data: CommandData | null;
}

/** The controller, as seen by its dispatcher. */
export interface DispatcherOwner {
  readonly device: Device;
  readonly interrupts: Interrupts;
  readonly registers: Bar;
  /** Bytes between doorbells. */
  readonly doorbellStride: number;
  /** Default time limit of a command in milliseconds. */
  readonly timeout: number;
  /** Maximum number of concurrent Abort commands; 0 while commands can't be aborted. */
  abortLimit(): number;
  /** @returns True if the controller reports a fatal error. */
  isFatal(): Promise<boolean>;
  /** @returns The error for commands of deleted submission queues; null if the driver did not delete them. */
  refusal(): Error | null;
  /**
   * The controller must be reset: a command can't be aborted, or a fatal error is reported. Called at each check while
   * that lasts.
   */
  onLate(reason: Error): void;
  /** Access to the controller failed: no further completion will be seen. */
  onLost(error: Error): void;
}

export class Dispatcher {
  readonly #owner: DispatcherOwner;
  /** By queue ID: 0 is the admin queue. */
  readonly #queues: QueuePair[] = [];
  /** By vector: its serving loop is running. */
  readonly #serving: boolean[];
  #kicked = false;
  /** Number of dispatches that may still reap before the next wait for an interrupt. */
  #looks = MAX_LOOKS;
  /** Error that ended submission; null before. */
  #end: Error | null = null;
  #watchdog: ReturnType<typeof setTimeout> | undefined;
  /** Shortest time limit of all commands in milliseconds: sets the watchdog's interval. */
  #shortest: number;
  #timeouts = 0;
  #aborts = 0;

  constructor(owner: DispatcherOwner) {
    this.#owner = owner;
    this.#shortest = owner.timeout;
    this.#serving = new Array<boolean>(owner.interrupts.vectors).fill(false);
  }

  /** Adds a queue pair. @throws `DmaOutOfMemoryError`, errors of the coherent allocator. */
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

  /** Number of commands in flight or waiting. */
  get load(): number {
    return this.#queues.reduce((sum, queue) => sum + queue.load, 0);
  }

  /** @returns True if I/O commands to a namespace, or to any for `ALL_NAMESPACES`, are in flight or waiting. */
  hasIoOf(nsid: number): boolean {
    return this.ioQueues.some((queue) => queue.hasCommandOf(nsid));
  }

  /** Number of commands that timed out. */
  get timeouts(): number {
    return this.#timeouts;
  }

  /** Number of Abort commands sent. */
  get aborts(): number {
    return this.#aborts;
  }

  /** Number of failed commands whose memory is kept, since the controller may still use it. */
  get kept(): number {
    return this.#queues.reduce((sum, queue) => sum + queue.kept, 0);
  }

  // ---- submission

  /** Submits an admin command. @returns Dword 0 of its completion. */
  submitAdmin(command: NvmeCommand, data: CommandData | null, timeout: number = this.#owner.timeout): Promise<number> {
    return this.#submit(this.admin, command, data, timeout);
  }

  /** Submits an I/O command to the queue with the lowest load. @returns Dword 0 of its completion. */
  submitIo(command: NvmeCommand, data: CommandData | null, timeout: number = this.#owner.timeout): Promise<number> {
    return this.#submit(this.#leastLoaded(), command, data, timeout);
  }

  /** As {@link Dispatcher.submitIo}, without a result. */
  transfer(command: NvmeCommand, data: CommandData | null, timeout: number = this.#owner.timeout): Promise<void> {
    return new Promise((resolve, reject) => {
      const done = (): void => {
        resolve();
      };
      this.#add(this.#leastLoaded(), new Request(command, data, timeout, done, reject));
    });
  }

  /**
   * Submits several I/O commands with one promise. It settles after all of them have completed, so that no command uses
   * the caller's memory any more, and rejects with the first error. An error that says that the controller was not
   * stopped takes precedence, since the controller may still use the memory.
   */
  transferAll(transfers: readonly Transfer[], timeout: number = this.#owner.timeout): Promise<void> {
    return new Promise((resolve, reject) => {
      let left = transfers.length;
      let failure: { readonly error: unknown } | null = null;
      const done = (): void => {
        if (--left > 0) return;
        if (failure === null) resolve();
        else reject(failure.error);
      };
      const fail = (error: unknown): void => {
        if (failure === null || isDmaActive(error)) failure = { error };
        done();
      };
      for (const { command, data } of transfers) {
        this.#add(this.#leastLoaded(), new Request(command, data, timeout, done, fail));
      }
    });
  }

  #leastLoaded(): QueuePair {
    const queues = this.#queues;
    let least = queues[1]!;
    for (let id = 2; id < queues.length; id++) if (queues[id]!.load < least.load) least = queues[id]!;
    return least;
  }

  #submit(queue: QueuePair, command: NvmeCommand, data: CommandData | null, timeout: number): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#add(queue, new Request(command, data, timeout, resolve, reject));
    });
  }

  #add(queue: QueuePair, request: Request): void {
    if (this.#end !== null) {
      request.reject(this.#end);
      return;
    }
    if (request.timeout < this.#shortest) this.#shortenInterval(request.timeout);
    queue.add(request);
    this.#kick();
  }

  /** Dispatches at the end of this turn's microtasks, so that all commands of the turn share one doorbell write. */
  #kick(): void {
    if (this.#kicked) return;
    this.#kicked = true;
    // Cheaper than queueMicrotask, which records an asynchronous context in Node.
    void RESOLVED.then(this.#onKick);
  }

  readonly #onKick = (): void => {
    this.#kicked = false;
    this.#dispatch();
  };

  #dispatch(): void {
    if (this.#end !== null) return;
    this.#looks--;
    try {
      for (const queue of this.#queues) if (queue.hasWaiting) queue.dispatch();
      for (let vector = 0; vector < this.#serving.length; vector++) {
        if (!this.#hasInFlight(vector)) continue;
        this.#watch();
        // Commands that completed meanwhile need no interrupt.
        if (this.#looks > 0) this.#reapVector(vector);
        if (!this.#serving[vector]! && this.#hasInFlight(vector)) void this.#serve(vector);
      }
    } catch (error) {
      this.#owner.onLost(error as Error);
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

  /** Reaps completions of a vector after each of its interrupts while commands are in flight. */
  async #serve(vector: number): Promise<void> {
    this.#serving[vector] = true;
    const wait = { vector, ready: () => this.#hasCompletion(vector) };
    try {
      while (this.#end === null && this.#hasInFlight(vector)) {
        await this.#owner.interrupts.wait(wait);
        this.#looks = MAX_LOOKS;
        this.#reapVector(vector);
      }
      this.#serving[vector] = false;
    } catch (error) {
      this.#serving[vector] = false;
      if (this.#end === null) this.#owner.onLost(error as Error);
    }
  }

  #reapVector(vector: number): void {
    let reaped = 0;
    let hasWaiting = false;
    for (const queue of this.#queues) {
      if (queue.vector === vector) reaped += queue.reap();
      hasWaiting ||= queue.hasWaiting;
    }
    // Slots and memory became free.
    if (reaped > 0 && hasWaiting) this.#kick();
  }

  #reapAll(): void {
    for (let vector = 0; vector < this.#serving.length; vector++) this.#reapVector(vector);
  }

  /** Replaces the status of commands that the driver itself aborted, or whose queue it deleted. */
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
        void this.#checkTimeouts();
      },
      Math.max(MIN_CHECK_INTERVAL, this.#shortest / CHECKS_PER_TIMEOUT),
    );
  }

  /** Shortens the watchdog's interval for a command with a shorter time limit than all others. */
  #shortenInterval(timeout: number): void {
    this.#shortest = timeout;
    if (this.#watchdog === undefined) return;
    clearTimeout(this.#watchdog);
    this.#watchdog = undefined;
    this.#watch();
  }

  /**
   * Handles commands that timed out: aborts them (5.1), or requests a reset if that was tried before or is impossible.
   */
  async #checkTimeouts(): Promise<void> {
    try {
      if (this.#late().length > 0) {
        const isFatal = await this.#owner.isFatal();
        if (this.#end !== null) return;
        // Reap first: if an interrupt was lost, the command may be complete. A reset may also have started meanwhile.
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

  /** Aborts commands that timed out. @returns The reason to reset the controller instead, or null. */
  #abortLate(isFatal: boolean): Error | null {
    const { name } = this.#owner.device;
    for (const request of this.#late()) {
      if (isFatal) return new NvmeError('ERR_DMAPOOL_NVME_PROTOCOL', name, 'fatal controller status (CSTS.CFS)');
      if (!this.#abort(request)) return new NvmeTimeoutError(name, request.tookTooLong);
    }
    return null;
  }

  /** Sends an Abort for a command. @returns False if that is impossible or was done before. */
  #abort(request: Request): boolean {
    const limit = this.#owner.abortLimit();
    if (limit === 0 || request.queue === 0 || request.abortSent) return false;
    // The controller may reject Aborts beyond its limit (5.1). The next check sends the others.
    if (this.admin.load >= limit) return true;
    request.abortSent = true;
    request.deadline = performance.now() + this.#owner.timeout;
    this.#timeouts++;
    this.#aborts++;
    const command = { opcode: ADMIN.abort, cdw10: request.queue | (request.cid << 16) };
    // The result of Abort is ignored: the command itself completes, or times out a second time.
    this.submitAdmin(command, null).catch(() => undefined);
    return true;
  }

  // ---- reset and end

  /** Starts submission on all queues. */
  open(): void {
    for (const queue of this.#queues) queue.state = 'open';
    this.#kick();
  }

  /** Fails the waiting I/O commands and dispatches no more. Commands in flight can still complete. */
  closeIo(reason: Error): void {
    for (const queue of this.ioQueues) {
      if (queue.state === 'open') queue.state = 'closing';
      queue.failWaiting(reason);
    }
  }

  /** Stops submission and doorbell writes before the controller is stopped. Commands wait. */
  hold(): void {
    for (const queue of this.#queues) queue.state = 'absent';
  }

  /** {@link Dispatcher.hold} for good: waiting commands fail. */
  end(reason: Error): void {
    this.#end = reason;
    clearTimeout(this.#watchdog);
    this.#watchdog = undefined;
    this.hold();
    for (const queue of this.#queues) queue.failWaiting(reason);
  }

  /** Settles commands that completed before the controller was stopped, then fails the others in flight. */
  failInFlight(proof: DmaStopped, errorOf: (request: Request) => Error): void {
    for (const queue of this.#queues) {
      queue.reap();
      queue.failInFlight(proof, errorOf);
    }
  }

  /**
   * Resets all queues after the controller was stopped. Called before the first interrupt: an interrupt reaps all
   * queues of its vector, so none of them may have old entries.
   */
  reset(): void {
    for (const queue of this.#queues) queue.reset();
  }

  /** Fails all commands in flight and keeps their memory: the controller may still use it. @returns Their number. */
  keepInFlight(error: Error): number {
    return this.#queues.reduce((sum, queue) => sum + queue.keepInFlight(error), 0);
  }

  /** @returns Functions that release the memory of all queues. */
  releases(proof: DmaStopped): (() => void)[] {
    return this.#queues.flatMap((queue) => queue.releases(proof));
  }
}
