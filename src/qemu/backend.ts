/** PCI backend for a function of a QEMU machine. */
import { roundUp } from '../arguments.ts';
import { DmaOutOfMemoryError } from '../errors.ts';
import type { CoherentAllocator, CoherentMemory } from '../memory/coherent.ts';
import type { InterruptBackend, InterruptKind, PciBackend, RawConfigSpace } from '../pci/backend.ts';
import { PCI_COMMAND, PCI_CONFIG, PCI_STATUS } from '../pci/registers.ts';
import type { MachineBus } from './bus.ts';
import type { AssignedBar, FoundFunction } from './enumerate.ts';
import type { InterruptLines } from './interrupt-lines.ts';
import { disableMessages, type MessageContext, type MessageWords, openMessages } from './message-interrupts.ts';

/** Milliseconds between checks of a shared line: while another function holds it high, it has no rising edge. */
const SHARED_LINE_INTERVAL = 2;

/** Bytes of a vector's word in RAM, to which its messages are written (message-interrupts.ts). */
const WORD = 4;
/** Highest address of such a word. */
const WORD_MASK = 0xffff_ffff;

/** The function's environment: its machine. */
export interface FunctionContext {
  readonly bus: MachineBus;
  readonly lines: InterruptLines;
  readonly memory: CoherentAllocator;
  /** I/O APIC input of the function's pin; -1 without a pin. */
  readonly line: number;
  /** Waits until the disks have completed their requests. */
  readonly finishRequests: () => Promise<void>;
  /** False after `QemuMachine.unref`. */
  readonly keepsAlive: () => boolean;
  readonly onClose: () => void;
}

export class QemuPciBackend implements PciBackend {
  readonly address: string;
  readonly bars: readonly AssignedBar[];
  readonly memory: CoherentAllocator;
  readonly removed: AbortSignal;
  /** Works after `removed` has aborted. Reads return all ones once the device is unplugged or the process has ended. */
  readonly rawConfig: RawConfigSpace = {
    read: (offset, width) =>
      this.#raw(2 ** width - 1, () => this.#context.bus.readConfig(this.#found.where, offset, width)),
    write: (offset, width, value) =>
      this.#raw(undefined, () => this.#context.bus.writeConfig(this.#found.where, offset, width, value)),
  };
  readonly #context: FunctionContext;
  readonly #found: FoundFunction;
  readonly #removal = new AbortController();
  #unplugging: Promise<void> | null = null;
  /** After removal: resolves when the function's DMA has ended. */
  #dmaEnded: Promise<unknown> = Promise.resolve();
  /** Words of the vectors. The function may write to them until it is closed, whatever the driver closed before. */
  readonly #words: CoherentMemory[] = [];
  /** BARs by index, with holes. */
  readonly #byIndex: (AssignedBar | undefined)[] = [];

  constructor(found: FoundFunction, context: FunctionContext) {
    this.#found = found;
    this.#context = context;
    this.address = found.address;
    this.bars = found.bars;
    this.memory = context.memory;
    this.removed = this.#removal.signal;
    for (const bar of found.bars) this.#byIndex[bar.index] = bar;
  }

  /** A device model may have disk requests in flight after bus mastering is off. */
  settle(): Promise<void> {
    return this.#context.finishRequests();
  }

  get configSize(): number {
    return this.#context.bus.configSize;
  }

  /**
   * Marks the function removed, or its machine ended.
   *
   * @param dmaEnded Resolves when its DMA has ended.
   */
  remove(reason: Error, dmaEnded: Promise<unknown>): void {
    this.#dmaEnded = dmaEnded;
    this.#removal.abort(reason);
  }

  async #raw<T>(gone: T, access: () => Promise<T>): Promise<T> {
    if (this.#unplugging !== null) await this.#unplugging;
    if (!this.removed.aborted) {
      try {
        return await access();
      } catch (error) {
        if (!this.removed.aborted) throw error;
      }
    }
    await this.#dmaEnded;
    return gone;
  }

