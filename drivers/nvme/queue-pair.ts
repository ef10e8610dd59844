/**
 * A submission queue and its completion queue: NVM Express Base Specification 1.4, 4.1 (queues), 4.2 and 4.6 (entries).
 *
 *     add --> waiting --dispatch--> submission queue --doorbell--> controller
 *             (no room, no memory)                                     |
 *     promise <------------- reap <-- completion queue <---------------+   the phase bit marks new entries
 *
 * A command's memory is released after its completion, or with the proof that the function does no DMA. A command that
 * fails without either keeps its slot and its memory.
 */
import {
  type CoherentMemory,
  type Device,
  DmaArgumentError,
  DmaOutOfMemoryError,
  loadAcquire32,
  lower32Bits,
  storeRelease32,
  upper32Bits,
} from 'dmapool';
import { checkInteger, describeThrown, type OptionNames, readOptions } from 'dmapool/arguments';
import type { Bar, DmaStopped } from 'dmapool/pci';
import { releaseAll } from '../common/release.ts';
import type { CommandData } from './data.ts';
import { NvmeStatusError } from './errors.ts';
import { covers } from './formats.ts';
import { COMPLETION_ENTRY, opcodeName, REGISTER, SUBMISSION_ENTRY } from './registers.ts';

/**
 * A command in the layout of the specification (4.2), without the fields that the driver fills in. Dwords default to 0.
 */
export interface NvmeCommand {
  /** Opcode, 0 to 255. */
  readonly opcode: number;
  /** Namespace ID; 0 for commands without a namespace. */
  readonly nsid?: number;
  /** Command dword 10. */
  readonly cdw10?: number;
  /** Command dword 11. */
  readonly cdw11?: number;
  /** Command dword 12. */
  readonly cdw12?: number;
  /** Command dword 13. */
  readonly cdw13?: number;
  /** Command dword 14. */
  readonly cdw14?: number;
  /** Command dword 15. */
  readonly cdw15?: number;
}

const COMMAND: OptionNames<NvmeCommand> = {
  opcode: true,
  nsid: true,
  cdw10: true,
  cdw11: true,
  cdw12: true,
  cdw13: true,
  cdw14: true,
  cdw15: true,
};
const DWORDS = ['cdw10', 'cdw11', 'cdw12', 'cdw13', 'cdw14', 'cdw15'] as const;

/** Checks and copies a command of the caller. @throws `DmaArgumentError` */
export function checkCommand(given: NvmeCommand): NvmeCommand {
  const command = readOptions('command', given, COMMAND);
  checkInteger('command.opcode', command.opcode, 0, 0xff);
  checkInteger('command.nsid', command.nsid ?? 0, 0, 0xffff_ffff);
  for (const dword of DWORDS) checkInteger(`command.${dword}`, command[dword] ?? 0, -(2 ** 31), 2 ** 32 - 1);
  return command;
}

/** A command that waits or is in flight, with the promise of its caller. */
export class Request {
  readonly command: NvmeCommand;
  readonly data: CommandData | null;
  /** Time limit in milliseconds, from submission on. */
  readonly timeout: number;
  readonly #resolve: (result: number) => void;
  readonly #reject: (error: unknown) => void;
  #isSettled = false;
  /** Next request in the list of waiting requests. */
  next: Request | null = null;
  /** Command Identifier (4.2); -1 before submission. */
  cid: number;
  /** Time when the command times out, in the time of `performance.now()`; `Infinity` before submission. */
  deadline: number;
  /** An Abort command was sent for it. */
  abortSent = false;
  /** ID of its queue; 0 is the admin queue. */
  queue = 0;

  constructor(
    command: NvmeCommand,
    data: CommandData | null,
    timeout: number,
    resolve: (result: number) => void,
    reject: (error: unknown) => void,
  ) {
    this.command = command;
    this.data = data;
    this.timeout = timeout;
    this.#resolve = resolve;
    this.#reject = reject;
    this.cid = -1;
    this.deadline = Infinity;
  }

  /** The caller has the result. */
  get isSettled(): boolean {
    return this.#isSettled;
  }

  /** Reports success to the caller, once: a command whose memory was kept may complete after it failed. */
  resolve(result: number): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    this.#resolve(result);
  }

  /** Reports an error to the caller, unless the command is settled. */
  reject(error: unknown): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    this.#reject(error);
  }

  /** Name of the command for messages. */
  get name(): string {
    const { opcode, nsid = 0 } = this.command;
    const of = nsid === 0 || nsid === 0xffff_ffff ? '' : ` of namespace ${String(nsid)}`;
    return `${opcodeName(opcode, this.queue === 0)}${of}`;
  }

  get tookTooLong(): string {
    return `${this.name} took longer than ${String(this.timeout)} ms`;
  }
}

