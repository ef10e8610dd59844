/**
 * A small NVMe controller with the failures that QEMU's does not have: it hangs, aborts, reports wrong completions and
 * misbehaves. Its DMA goes through the software IOMMU, which faults on every address that is not mapped for the driver
 * and records each fault.
 */
import { type DmaTarget, HeapMemory } from 'dmapool';
import type { BarInfo, InterruptBackend, InterruptKind, PciBackend, RawConfigSpace } from 'dmapool/pci';

export const BLOCK = 512;
const PAGE = 4096;

/** A command as the controller sees it. */
export interface SeenCommand {
  readonly queue: number;
  readonly opcode: number;
  readonly cid: number;
  readonly nsid: number;
  readonly prp1: number;
  readonly prp2: number;
  readonly cdw10: number;
  readonly cdw11: number;
  readonly cdw12: number;
}

/** A completion queue entry; absent fields have the values that the specification requires. */
export interface Completion {
  readonly cid: number;
  /** SCT << 8 | SC, and above it CRD, M and DNR. */
  readonly status: number;
  readonly result?: number;
  readonly reserved?: number;
  readonly submissionHead?: number;
  readonly submissionQueue?: number;
  /** True: wrong phase. The entry is invalid, and the next one takes its place. */
  readonly wrongPhase?: boolean;
}

/** Memory, as address and length. */
export type Piece = readonly [dma: number, bytes: number];

interface Queue {
  readonly base: number;
  readonly entries: number;
  /** Submission: next to be fetched. Completion: next to be written. */
  at: number;
  phase: number;
  vector: number;
  /** Submission: its completion queue. */
  completion: number;
}

class Vectors implements InterruptBackend {
  readonly kind = 'msix';
  readonly vectors: number;
  readonly level = false;
  tell: (vector: number) => void = () => undefined;

  constructor(vectors: number) {
    this.vectors = vectors;
  }

  rearm(): Promise<boolean> {
    return Promise.resolve(false);
  }

