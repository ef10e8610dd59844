/**
 * A submission queue and its completion queue: NVM Express Base Specification 1.4, 4.1 (queues), 4.2 and 4.6 (entries).
 *
 *     add --> waiting --dispatch--> submission queue --doorbell--> controller
 *             (no room, no memory)                                     |
 *     promise <------------- reap <-- completion queue <---------------+   new entries are told by their phase bit
 *
 * A command's memory is released when its completion is here, or with the proof that the function does no DMA: never before.
 * What fails without keeps its slot and its memory.
 */
import {
  type CoherentMemory,
  type Device,
  DmaArgumentError,
  DmaOutOfMemoryError,
  loadAcquire32,
  storeRelease32,
} from 'dmapool';
import { checkInteger, describeThrown, type OptionNames, readOptions } from 'dmapool/arguments';
import type { Bar, DmaStopped } from 'dmapool/pci';
import { releaseAll } from '../common/release.ts';
import type { CommandData } from './data.ts';
import { NvmeStatusError } from './errors.ts';
import { covers } from './formats.ts';
import { COMPLETION_ENTRY, opcodeName, REGISTER, SUBMISSION_ENTRY } from './registers.ts';

/** A command as the specification lays it out (4.2), without what the driver fills in itself. Dwords default to 0. */
export interface NvmeCommand {
  /** 0 to 255. */
  readonly opcode: number;
  /** Namespace; 0 where a command has none. */
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

/** Reads a command of the user's. @throws `DmaArgumentError` unless it is one. */
export function checkCommand(given: NvmeCommand): NvmeCommand {
  const command = readOptions('command', given, COMMAND);
  checkInteger('command.opcode', command.opcode, 0, 0xff);
  checkInteger('command.nsid', command.nsid ?? 0, 0, 0xffff_ffff);
  for (const dword of DWORDS) checkInteger(`command.${dword}`, command[dword] ?? 0, -(2 ** 31), 2 ** 32 - 1);
  return command;
}

/** A command on its way, and the promise of its caller. */
export class Request {
  readonly command: NvmeCommand;
  readonly data: CommandData | null;
  /** Milliseconds that it may take once it is submitted. */
  readonly timeout: number;
  readonly resolve: (result: number) => void;
  readonly reject: (error: unknown) => void;
  /** The next one that waits. */
  next: Request | null = null;
  /** Its Command Identifier (4.2), once it is submitted. */
  cid: number;
  /** When it is late, by `performance.now()`. */
  deadline: number;
  /** An Abort was sent for it. */
  abortSent = false;
  /** ID of the queue that it was put on; 0 is the admin queue. */
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
    this.resolve = resolve;
    this.reject = reject;
    this.cid = -1;
    this.deadline = Infinity;
  }

  /** The command in words. */
  get name(): string {
    const { opcode, nsid = 0 } = this.command;
    const of = nsid === 0 || nsid === 0xffff_ffff ? '' : ` of namespace ${String(nsid)}`;
    return `${opcodeName(opcode, this.queue === 0)}${of}`;
  }

  get tookTooLong(): string {
    return `${this.name} took longer than ${String(this.timeout)} ms`;
  }
}

/** What a queue needs of its controller. */
export interface QueueOwner {
  readonly device: Device;
  readonly registers: Bar;
  /** Bytes from one doorbell to the next. */
  readonly doorbellStride: number;
  /** In place of the status, what a command fails with; for those that the driver itself had aborted. */
  explain(request: Request, error: NvmeStatusError): Error;
}

/**
 * Bits of a command identifier that are its slot; the others count how often the slot was used. One count less than they
 * have room for, so that no identifier is FFFFh, which stands for no command at all (Error Information log page).
 */
const SLOT_BITS = 10;
const GENERATIONS = (0x10000 >> SLOT_BITS) - 1;
/** Most commands that a queue has at a time. */
export const MAX_DEPTH: number = 2 ** SLOT_BITS;

/**
 * - `absent`: the controller does not have the queue, or not much longer; commands wait.
 * - `open`: commands are dispatched.
 * - `closing`: the controller still has the queue; no more commands are dispatched.
 */
