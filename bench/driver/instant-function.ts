/** A PCI function in this process whose device acts within the register write: what remains is the driver's own cost. */
import { type DmaTarget, HeapMemory } from 'dmapool';
import type { AccessWidth, BarInfo, InterruptBackend, InterruptKind, PciBackend } from 'dmapool/pci';

const MEMORY_LIMIT = 256 * 1024 * 1024;

/** Vectors that are raised by a call. Edge interrupts, never lost: `rearm` has nothing to report. */
class InstantInterrupts implements InterruptBackend {
  readonly kind: InterruptKind;
  readonly vectors: number;
  readonly level = false;
  #listener: ((vector: number) => void) | null = null;

  constructor(kind: InterruptKind, vectors: number) {
    this.kind = kind;
    this.vectors = vectors;
  }

  raise(vector: number): void {
    this.#listener?.(vector);
  }

  rearm(): Promise<boolean> {
    return Promise.resolve(false);
  }

  listen(listener: (vector: number) => void): void {
    this.#listener = listener;
  }

  close(): Promise<void> {
    this.#listener = null;
    return Promise.resolve();
  }
}

/** The backend of an instant device. Subclasses implement the registers. */
export abstract class InstantFunction implements PciBackend {
  readonly address = '0000:00:01.0';
  readonly configSize = 256;
  readonly bars: readonly BarInfo[];
  readonly memory: HeapMemory = new HeapMemory({ limit: MEMORY_LIMIT });
  readonly removed: AbortSignal = new AbortController().signal;
  readonly #config = new DataView(new ArrayBuffer(256));
  readonly #kind: InterruptKind;
  #interrupts: InstantInterrupts | null = null;
  /** The device whose addresses the driver uses; set after the function was opened. */
  target: DmaTarget | null = null;

  /** @param id Device ID in bits 31:16, vendor ID below. @param classCode Class, subclass, interface and revision. */
  constructor(id: number, classCode: number, barSize: number, kind: InterruptKind) {
    this.#config.setUint32(0, id, true);
    this.#config.setUint32(8, classCode, true);
    this.bars = [{ index: 0, kind: 'memory', size: barSize, prefetchable: false, is64: false }];
    this.#kind = kind;
  }

  readConfig(offset: number, width: 8 | 16 | 32): Promise<number> {
    if (width === 8) return Promise.resolve(this.#config.getUint8(offset));
    return Promise.resolve(width === 16 ? this.#config.getUint16(offset, true) : this.#config.getUint32(offset, true));
  }

  writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    if (width === 8) this.#config.setUint8(offset, value);
    else if (width === 16) this.#config.setUint16(offset, value, true);
    else this.#config.setUint32(offset, value, true);
    return Promise.resolve();
  }

  abstract read(bar: number, offset: number, width: AccessWidth): Promise<number>;
  abstract write(bar: number, offset: number, width: AccessWidth, value: number): void;

  async read64(bar: number, offset: number): Promise<bigint> {
    const low = BigInt(await this.read(bar, offset, 32));
    return low | (BigInt(await this.read(bar, offset + 4, 32)) << 32n);
  }

  write64(bar: number, offset: number, value: bigint): void {
    this.write(bar, offset, 32, Number(value & 0xffff_ffffn));
    this.write(bar, offset + 4, 32, Number(value >> 32n));
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  openInterrupts(kinds: readonly InterruptKind[], vectors: number): Promise<InterruptBackend | null> {
    if (!kinds.includes(this.#kind)) return Promise.resolve(null);
    this.#interrupts = new InstantInterrupts(this.#kind, this.#kind === 'intx' ? 1 : vectors);
    return Promise.resolve(this.#interrupts);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** Raises an interrupt. */
  protected raise(vector: number): void {
    this.#interrupts?.raise(vector);
  }

  /** Memory of the driver as words: read and written directly, as a device would by DMA. */
  protected words(dma: number, bytes: number): Uint32Array {
    const view = this.memory.translate(this.target!, dma, bytes);
    return new Uint32Array(view.buffer, view.byteOffset, bytes / 4);
  }
}