  listen(listener: (vector: number) => void): void {
    this.tell = listener;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

export class FakeNvme implements PciBackend {
  readonly address = '0000:01:00.0';
  readonly configSize = 256;
  readonly bars: readonly BarInfo[] = [{ index: 0, kind: 'memory', size: 0x4000, prefetchable: false, is64: true }];
  readonly memory = new HeapMemory({ limit: 64 * 1024 * 1024 });
  readonly gone = new AbortController();
  readonly removed: AbortSignal = this.gone.signal;
  readonly config = new DataView(new ArrayBuffer(256));
  readonly #registers = new DataView(new ArrayBuffer(0x1000));
  readonly #submission = new Map<number, Queue>();
  readonly #completion = new Map<number, Queue>();
  #interrupts: Vectors | null = null;
  #requested: Error | null = null;

  /** The driver's device, whose addresses it uses. */
  target: DmaTarget | null = null;
  readonly disk: Uint8Array;
  /** IOMMU faults, and other violations of the driver. */
  readonly faults: string[] = [];
  /** Commands that hang. */
  readonly hung: SeenCommand[] = [];

  // The behaviour of the controller.
  /** Size in bytes of a block in its transfers. */
  blockSize: number = BLOCK;
  mdts = 0;
  maxVectors = 8;
  becomesReady = true;
  stops = true;
  /** Milliseconds that it continues after it was disabled, until RDY falls. */
  stopTime = 0;
  /** Milliseconds that a shutdown takes. */
  shutdownTime = 0;
  canAbort = true;
  interruptsWork = true;
  /** True: interrupts of I/O queues are raised only when their completion queue is deleted. */
  interruptsAtDeletion = false;
  /** True: all reads return all ones. */
  silent = false;
  /** The result of an I/O command: null: it is done; 'hang'; or a status (SCT << 8 | SC) to fail with. */
  fate: (command: SeenCommand) => 'hang' | number | null = () => null;
  /** The same for admin commands. */
  onAdmin: (command: SeenCommand) => 'hang' | number | null = () => null;
  /** True: bus mastering cannot be switched off. */
  busMasterSticks = false;
  /** Called before bus mastering is switched off. */
  onBusMasterOff: () => void = () => undefined;
  /** Number of shutdown notifications so far. */
  shutdowns = 0;
  /** The PCI backend's own reset; none by default. */
  reset?: () => Promise<boolean>;
  /** The order in which commands that were fetched together are completed. */
  order: <T>(commands: T[]) => T[] = (commands) => commands;
  /** Changes identify data before the driver sees it. */
  onIdentify: (cns: number, view: DataView) => void = () => undefined;
  /** Called when the controller is disabled, before it stops. */
  onDisable: () => void = () => undefined;
  /** Called for each command when it was fetched, before it is executed. */
  onFetch: (command: SeenCommand) => void = () => undefined;
  /**
   * Called when a queue is created, with `base` its address and `bytes` its length, and when it is deleted, with null.
   */
  onQueue: (kind: 'submission' | 'completion', id: number, place: Piece | null) => void = () => undefined;

  constructor(blocks = 4096) {
    this.disk = new Uint8Array(blocks * BLOCK);
    this.config.setUint32(0, 0x0010_1b36, true);
    this.config.setUint32(8, 0x0108_0202, true);
    this.setCapabilities({});
    this.#registers.setUint32(0x08, 0x0001_0400, true);
  }

  /** MQES, TO in units of 500 ms, DSTRD, CSS, MPSMIN. */
  setCapabilities({
    mqes = 1023,
    to = 1,
    stride = 0,
    css = 1,
    mpsMin = 0,
  }: Partial<Record<'mqes' | 'to' | 'stride' | 'css' | 'mpsMin', number>>): void {
    const cap =
      BigInt(mqes) | (BigInt(to) << 24n) | (BigInt(stride) << 32n) | (BigInt(css) << 37n) | (BigInt(mpsMin) << 48n);
    this.#registers.setBigUint64(0, cap, true);
  }

  /** The version that it implements, in the format of the register VS. */
  set version(version: number) {
    this.#registers.setUint32(0x08, version, true);
  }

  // ---- the function

  /**
   * The kernel requests release: all accesses but those to raw configuration space reject, and the controller
   * continues.
   */
  request(reason: Error): void {
    this.#requested = reason;
    this.gone.abort(reason);
  }

  readonly rawConfig: RawConfigSpace = {
    read: (offset, width) => Promise.resolve(this.silent ? 2 ** width - 1 : read(this.config, offset, width)),
    write: (offset, width, value) => {
      // The other bits of the command register are reserved, and read 0 (PCI 3.0, 6.2.2).
      if (offset === 4) value &= 0x7ff;
      if (offset === 4 && (value & 4) === 0 && this.isBusMaster) {
        this.onBusMasterOff();
        if (this.busMasterSticks) return Promise.resolve();
      }
      write(this.config, offset, width, value);
      return Promise.resolve();
    },
  };

  readConfig(offset: number, width: 8 | 16 | 32): Promise<number> {
    return this.#requested === null ? this.rawConfig.read(offset, width) : Promise.reject(this.#requested);
  }

  writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    return this.#requested === null ? this.rawConfig.write(offset, width, value) : Promise.reject(this.#requested);
  }

  read(_bar: number, offset: number, width: 8 | 16 | 32): Promise<number> {
    if (this.#requested !== null) return Promise.reject(this.#requested);
    return Promise.resolve(this.silent ? 2 ** width - 1 : read(this.#registers, offset, width));
  }

  read64(_bar: number, offset: number): Promise<bigint> {
    return Promise.resolve(this.#registers.getBigUint64(offset, true));
  }

  write(_bar: number, offset: number, width: 8 | 16 | 32, value: number): void {
    if (this.silent || this.#requested !== null) return;
    if (offset >= 0x1000) {
      this.#doorbell(offset - 0x1000, value);
      return;
    }
    const was = this.#registers.getUint32(0x14, true);
    write(this.#registers, offset, width, value);
    if (offset === 0x14) this.#configure(was, value);
  }

  write64(_bar: number, offset: number, value: bigint): void {
    this.#registers.setBigUint64(offset, value, true);
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  openInterrupts(kinds: readonly InterruptKind[], vectors: number): Promise<InterruptBackend | null> {
    if (!kinds.includes('msix')) return Promise.resolve(null);
    this.#interrupts = new Vectors(Math.min(vectors, this.maxVectors));
    return Promise.resolve(this.#interrupts);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  get isBusMaster(): boolean {
    return (this.config.getUint16(4, true) & 4) !== 0;
  }

  /** Sets CSTS.CFS. */
  fail(): void {
    this.#registers.setUint32(0x1c, this.#registers.getUint32(0x1c, true) | 2, true);
  }

  /** The effect of a disable: the controller drops its queues and commands, and RDY falls. */
  halt(): void {
    this.#submission.clear();
    this.#completion.clear();
    this.hung.length = 0;
    this.#registers.setUint32(0x1c, 0, true);
  }

  /** A reset of the whole function: bus mastering is off, and all state is cleared. */
  resetFunction(): void {
    this.config.setUint16(4, 0, true);
    this.#registers.setUint32(0x14, 0, true);
    this.halt();
  }

  /** Number of entries of a completion queue; 0 if it does not exist. */
  completionEntries(id: number): number {
    return this.#completion.get(id)?.entries ?? 0;
  }

  // ---- the controller

  #configure(was: number, now: number): void {
    const status = (value: number): void => {
      this.#registers.setUint32(0x1c, value, true);
    };
    if ((now & 1) !== 0 && (was & 1) === 0) {
      const entries = (this.#registers.getUint32(0x24, true) & 0xfff) + 1;
      const at = (register: number): number => Number(this.#registers.getBigUint64(register, true));
      const made = (base: number): Queue => ({ base, entries, at: 0, phase: 1, vector: 0, completion: 0 });
      this.#add('submission', 0, made(at(0x28)));
      this.#add('completion', 0, made(at(0x30)));
      if (this.becomesReady) status(1);
    } else if ((now & 1) === 0 && (was & 1) !== 0) {
      this.onDisable();
      if (((this.#registers.getUint32(0x1c, true) >>> 2) & 3) === 1) this.faults.push('disabled during its shutdown');
      if (!this.stops) return;
      after(this.stopTime, () => {
        if ((this.#registers.getUint32(0x14, true) & 1) === 0) this.halt();
      });
    } else if ((now & 0xc000) === 0x4000) {
      this.shutdowns++;
      status(1 | (1 << 2));
      after(this.shutdownTime, () => {
        if ((this.#registers.getUint32(0x14, true) & 1) !== 0) status(1 | (2 << 2));
      });
    }
  }

  #doorbell(offset: number, value: number): void {
    const stride = 4 << Number((this.#registers.getBigUint64(0, true) >> 32n) & 0xfn);
    const number = offset / stride;
    if (!Number.isInteger(number)) this.faults.push(`doorbell at 0x${offset.toString(16)}`);
    const id = Math.floor(number / 2);
    if (number % 2 === 1) {
      if (!this.#completion.has(id)) this.faults.push(`doorbell of completion queue ${String(id)}: there is none`);
      return;
    }
    const queue = this.#submission.get(id);
    if (queue === undefined || value >= queue.entries) {
      this.faults.push(`doorbell of queue ${String(id)}: ${String(value)}`);
      return;
    }
    const fetched: SeenCommand[] = [];
    while (queue.at !== value) {
      const command = this.#fetch(id, queue);
      queue.at = (queue.at + 1) % queue.entries;
      this.onFetch(command);
      fetched.push(command);
    }
    // The doorbell's writer has continued by then, as with hardware.
    setImmediate(() => {
      for (const command of this.order(fetched)) if (this.#submission.has(id)) this.#execute(command);
    });
  }

  #fetch(id: number, queue: Queue): SeenCommand {
    const entry = new DataView(this.#dma(queue.base + queue.at * 64, 64, null).buffer);
    const word = (i: number): number => entry.getUint32(4 * i, true);
    return {
      queue: id,
      opcode: word(0) & 0xff,
      cid: word(0) >>> 16,
      nsid: word(1),
      prp1: word(6) + word(7) * 2 ** 32,
      prp2: word(8) + word(9) * 2 ** 32,
      cdw10: word(10),
      cdw11: word(11),
      cdw12: word(12),
    };
  }

  #execute(command: SeenCommand): void {
    const fate = command.queue === 0 ? this.onAdmin(command) : this.fate(command);
    if (fate === 'hang') {
      this.hung.push(command);
      return;
    }
    if (command.queue === 0 && fate === null) {
      this.#admin(command);
      return;
    }
    if (fate === null) this.#transfer(command);
    this.complete(command, fate ?? 0);
  }

  /** Executes a command that hung. */
  finish(command: SeenCommand): void {
    if (command.queue === 0) {
      this.#admin(command);
      return;
    }
    this.#transfer(command);
    this.complete(command, 0);
  }

  /** Executes a read or write, by its PRP entries. */
  #transfer(command: SeenCommand): void {
    const { queue, opcode, cdw10 } = command;
    if (queue === 0 || (opcode !== 1 && opcode !== 2)) return;
    let at = cdw10 * this.blockSize;
    for (const [dma, bytes] of this.layout(command).data) {
      if (at + bytes > this.disk.length) return;
      if (opcode === 1) this.disk.set(this.#dma(dma, bytes, null), at);
      else this.#dma(dma, bytes, this.disk.subarray(at, at + bytes));
      at += bytes;
    }
  }

  /** Number of bytes that a command transfers; 0 for commands that this controller does not implement. */
  #lengthOf({ queue, opcode, cdw10, cdw12 }: SeenCommand): number {
    if (queue === 0) return opcode === 0x06 ? PAGE : 0;
    if (opcode === 1 || opcode === 2 || opcode === 5) return ((cdw12 & 0xffff) + 1) * this.blockSize;
    return opcode === 9 ? ((cdw10 & 0xff) + 1) * 16 : 0;
  }

  /** The location of a command's data, and of its PRP lists (4.3). */
  layout(command: SeenCommand): { readonly data: readonly Piece[]; readonly lists: readonly Piece[] } {
    const { prp1, prp2 } = command;
    const length = this.#lengthOf(command);
    const data: Piece[] = [];
    const lists: Piece[] = [];
    if (length === 0) return { data, lists };
    const first = Math.min(length, PAGE - (prp1 % PAGE));
    data.push([prp1, first]);
    let left = length - first;
    const add = (dma: number): void => {
      if (dma % PAGE !== 0) this.faults.push(`PRP entry 0x${dma.toString(16)} is not page-aligned`);
      data.push([dma, Math.min(left, PAGE)]);
      left -= Math.min(left, PAGE);
    };
    if (left <= PAGE) {
      if (left > 0) add(prp2);
      return { data, lists };
    }
    let list = prp2;
    while (left > 0) {
      // As many entries as are needed, up to the end of the page; the last one points to the next list if it is not the
      // last page.
      const room = (PAGE - (list % PAGE)) / 8;
      const needed = Math.ceil(left / PAGE);
      const bytes = 8 * Math.min(room, needed);
      const entries = new BigUint64Array(this.#dma(list, bytes, null).buffer);
      lists.push([list, bytes]);
      const more = needed > room;
      for (const entry of more ? entries.subarray(0, -1) : entries) add(Number(entry));
      if (more) list = Number(entries.at(-1));
    }
    return { data, lists };
  }

  /** Writes `from` to memory, or reads `length` bytes of it. */
  #dma(dma: number, length: number, from: Uint8Array | null): Uint8Array {
    const bytes = from ?? new Uint8Array(length);
    if (!this.isBusMaster) this.faults.push(`DMA at 0x${dma.toString(16)} without bus mastering`);
    try {
      if (from === null) this.memory.read(this.target!, dma, bytes);
      else this.memory.write(this.target!, dma, bytes);
    } catch (error) {
      this.faults.push(String(error));
    }
    return bytes;
  }

  /** Completes a command; may be called repeatedly. @param status SCT << 8 | SC. */
  complete({ queue, cid }: Pick<SeenCommand, 'queue' | 'cid'>, status: number, result = 0): void {
    const submission = this.#submission.get(queue);
    if (submission !== undefined) this.post(submission.completion, { cid, status, result, submissionQueue: queue });
  }

  /** Writes an entry to a completion queue. @returns False if the queue does not exist. */
  post(id: number, completion: Completion): boolean {
    const queue = this.#completion.get(id);
    if (queue === undefined) return false;
    const { cid, status, result = 0, reserved = 0, submissionQueue = id, wrongPhase = false } = completion;
    const { submissionHead = this.#submission.get(submissionQueue)?.at ?? 0 } = completion;
    const entry = new DataView(new ArrayBuffer(16));
    entry.setUint32(0, result, true);
    entry.setUint32(4, reserved, true);
    entry.setUint32(8, submissionHead | (submissionQueue << 16), true);
    entry.setUint32(12, cid | ((queue.phase ^ (wrongPhase ? 1 : 0)) << 16) | (status << 17), true);
    this.#dma(queue.base + queue.at * 16, 16, new Uint8Array(entry.buffer));
    if (!wrongPhase && ++queue.at === queue.entries) {
      queue.at = 0;
      queue.phase ^= 1;
    }
    if (this.interruptsWork && !(this.interruptsAtDeletion && id > 0)) this.interrupt(queue.vector);
    return true;
  }

  /** Raises an interrupt, with or without a cause. */
  interrupt(vector: number): void {
    this.#interrupts?.tell(vector);
  }

  #admin(command: SeenCommand): void {
    const { opcode, prp1, cdw10, cdw11 } = command;
    const made = (vector: number, completion: number): Queue => ({
      base: prp1,
      entries: (cdw10 >>> 16) + 1,
      at: 0,
      phase: 1,
      vector,
      completion,
    });
    if (opcode === 0x05) this.#add('completion', cdw10 & 0xffff, made(cdw11 >>> 16, 0));
    else if (opcode === 0x01) this.#add('submission', cdw10 & 0xffff, made(0, cdw11 >>> 16));
    else if (opcode === 0x00) this.#deleteSubmission(cdw10);
    else if (opcode === 0x04) {
      const vector = this.#completion.get(cdw10)?.vector;
      this.#completion.delete(cdw10);
      this.onQueue('completion', cdw10, null);
      if (this.interruptsAtDeletion && vector !== undefined) this.#interrupts?.tell(vector);
    } else if (opcode === 0x06) {
      const status = this.#identify(command);
      if (status !== 0) {
        this.complete(command, status);
        return;
      }
    }
    if (opcode === 0x08) {
      const hung = this.hung.findIndex(({ queue, cid }) => queue === (cdw10 & 0xffff) && cid === cdw10 >>> 16);
      if (this.canAbort && hung >= 0) this.complete(this.hung.splice(hung, 1)[0]!, 0x07);
      this.complete(command, 0, this.canAbort && hung >= 0 ? 0 : 1);
      return;
    }
    this.complete(command, 0, opcode === 0x09 ? cdw11 : 0);
  }

  #deleteSubmission(id: number): void {
    for (const hung of this.hung.splice(0)) if (hung.queue === id) this.complete(hung, 0x08);
    this.#submission.delete(id);
    this.onQueue('submission', id, null);
  }

  #add(kind: 'submission' | 'completion', id: number, queue: Queue): void {
    (kind === 'submission' ? this.#submission : this.#completion).set(id, queue);
    this.onQueue(kind, id, [queue.base, queue.entries * (kind === 'submission' ? 64 : 16)]);
  }

  /** @returns The status of the failure, or 0. */
  #identify({ cdw10, prp1, nsid }: SeenCommand): number {
    // Lists of namespaces exist since version 1.1.
    if (cdw10 > 1 && this.#registers.getUint32(0x08, true) < 0x0001_0100) return 0x02;
    const bytes = new Uint8Array(PAGE);
    const view = new DataView(bytes.buffer);
    if (cdw10 === 1) {
      bytes[77] = this.mdts;
      bytes[258] = 3;
      view.setUint32(516, 1, true);
    } else if (cdw10 === 0 && nsid === 1) {
      view.setUint32(0, this.disk.length / BLOCK, true);
      view.setUint32(128, 9 << 16, true);
    } else if (cdw10 === 2) {
      view.setUint32(0, 1, true);
    }
    this.onIdentify(cdw10, view);
    this.#dma(prp1, PAGE, bytes);
    return 0;
  }
}

function after(milliseconds: number, action: () => void): void {
  if (milliseconds === 0) action();
  else setTimeout(action, milliseconds);
}

function read(view: DataView, offset: number, width: 8 | 16 | 32): number {
  if (width === 8) return view.getUint8(offset);
  return width === 16 ? view.getUint16(offset, true) : view.getUint32(offset, true);
}

function write(view: DataView, offset: number, width: 8 | 16 | 32, value: number): void {
  if (width === 8) view.setUint8(offset, value);
  else if (width === 16) view.setUint16(offset, value, true);
  else view.setUint32(offset, value, true);
}