/** The controller, as seen by a queue. */
export interface QueueOwner {
  readonly device: Device;
  readonly registers: Bar;
  /** Bytes between doorbells. */
  readonly doorbellStride: number;
  /** @returns The error for a failed command: `error`, or another one if the driver aborted the command. */
  explain(request: Request, error: NvmeStatusError): Error;
}

/**
 * A command identifier holds the slot in its low bits and, above them, the number of times that the slot was used. The
 * number stays below its maximum, so that no identifier is FFFFh: that value stands for no command (Error Information
 * log).
 */
const SLOT_BITS = 10;
const GENERATIONS = (0x10000 >> SLOT_BITS) - 1;
/** Maximum number of commands in flight on a queue. */
export const MAX_DEPTH: number = 2 ** SLOT_BITS;

/**
 * - `absent`: the controller does not have the queue, or is about to lose it. Commands wait.
 * - `open`: commands are dispatched.
 * - `closing`: the controller still has the queue. No more commands are dispatched.
 */
export type QueueState = 'absent' | 'open' | 'closing';

export class QueuePair {
  /** Queue Identifier; 0 is the admin queue. */
  readonly id: number;
  /** Interrupt vector. */
  readonly vector: number;
  /** Maximum number of commands in flight. */
  readonly depth: number;
  /** Entries of each queue: depth + 1, since a queue with all entries in use would look empty (4.1.2). */
  readonly entries: number;
  state: QueueState = 'absent';

  readonly #owner: QueueOwner;
  readonly #tailDoorbell: number;
  readonly #headDoorbell: number;
  readonly #memory: CoherentMemory[] = [];
  #submissions!: Uint32Array;
  #completions!: Uint32Array;
  #tail = 0;
  #head = 0;
  #phase = 1;
  /** By slot: the command in flight, or null. */
  readonly #slots: (Request | null)[];
  /** Stack of free slots. */
  readonly #free: Int16Array;
  #freeCount: number;
  readonly #generations: Uint8Array;
  #firstWaiting: Request | null = null;
  #lastWaiting: Request | null = null;
  #waiting = 0;
  #submitted = 0;
  #kept = 0;

  /** @throws `DmaOutOfMemoryError`, errors of the coherent allocator. All memory is released then. */
  constructor(owner: QueueOwner, id: number, depth: number, vector: number) {
    this.#owner = owner;
    this.id = id;
    this.depth = depth;
    this.entries = depth + 1;
    this.vector = vector;
    // SQyTDBL, CQyHDBL (3.1)
    this.#tailDoorbell = REGISTER.doorbells + 2 * id * owner.doorbellStride;
    this.#headDoorbell = this.#tailDoorbell + owner.doorbellStride;
    this.#slots = new Array<Request | null>(depth).fill(null);
    this.#free = Int16Array.from({ length: depth }, (_, i) => depth - 1 - i);
    this.#freeCount = depth;
    this.#generations = new Uint8Array(depth);
    try {
      this.#submissions = this.#takeMemory(this.entries * SUBMISSION_ENTRY);
      this.#completions = this.#takeMemory(this.entries * COMPLETION_ENTRY);
    } catch (error) {
      // The controller never had these addresses: no proof is needed. Report the original error.
      try {
        releaseAll('', this.#memoryReleases());
      } catch {
        // Report the original error.
      }
      throw error;
    }
    this.reset();
  }

  /** Allocates one queue. Each is contiguous, since the controller may require it (CAP.CQR). */
  #takeMemory(size: number): Uint32Array {
    const { device } = this.#owner;
    const memory = device.allocCoherent(size);
    if (memory === null) {
      const message = `${device.name}: no ${String(size)} bytes of coherent memory for queue ${String(this.id)}`;
      throw new DmaOutOfMemoryError('ERR_DMAPOOL_NO_MEMORY', message);
    }
    this.#memory.push(memory);
    return new Uint32Array(memory.buffer, memory.byteOffset, size / 4);
  }

  /** DMA address of the submission queue. */
  get submissionAddress(): number {
    return this.#memory[0]!.dma;
  }

  /** DMA address of the completion queue. */
  get completionAddress(): number {
    return this.#memory[1]!.dma;
  }

  /** Number of commands in flight, kept ones included. */
  get inFlight(): number {
    return this.depth - this.#freeCount;
  }