export type QueueState = 'absent' | 'open' | 'closing';

export class QueuePair {
  /** Queue Identifier; 0 is the admin queue. */
  readonly id: number;
  /** Interrupt vector. */
  readonly vector: number;
  /** Most commands in flight. */
  readonly depth: number;
  /** Entries of both queues: one more than the depth, for a queue with all of them in use would look empty (4.1.2). */
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
  /** By slot: the command that is in flight there. */
  readonly #slots: (Request | null)[];
  /** Stack of the slots that are free. */
  readonly #free: Int16Array;
  #freeCount: number;
  readonly #generations: Uint8Array;
  #firstWaiting: Request | null = null;
  #lastWaiting: Request | null = null;
  #waiting = 0;
  #submitted = 0;
  #kept = 0;

  /** @throws `DmaOutOfMemoryError`, or what the memory source throws; nothing is kept then. */
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
      // The controller was never told of it. Report the original error.
      try {
        releaseAll('', this.#memoryReleases());
      } catch {
        // The same.
      }
      throw error;
    }
    this.reset();
  }

  /** One area each, for the controller may want it so (CAP.CQR). */
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

  /** Address of the submission queue. */
  get submissionAddress(): number {
    return this.#memory[0]!.dma;
  }

  /** Address of the completion queue. */
  get completionAddress(): number {
    return this.#memory[1]!.dma;
  }

  /** Commands that the controller has. */
  get inFlight(): number {
    return this.depth - this.#freeCount;
  }

  /** Commands in flight and those that wait. */
  get load(): number {
    return this.inFlight + this.#waiting;
  }

  /** Commands submitted since it was made. */
  get submitted(): number {
    return this.#submitted;
  }

  /** Commands in flight that failed and whose memory is kept. */
  get kept(): number {
    return this.#kept;
  }

  /** Least milliseconds that a command of this queue may take; `Infinity` when there is none. */
  get shortestTimeout(): number {
    let shortest = Infinity;
    for (const request of this.#slots) if (request !== null) shortest = Math.min(shortest, request.timeout);
    for (let request = this.#firstWaiting; request !== null; request = request.next) {
      shortest = Math.min(shortest, request.timeout);
    }
    return shortest;
  }

  /** Says whether a command to a namespace is in flight or waits; for `ALL_NAMESPACES`, any command. */
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

  /** Puts a command at the end of those that wait. */
  add(request: Request): void {
    request.queue = this.id;
    if (this.#lastWaiting === null) this.#firstWaiting = request;
    else this.#lastWaiting.next = request;
    this.#lastWaiting = request;
    this.#waiting++;
  }

  /**
   * Submits what waits, as far as there is room and memory, and rings the doorbell once (7.2.1).
   * @throws what a write of the doorbell throws: the driver's use of the function is over.
   */
  dispatch(): void {
    const before = this.#tail;
    while (this.state === 'open' && this.#firstWaiting !== null && this.#freeCount > 0) {
      const request = this.#firstWaiting;
      try {
        if (request.data?.map() === false) break;
      } catch (error) {
        // No memory, or the buffer was taken away: this one fails, and the next one may be smaller.
        this.#removeFirst();
        request.reject(error);
        continue;
      }
      this.#removeFirst();
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
    request.deadline = performance.now() + request.timeout;
    this.#slots[slot] = request;
    const words = this.#submissions;
    const at = (this.#tail * SUBMISSION_ENTRY) / 4;
    words[at + 1] = command.nsid ?? 0;
    words.fill(0, at + 2, at + 10);
    if (data !== null) {
      const { prp1, prp2 } = data.prps;
      words[at + 6] = prp1 % 2 ** 32;
      words[at + 7] = prp1 / 2 ** 32;
      words[at + 8] = prp2 % 2 ** 32;
      words[at + 9] = prp2 / 2 ** 32;
    }
    words[at + 10] = command.cdw10 ?? 0;
    words[at + 11] = command.cdw11 ?? 0;
    words[at + 12] = command.cdw12 ?? 0;
    words[at + 13] = command.cdw13 ?? 0;
    words[at + 14] = command.cdw14 ?? 0;
    words[at + 15] = command.cdw15 ?? 0;
    // Last, and after the data and its lists: the doorbell must find the whole of it in memory.
    storeRelease32(words, at, command.opcode | (request.cid << 16));
    this.#tail = this.#tail + 1 === this.entries ? 0 : this.#tail + 1;
    this.#submitted++;
  }

  /** True if the controller completed something that was not taken yet: a look at memory. */
  get hasCompletion(): boolean {
    const last = loadAcquire32(this.#completions, (this.#head * COMPLETION_ENTRY) / 4 + 3);
    return ((last >>> 16) & 1) === this.#phase;
  }

  /**
   * Takes what the controller completed and settles it. An entry is new while its Phase Tag differs from the one of the
   * round before (4.6). No more than one round: a controller that goes mad does not keep us here. A queue that is absent
   * gets no doorbell.
   *
   * @returns How many there were. @throws as {@link QueuePair.dispatch}.
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

  /** @param status The Status Field (4.6.1), from bit 17 of dword 3 on. */
  #complete(cid: number, status: number, result: number): void {
    const request = this.#slots[cid & (MAX_DEPTH - 1)];
    if (request?.cid !== cid) {
      // Twice completed, or never submitted: nobody's memory is given back for it.
      const what = `queue ${String(this.id)}: completion of command 0x${cid.toString(16)}, which is not in flight`;
      this.#owner.device.report('error', 'nvme spurious completion', what);
      return;
    }
    const succeeded = (status & 0x7ff) === 0;
    const undelivered = this.#release(request, succeeded);
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

  /** Gives a command's slot and memory back. @returns as {@link CommandData.unmap}. */
  #release(request: Request, transferred: boolean): Error | null {
    const slot = request.cid & (MAX_DEPTH - 1);
    this.#slots[slot] = null;
    this.#generations[slot] = (this.#generations[slot]! + 1) % GENERATIONS;
    this.#free[this.#freeCount++] = slot;
    try {
      return request.data?.unmap(transferred) ?? null;
    } catch (error) {
      // A pool that refuses its own block: somebody else freed it. The command itself is over.
      this.#owner.device.report('error', 'nvme memory', `queue ${String(this.id)}: ${describeThrown(error)}`);
      return null;
    }
  }

  /**
   * The commands in flight that are late. None unless it is open: otherwise a reset or the end, which have time limits of
   * their own, is about to settle them.
   */
  late(now: number): Request[] {
    if (this.state !== 'open') return [];
    return this.#slots.filter((request) => request !== null && request.deadline <= now) as Request[];
  }

  /** Fails what is in flight, and releases its memory. */
  failInFlight(proof: DmaStopped, errorOf: (request: Request) => Error): void {
    if (!proof.holds) throw new DmaArgumentError('proof', proof.reason, 'a proof that holds');
    this.#kept = 0;
    for (const request of this.#slots) {
      if (request === null) continue;
      this.#release(request, false);
      request.reject(errorOf(request));
    }
  }

  /** Fails what is in flight, and keeps its slots and memory until {@link QueuePair.failInFlight}. @returns How many there are. */
  keepInFlight(error: Error): number {
    for (const request of this.#slots) request?.reject(error);
    this.#kept = this.inFlight;
    return this.#kept;
  }

  /** Fails what waits. */
  failWaiting(error: Error): void {
    while (this.#firstWaiting !== null) this.#removeFirst().reject(error);
  }

  /** As new: for when the controller was reset and nothing is in flight. */
  reset(): void {
    this.#tail = 0;
    this.#head = 0;
    this.#phase = 1;
    this.#completions.fill(0);
  }

  /** What gives its memory back, once. */
  releases(proof: DmaStopped): (() => void)[] {
    if (!proof.holds) throw new DmaArgumentError('proof', proof.reason, 'a proof that holds');
    return this.#memoryReleases();
  }

  #memoryReleases(): (() => void)[] {
    return this.#memory.splice(0).map((memory) => () => {
      this.#owner.device.freeCoherent(memory);
    });
  }
}
