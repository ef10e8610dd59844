/**
 * An NVMe controller that completes every command within the doorbell write and moves no data. Enough of the NVM Express
 * Base Specification 1.4 for this project's driver: one namespace, any number of queues.
 */
import { InstantFunction } from './instant-function.ts';

/** Registers (3.1), commands (5 and 6) and sizes of entries (4.2 and 4.6). */
const REG = { cap: 0x00, capHigh: 0x04, vs: 0x08, cc: 0x14, csts: 0x1c, aqa: 0x24, asq: 0x28, acq: 0x30 } as const;
const DOORBELLS = 0x1000;
const ADMIN = { createSubmission: 0x01, createCompletion: 0x05, identify: 0x06, setFeatures: 0x09 } as const;
const SUBMISSION = 64;
const COMPLETION = 16;
const PAGE = 4096;
const ENTRIES_MAX = 1024;
const NAMESPACE_BLOCKS = 2 ** 30;

interface CompletionQueue {
  readonly words: Uint32Array;
  readonly entries: number;
  readonly vector: number;
  tail: number;
  phase: number;
}

interface SubmissionQueue {
  readonly id: number;
  readonly words: Uint32Array;
  readonly entries: number;
  readonly completion: CompletionQueue;
  head: number;
}

export class InstantNvme extends InstantFunction {
  readonly #registers = new Map<number, number>();
  readonly #submissions: SubmissionQueue[] = [];
  readonly #completions: CompletionQueue[] = [];

  constructor() {
    super(0x0010_1b36, 0x0108_0202, 0x4000, 'msix');
    // CAP: entries - 1, time-out 500 ms, NVM command set (bit 37).
    this.#registers.set(REG.cap, (ENTRIES_MAX - 1) | (1 << 24));
    this.#registers.set(REG.capHigh, 1 << 5);
    this.#registers.set(REG.vs, 0x0001_0400);
  }

  read(_bar: number, offset: number): Promise<number> {
    return Promise.resolve(this.#get(offset));
  }

  write(_bar: number, offset: number, _width: number, value: number): void {
    if (offset >= DOORBELLS) {
      const doorbell = (offset - DOORBELLS) / 4;
      // Odd doorbells are heads of completion queues: their driver never lets them fill.
      if (doorbell % 2 === 0) this.#fetch(this.#submissions[doorbell / 2]!, value);
      return;
    }
    this.#registers.set(offset, value);
    if (offset === REG.cc) this.#configure(value);
  }

  #get(offset: number): number {
    return this.#registers.get(offset) ?? 0;
  }

  #address(register: number): number {
    return this.#get(register) + this.#get(register + 4) * 2 ** 32;
  }

  #configure(cc: number): void {
    this.#submissions.length = this.#completions.length = 0;
    // CSTS: ready as enabled; a shutdown completes at once.
    this.#registers.set(REG.csts, (cc & 1) | ((cc & 0xc000) === 0 ? 0 : 2 << 2));
    if ((cc & 1) === 0) return;
    const aqa = this.#get(REG.aqa);
    this.#addCompletion(0, this.#address(REG.acq), (aqa >>> 16) + 1, 0);
    this.#addSubmission(0, this.#address(REG.asq), (aqa & 0xffff) + 1, 0);
  }

  #addCompletion(id: number, dma: number, entries: number, vector: number): void {
    this.#completions[id] = { words: this.words(dma, entries * COMPLETION), entries, vector, tail: 0, phase: 1 };
  }

  #addSubmission(id: number, dma: number, entries: number, completionId: number): void {
    const words = this.words(dma, entries * SUBMISSION);
    this.#submissions[id] = { id, words, entries, completion: this.#completions[completionId]!, head: 0 };
  }

  /** Executes the commands up to the new tail, and raises one interrupt. */
  #fetch(queue: SubmissionQueue, tail: number): void {
    const { words, completion, entries } = queue;
    while (queue.head !== tail) {
      const at = (queue.head * SUBMISSION) / 4;
      queue.head = queue.head + 1 === entries ? 0 : queue.head + 1;
      const result = queue.id === 0 ? this.#admin(words.subarray(at, at + SUBMISSION / 4)) : 0;
      const entry = (completion.tail * COMPLETION) / 4;
      completion.words[entry] = result;
      completion.words[entry + 2] = queue.head | (queue.id << 16);
      Atomics.store(completion.words, entry + 3, (words[at]! >>> 16) | (completion.phase << 16));
      if (++completion.tail === completion.entries) {
        completion.tail = 0;
        completion.phase ^= 1;
      }
    }
    this.raise(completion.vector);
  }

  /** @returns Dword 0 of the completion. */
  #admin(command: Uint32Array): number {
    const opcode = command[0]! & 0xff;
    const prp1 = command[6]! + command[7]! * 2 ** 32;
    const cdw10 = command[10]!;
    const cdw11 = command[11]!;
    const entries = (cdw10 >>> 16) + 1;
    if (opcode === ADMIN.createCompletion) this.#addCompletion(cdw10 & 0xffff, prp1, entries, cdw11 >>> 16);
    if (opcode === ADMIN.createSubmission) this.#addSubmission(cdw10 & 0xffff, prp1, entries, cdw11 >>> 16);
    if (opcode === ADMIN.identify) this.#identify(cdw10 & 0xff, prp1);
    return opcode === ADMIN.setFeatures ? cdw11 : 0;
  }

  /** Identify data (5.15.2): a namespace of blocks of 512 bytes, the controller, or the list of namespaces. */
  #identify(cns: number, dma: number): void {
    const words = this.words(dma, PAGE).fill(0);
    if (cns === 0) {
      words[0] = NAMESPACE_BLOCKS;
      words[32] = 9 << 16; // LBA format 0: 2^9 bytes
    } else if (cns === 1)
      words[129] = 1; // NN
    else words[0] = 1;
  }
}