  /** Number of commands in flight or waiting. */
  get load(): number {
    return this.inFlight + this.#waiting;
  }

  /** Number of commands submitted so far. */
  get submitted(): number {
    return this.#submitted;
  }

  /** Number of failed commands whose memory is kept. */
  get kept(): number {
    return this.#kept;
  }

  /** Shortest time limit of the commands in the queue in milliseconds; `Infinity` if there are none. */
  get shortestTimeout(): number {
    let shortest = Infinity;
    for (const request of this.#slots) if (request !== null) shortest = Math.min(shortest, request.timeout);
    for (let request = this.#firstWaiting; request !== null; request = request.next) {
      shortest = Math.min(shortest, request.timeout);
    }
    return shortest;
  }

  /** @returns True if a command to a namespace is in flight or waiting; for `ALL_NAMESPACES`, any command. */
  hasCommandOf(nsid: number): boolean {
    for (const request of this.#slots) if (request !== null && covers(nsid, request.command.nsid ?? 0)) return true;
    for (let request = this.#firstWaiting; request !== null; request = request.next) {
      if (covers(nsid, request.command.nsid ?? 0)) return true;
    }
    return false;
  }

  get hasWaiting(): boolean {
    return this.#firstWaiting !== null;
  }

  /** Appends a command to the waiting ones. */
  add(request: Request): void {
    request.queue = this.id;
    if (this.#lastWaiting === null) this.#firstWaiting = request;
    else this.#lastWaiting.next = request;
    this.#lastWaiting = request;
    this.#waiting++;
  }

  /**
   * Submits waiting commands while there are free slots and memory, then rings the doorbell once (7.2.1).
   * @throws Errors of the doorbell write: the function is gone, closed or must be released.
   */
  dispatch(): void {
    const before = this.#tail;
    const now = performance.now();
    while (this.state === 'open' && this.#firstWaiting !== null && this.#freeCount > 0) {
      const request = this.#firstWaiting;
      try {
        if (request.data?.map() === false) break;
      } catch (error) {
        // No memory, or the buffer was detached or resized. Only this command fails: the next one may need less.
        this.#removeFirst();
        request.reject(error);
        continue;
      }
      this.#removeFirst();
      request.deadline = now + request.timeout;
      this.#submit(request);
    }
    if (this.#tail !== before) this.#owner.registers.write32(this.#tailDoorbell, this.#tail);
  }

  #removeFirst(): Request {
    const request = this.#firstWaiting!;
    this.#firstWaiting = request.next;
    if (request.next === null) this.#lastWaiting = null;
    request.next = null;
    this.#waiting--;
    return request;
  }

  #submit(request: Request): void {
    const { command, data } = request;
    const slot = this.#free[--this.#freeCount]!;
    request.cid = (this.#generations[slot]! << SLOT_BITS) | slot;
    this.#slots[slot] = request;
    const words = this.#submissions;
    const at = (this.#tail * SUBMISSION_ENTRY) / 4;
    words[at + 1] = command.nsid ?? 0;
    // Dwords 2 to 5: reserved, and no metadata.
    words[at + 2] = 0;
    words[at + 3] = 0;
    words[at + 4] = 0;
    words[at + 5] = 0;
    const prp1 = data === null ? 0 : data.prps.prp1;
    const prp2 = data === null ? 0 : data.prps.prp2;
    words[at + 6] = lower32Bits(prp1);
    words[at + 7] = upper32Bits(prp1);
    words[at + 8] = lower32Bits(prp2);
    words[at + 9] = upper32Bits(prp2);
    words[at + 10] = command.cdw10 ?? 0;
    words[at + 11] = command.cdw11 ?? 0;
    words[at + 12] = command.cdw12 ?? 0;
    words[at + 13] = command.cdw13 ?? 0;
    words[at + 14] = command.cdw14 ?? 0;
    words[at + 15] = command.cdw15 ?? 0;
    // Written last, after the data and PRP lists: the entry is complete in memory before the doorbell is rung.
    storeRelease32(words, at, command.opcode | (request.cid << 16));
    this.#tail = this.#tail + 1 === this.entries ? 0 : this.#tail + 1;
    this.#submitted++;
  }

  /** A completion has arrived that was not reaped yet. Reads memory only. */
  get hasCompletion(): boolean {
    const last = loadAcquire32(this.#completions, (this.#head * COMPLETION_ENTRY) / 4 + 3);
    return ((last >>> 16) & 1) === this.#phase;
  }

  /**
   * Settles the completed commands. An entry is new if its Phase Tag equals the phase of the current round (4.6). Reaps
   * at most one round, which bounds the work if the controller misbehaves. The doorbell of an absent queue is not
   * written.
   *
   * @returns The number of completions. @throws as {@link QueuePair.dispatch}.
   */
  reap(): number {
    const words = this.#completions;
    let reaped = 0;
    while (reaped < this.entries) {
      const at = (this.#head * COMPLETION_ENTRY) / 4;
      const last = loadAcquire32(words, at + 3);
      if (((last >>> 16) & 1) !== this.#phase) break;
      reaped++;
      if (++this.#head === this.entries) {
        this.#head = 0;
        this.#phase ^= 1;
      }
      this.#complete(last & 0xffff, last >>> 17, words[at]!);
    }
    if (reaped > 0 && this.state !== 'absent') this.#owner.registers.write32(this.#headDoorbell, this.#head);
    return reaped;
  }

  /** @param status Status Field (4.6.1): dword 3 from bit 17 on. */
  #complete(cid: number, status: number, result: number): void {
    const request = this.#slots[cid & (MAX_DEPTH - 1)];
    if (request?.cid !== cid) {
      // Completed twice, or never submitted: no memory is released for it.
      const what = `queue ${String(this.id)}: completion of command 0x${cid.toString(16)}, which is not in flight`;
      this.#owner.device.report('error', 'nvme spurious completion', what);
      return;
    }
    const succeeded = (status & 0x7ff) === 0;
    // After the promise has rejected, the buffer belongs to the caller again: copy nothing to it.
    const undelivered = this.#release(request, succeeded && !request.isSettled);
    if (succeeded) {
      if (undelivered === null) request.resolve(result);
      else request.reject(undelivered);
      return;
    }
    const { name } = this.#owner.device;
    const error = new NvmeStatusError(name, request.name, {
      statusCodeType: (status >>> 8) & 0x7,
      statusCode: status & 0xff,
      doNotRetry: (status & 0x4000) !== 0,
    });
    request.reject(this.#owner.explain(request, error));
  }

  /** Frees a command's slot and memory. @returns as {@link CommandData.unmap}. */
  #release(request: Request, transferred: boolean): Error | null {
    const slot = request.cid & (MAX_DEPTH - 1);
    this.#slots[slot] = null;
    this.#generations[slot] = (this.#generations[slot]! + 1) % GENERATIONS;
    this.#free[this.#freeCount++] = slot;
    try {
      return request.data?.unmap(transferred) ?? null;
    } catch (error) {
      // The pool rejected the block: other code has freed it. The command itself is complete.
      this.#owner.device.report('error', 'nvme memory', `queue ${String(this.id)}: ${describeThrown(error)}`);
      return null;
    }
  }

  /**
   * Commands in flight that have timed out. None unless the queue is open: in other states a reset or a stop, which has
   * its own time limits, settles the commands.
   */
  late(now: number): Request[] {
    if (this.state !== 'open') return [];
    return this.#slots.filter((request) => request !== null && request.deadline <= now) as Request[];
  }

  /** Fails all commands in flight and releases their memory. */
  failInFlight(proof: DmaStopped, errorOf: (request: Request) => Error): void {
    if (!proof.holds) throw new DmaArgumentError('proof', proof.reason, 'a proof that still holds');
    this.#kept = 0;
    for (const request of this.#slots) {
      if (request === null) continue;
      this.#release(request, false);
      request.reject(errorOf(request));
    }
  }

  /**
   * Fails all commands in flight. Their slots and memory are kept until {@link QueuePair.failInFlight}.
   * @returns Their number.
   */
  keepInFlight(error: Error): number {
    for (const request of this.#slots) request?.reject(error);
    this.#kept = this.inFlight;
    return this.#kept;
  }

  /** Fails all waiting commands. */
  failWaiting(error: Error): void {
    while (this.#firstWaiting !== null) this.#removeFirst().reject(error);
  }

  /** Restores the initial state after a reset of the controller. Nothing may be in flight. */
  reset(): void {
    this.#tail = 0;
    this.#head = 0;
    this.#phase = 1;
    this.#completions.fill(0);
  }

  /** @returns Functions that release the memory of both queues, once. */
  releases(proof: DmaStopped): (() => void)[] {
    if (!proof.holds) throw new DmaArgumentError('proof', proof.reason, 'a proof that still holds');
    return this.#memoryReleases();
  }

  #memoryReleases(): (() => void)[] {
    return this.#memory.splice(0).map((memory) => () => {
      this.#owner.device.freeCoherent(memory);
    });
  }
}