  /** Blocks accesses until the unplug has completed or failed: they would read an empty slot. */
  beginUnplug(done: Promise<void>): void {
    const unplugging = done.then(
      () => undefined,
      () => undefined,
    );
    this.#unplugging = unplugging;
    void unplugging.then(() => {
      if (this.#unplugging === unplugging) this.#unplugging = null;
    });
  }

  async readConfig(offset: number, width: 8 | 16 | 32): Promise<number> {
    if (this.#unplugging !== null) await this.#unplugging;
    this.removed.throwIfAborted();
    return this.#context.bus.readConfig(this.#found.where, offset, width);
  }

  async writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    if (this.#unplugging !== null) await this.#unplugging;
    this.removed.throwIfAborted();
    await this.#context.bus.writeConfig(this.#found.where, offset, width, value);
  }

  async read(index: number, offset: number, width: 8 | 16 | 32): Promise<number> {
    if (this.#unplugging !== null) await this.#unplugging;
    this.removed.throwIfAborted();
    const bar = this.#byIndex[index]!;
    return bar.kind === 'io'
      ? this.#context.bus.readPort(bar.base + offset, width)
      : this.#context.bus.readMemory(bar.base + offset, width);
  }

  async read64(index: number, offset: number): Promise<bigint> {
    if (this.#unplugging !== null) await this.#unplugging;
    this.removed.throwIfAborted();
    return this.#context.bus.readMemory64(this.#byIndex[index]!.base + offset);
  }

  write(index: number, offset: number, width: 8 | 16 | 32, value: number): void {
    // Drop writes to a removed device: another device may get its addresses.
    if (this.removed.aborted || this.#unplugging !== null) return;
    const bar = this.#byIndex[index]!;
    if (bar.kind === 'io') this.#context.bus.writePort(bar.base + offset, width, value);
    else this.#context.bus.writeMemory(bar.base + offset, width, value);
  }

  write64(index: number, offset: number, value: bigint): void {
    if (!this.removed.aborted && this.#unplugging === null)
      this.#context.bus.writeMemory64(this.#byIndex[index]!.base + offset, value);
  }

  async flush(): Promise<void> {
    if (this.#unplugging !== null) await this.#unplugging;
    this.removed.throwIfAborted();
    await this.#context.bus.flush();
  }

  async openInterrupts(kinds: readonly InterruptKind[], vectors: number): Promise<InterruptBackend | null> {
    const messages: MessageContext = {
      takeWords: (count) => this.#takeWords(count),
      keepsAlive: this.#context.keepsAlive,
    };
    for (const kind of kinds) {
      if (kind === 'poll') continue;
      const opened = kind === 'intx' ? await this.#openIntx() : await openMessages(this, kind, vectors, messages);
      if (opened !== null) return opened;
    }
    return null;
  }

  async #openIntx(): Promise<InterruptBackend | null> {
    const { line, lines } = this.#context;
    if (line === -1) return null;
    const interrupts = new IntxInterrupts(this, lines, line, this.#context.keepsAlive);
    await interrupts.setEnabled(true);
    return interrupts;
  }

  /** @throws `DmaOutOfMemoryError` */
  #takeWords(count: number): MessageWords {
    let memory = this.#words.find(({ size }) => size >= count * WORD);
    if (memory === undefined) {
      const source = this.#context.memory;
      const device = { name: this.address, dmaMask: WORD_MASK };
      const taken = source.allocCoherent({ device, size: roundUp(count * WORD, source.pageSize), node: -1 });
      if (taken === null) {
        const message = `${this.address}: the machine has no free memory for the words of MSI or MSI-X`;
        throw new DmaOutOfMemoryError('ERR_DMAPOOL_NO_MEMORY', message);
      }
      this.#words.push(taken);
      memory = taken;
    }
    const words = new Int32Array(memory.buffer, memory.byteOffset, count);
    words.fill(0);
    return { dma: memory.dma, words };
  }

  /**
   * The DMA of the function is stopped, but the next driver enables it again. A reset that ended late may have restored
   * capabilities whose interrupts were closed before, so disable them again.
   */
  async #disableMessages(): Promise<void> {
    try {
      await disableMessages(this);
    } catch (error) {
      // A function that is gone sends none.
      if (!this.removed.aborted) throw error;
    }
  }

  async close(): Promise<void> {
    try {
      if (this.#words.length > 0) await this.#disableMessages();
      for (const words of this.#words.splice(0)) this.#context.memory.freeCoherent(words);
    } finally {
      this.#context.onClose();
    }
  }
}

/**
 * INTx: a level on a line that functions may share. Bit 3 of a function's status register tells whether it asserts the
 * line (PCI 3.0, 6.2.3).
 */
class IntxInterrupts implements InterruptBackend {
  readonly kind = 'intx';
  readonly vectors = 1;
  readonly level = true;
  readonly #function: QemuPciBackend;
  readonly #lines: InterruptLines;
  readonly #line: number;
  readonly #keepsAlive: () => boolean;
  readonly #stopListening: () => void;
  #listener: ((vector: number) => void) | undefined;
  /** The driver waits for an interrupt. */
  #armed = false;
  #closed = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(backend: QemuPciBackend, lines: InterruptLines, line: number, keepsAlive: () => boolean) {
    this.#function = backend;
    this.#keepsAlive = keepsAlive;
    this.#lines = lines;
    this.#line = line;
    this.#stopListening = lines.onRise(line, () => {
      // If no other function listens to the line, this function raised it. A spurious notification does no harm.
      if (this.#lines.sharers(line) === 1) this.#notify();
      else this.#check();
    });
  }

  /** Sets or clears Interrupt Disable (PCI 3.0, 6.2.2). */
  async setEnabled(on: boolean): Promise<void> {
    const command = await this.#function.readConfig(PCI_CONFIG.command, 16);
    const { interruptDisable } = PCI_COMMAND;
    const value = on ? command & ~interruptDisable : command | interruptDisable;
    await this.#function.writeConfig(PCI_CONFIG.command, 16, value);
  }

  listen(listener: (vector: number) => void): void {
    this.#listener = listener;
  }

  async rearm(): Promise<boolean> {
    // QEMU reports line changes before it replies, so the level now reflects the driver's last writes.
    await this.#function.flush();
    if (this.#closed) return false;
    this.#armed = true;
    if (!this.#lines.isHigh(this.#line)) return false;
    if (await this.#isAsserted()) return true;
    this.#checkLater();
    return false;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#stopListening();
    clearTimeout(this.#timer);
    this.#listener = undefined;
    this.#armed = false;
    if (!this.#function.removed.aborted) await this.setEnabled(false);
  }

  #notify(): void {
    this.#armed = false;
    this.#listener?.(0);
  }

  async #isAsserted(): Promise<boolean> {
    return ((await this.#function.readConfig(PCI_CONFIG.status, 16)) & PCI_STATUS.interrupt) !== 0;
  }

  #check(): void {
    this.#isAsserted().then(
      (asserted) => {
        if (asserted) this.#notify();
        else this.#checkLater();
      },
      // The function or its machine is gone; the `removed` signal reports it.
      () => undefined,
    );
  }

  #checkLater(): void {
    if (!this.#armed || !this.#lines.isHigh(this.#line)) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#check();
    }, SHARED_LINE_INTERVAL);
    if (!this.#keepsAlive()) this.#timer.unref();
  }
}
