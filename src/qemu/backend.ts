/** One PCI function of a machine, as `PciFunction` wants it. */
import type { CoherentAllocator } from '../memory/coherent.ts';
import type { InterruptBackend, InterruptKind, PciBackend, RawConfigSpace } from '../pci/backend.ts';
import { PCI_COMMAND, PCI_CONFIG, PCI_STATUS } from '../pci/registers.ts';
import type { MachineBus } from './bus.ts';
import type { AssignedBar, FoundFunction } from './enumerate.ts';
import type { InterruptLines } from './interrupt-lines.ts';

/** Milliseconds between looks while somebody else holds a shared line high: our own rise can't be heard then. */
const SHARED_LINE_INTERVAL = 2;

/** What a function needs of its machine. */
export interface FunctionHome {
  readonly bus: MachineBus;
  readonly lines: InterruptLines;
  readonly memory: CoherentAllocator;
  /** Input of the I/O APIC that the function's pin leads to; -1: it has no pin. */
  readonly line: number;
  /** Has the disks finish what they were asked for. */
  readonly finishRequests: () => Promise<void>;
  readonly onClose: () => void;
}

export class QemuPciBackend implements PciBackend {
  readonly address: string;
  readonly bars: readonly AssignedBar[];
  readonly memory: CoherentAllocator;
  readonly removed: AbortSignal;
  /** Past `removed`: all ones once the device is out or QEMU's process has ended, and not before. */
  readonly rawConfig: RawConfigSpace = {
    read: (offset, width) =>
      this.#raw(2 ** width - 1, () => this.#home.bus.readConfig(this.#found.where, offset, width)),
    write: (offset, width, value) =>
      this.#raw(undefined, () => this.#home.bus.writeConfig(this.#found.where, offset, width, value)),
  };
  readonly #home: FunctionHome;
  readonly #found: FoundFunction;
  readonly #gone = new AbortController();
  #leaving: Promise<void> | null = null;
  /** Once it is removed: resolves when its DMA has ended. */
  #off: Promise<unknown> = Promise.resolve();
  /** By the number of the register; holes where there is none. */
  readonly #byIndex: (AssignedBar | undefined)[] = [];

  constructor(found: FoundFunction, home: FunctionHome) {
    this.#found = found;
    this.#home = home;
    this.address = found.address;
    this.bars = found.bars;
    this.memory = home.memory;
    this.removed = this.#gone.signal;
    for (const bar of found.bars) this.#byIndex[bar.index] = bar;
  }

  /** A model that was cut off in the middle of its work may still have requests under way to the disk. */
  settle(): Promise<void> {
    return this.#home.finishRequests();
  }

  get configSize(): number {
    return this.#home.bus.configSize;
  }

  /**
   * The function is gone, or its machine is.
   *
   * @param off Resolves when its DMA has ended.
   */
  remove(reason: Error, off: Promise<unknown>): void {
    this.#off = off;
    this.#gone.abort(reason);
  }

  async #raw<T>(gone: T, access: () => Promise<T>): Promise<T> {
    if (this.#leaving !== null) await this.#leaving;
    if (!this.removed.aborted) {
      try {
        return await access();
      } catch (error) {
        if (!this.removed.aborted) throw error;
      }
    }
    await this.#off;
    return gone;
  }

  /** The function is being taken out. Until that is done or given up, accesses wait: they would read what is not there. */
  leave(out: Promise<void>): void {
    const leaving = out.then(
      () => undefined,
      () => undefined,
    );
    this.#leaving = leaving;
    void leaving.then(() => {
      if (this.#leaving === leaving) this.#leaving = null;
    });
  }

  async readConfig(offset: number, width: 8 | 16 | 32): Promise<number> {
    if (this.#leaving !== null) await this.#leaving;
    this.removed.throwIfAborted();
    return this.#home.bus.readConfig(this.#found.where, offset, width);
  }

  async writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    if (this.#leaving !== null) await this.#leaving;
    this.removed.throwIfAborted();
    await this.#home.bus.writeConfig(this.#found.where, offset, width, value);
  }

  async read(index: number, offset: number, width: 8 | 16 | 32): Promise<number> {
    if (this.#leaving !== null) await this.#leaving;
    this.removed.throwIfAborted();
    const bar = this.#byIndex[index]!;
    return bar.kind === 'io'
      ? this.#home.bus.readPort(bar.base + offset, width)
      : this.#home.bus.readMemory(bar.base + offset, width);
  }

  async read64(index: number, offset: number): Promise<bigint> {
    if (this.#leaving !== null) await this.#leaving;
    this.removed.throwIfAborted();
    return this.#home.bus.readMemory64(this.#byIndex[index]!.base + offset);
  }

  write(index: number, offset: number, width: 8 | 16 | 32, value: number): void {
    // What is written to a device that is gone vanishes; its addresses may be another's one day.
    if (this.removed.aborted || this.#leaving !== null) return;
    const bar = this.#byIndex[index]!;
    if (bar.kind === 'io') this.#home.bus.writePort(bar.base + offset, width, value);
    else this.#home.bus.writeMemory(bar.base + offset, width, value);
  }

  write64(index: number, offset: number, value: bigint): void {
    if (!this.removed.aborted && this.#leaving === null)
      this.#home.bus.writeMemory64(this.#byIndex[index]!.base + offset, value);
  }

  async flush(): Promise<void> {
    if (this.#leaving !== null) await this.#leaving;
    this.removed.throwIfAborted();
    await this.#home.bus.flush();
  }

  async openInterrupts(kinds: readonly InterruptKind[]): Promise<InterruptBackend | null> {
    const { line, lines } = this.#home;
    if (!kinds.includes('intx') || line === -1) return null;
    const interrupts = new IntxInterrupts(this, lines, line);
    await interrupts.switchOn(true);
    return interrupts;
  }

  close(): Promise<void> {
    this.#home.onClose();
    return Promise.resolve();
  }
}

/**
 * INTx: a level on a line that functions may share. Whose it is says bit 3 of each function's status (PCI 3.0, 6.2.3).
 */
class IntxInterrupts implements InterruptBackend {
  readonly kind = 'intx';
  readonly vectors = 1;
  readonly level = true;
  readonly #function: QemuPciBackend;
  readonly #lines: InterruptLines;
  readonly #line: number;
  readonly #stopListening: () => void;
  #listener: ((vector: number) => void) | undefined;
  /** The driver waits for the next one. */
  #armed = false;
  #closed = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(backend: QemuPciBackend, lines: InterruptLines, line: number) {
    this.#function = backend;
    this.#lines = lines;
    this.#line = line;
    this.#stopListening = lines.onRise(line, () => {
      // Alone on the line there is no need to ask whose it is; and if it was another's, a look does no harm.
      if (this.#lines.sharers(line) === 1) this.#tell();
      else this.#look();
    });
  }

  /** Lets the function use its line, or forbids it (PCI 3.0, 6.2.2: Interrupt Disable). */
  async switchOn(on: boolean): Promise<void> {
    const command = await this.#function.readConfig(PCI_CONFIG.command, 16);
    const { interruptDisable } = PCI_COMMAND;
    const value = on ? command & ~interruptDisable : command | interruptDisable;
    await this.#function.writeConfig(PCI_CONFIG.command, 16, value);
  }

  listen(listener: (vector: number) => void): void {
    this.#listener = listener;
  }

  async rearm(): Promise<boolean> {
    // Afterwards the line is what the driver's last writes made of it: QEMU tells of changes before it answers.
    await this.#function.flush();
    if (this.#closed) return false;
    this.#armed = true;
    if (!this.#lines.isHigh(this.#line)) return false;
    if (await this.#isOurs()) return true;
    this.#lookAgain();
    return false;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#stopListening();
    clearTimeout(this.#timer);
    this.#listener = undefined;
    this.#armed = false;
    if (!this.#function.removed.aborted) await this.switchOn(false);
  }

  #tell(): void {
    this.#armed = false;
    this.#listener?.(0);
  }

  async #isOurs(): Promise<boolean> {
    return ((await this.#function.readConfig(PCI_CONFIG.status, 16)) & PCI_STATUS.interrupt) !== 0;
  }

  #look(): void {
    this.#isOurs().then(
      (ours) => {
        if (ours) this.#tell();
        else this.#lookAgain();
      },
      // The function or its machine is gone: who waits is told by other means.
      () => undefined,
    );
  }

  #lookAgain(): void {
    if (!this.#armed || !this.#lines.isHigh(this.#line)) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#look();
    }, SHARED_LINE_INTERVAL);
  }
}
