/** Register regions of a PCI function (PCI 3.0, 6.2.5), and ranges of them. */
import { checkInteger } from '../arguments.ts';
import { DmaArgumentError, hex } from '../errors.ts';
import type { AccessWidth, BarInfo, PciBackend } from './backend.ts';
import { PciError } from './error.ts';

const MASK_64 = 0xffff_ffff_ffff_ffffn;

/** The part of the function that a BAR uses. @internal */
export interface BarOwner {
  readonly backend: PciBackend;
  /** Throws after the function was closed. */
  readonly guard: () => void;
  /** Called after a read of all ones: rejects when the function is absent. */
  readonly checkPresent: () => Promise<void>;
}

/**
 * A range of the registers of one BAR, from {@link BarWindow.window}. A {@link Bar} is the window of its whole region.
 *
 * - **Writes are posted** (PCI 3.0, 3.2.5; here to I/O ports too): they return at once, and reach the device in call
 *   order and before any later read. The next awaited call reports an error of a posted write.
 * - **Reads are awaited** and follow all earlier writes. After a read of all ones the vendor ID is read. If it is all
 *   ones too, the function is gone, and the read rejects with `PciGoneError`. Writes to an absent function have no
 *   effect.
 * - Offsets count from the start of the window. An access must lie in the window, and its place in the BAR must be a
 *   multiple of its width. Values must fit the width. Otherwise writes throw a `DmaArgumentError` and reads reject with
 *   it. Negative values, as bitwise operators return them, are taken as two's complement.
 * - A region of I/O ports has no 64-bit accesses (`PciError`, `ERR_DMAPOOL_PCI_UNSUPPORTED`).
 *
 * Plain writes to memory are visible to the device before a later posted write arrives: write descriptors first, then
 * the doorbell. Between threads use `storeRelease32`.
 *
 * @example
 * ```ts
 * await using machine = await QemuMachine.start({ devices: [{ driver: 'edu', id: 'edu0' }] });
 * await using edu = await machine.open('edu0');
 * const dma: BarWindow = edu.bar(0).window(0x80, 0x20); // the registers of its DMA engine
 * dma.write64(0x10, 512); // the count, at 0x90 of the BAR
 * console.log(await dma.read64(0x10)); // 512n
 * ```
 */
export class BarWindow {
  /** Number of the BAR. */
  readonly index: number;
  /** Memory, or x86 port space. */
  readonly kind: 'memory' | 'io';
  /** Start of the window, in bytes from the start of the BAR. */
  readonly offset: number;
  /** Bytes of the window. */
  readonly size: number;
  readonly #owner: BarOwner;
  readonly #backend: PciBackend;

  /** @internal */
  constructor(owner: BarOwner, { index, kind }: Pick<BarInfo, 'index' | 'kind'>, offset: number, size: number) {
    this.#owner = owner;
    this.#backend = owner.backend;
    this.index = index;
    this.kind = kind;
    this.offset = offset;
    this.size = size;
  }

  /**
   * Returns a part of this window, with the same accesses. Offsets count from its start, and no access leaves it.
   *
   * @param offset Start of the part, in bytes from the start of this window: 0 to `size` - `length`.
   * @param length Bytes of the part, 1 to `size`.
   * @throws `DmaArgumentError` for a range that is not inside this window.
   *
   * @example
   * ```ts
   * await using machine = await QemuMachine.start({ devices: [{ driver: 'edu', id: 'edu0' }] });
   * await using edu = await machine.open('edu0');
   * const interrupts = edu.bar(0).window(0x60, 8); // raise at 0, acknowledge at 4
   * interrupts.write32(0, 1);
   * interrupts.write32(4, 1);
   * ```
   */
  window(offset: number, length: number): BarWindow {
    const check = (argument: string, value: unknown, low: number, high: number): void => {
      if (Number.isInteger(value) && (value as number) >= low && (value as number) <= high) return;
      const name = `${this.#backend.address}: ${argument} of a window of ${this.#name}`;
      throw new DmaArgumentError(name, value, `a whole number from ${String(low)} to ${hex(high)}`);
    };
    check('length', length, 1, this.size);
    check('offset', offset, 0, this.size - length);
    return new BarWindow(this.#owner, this, this.offset + offset, length);
  }

  /**
   * Reads 8 bits, unsigned, after all posted writes.
   *
   * @param offset Bytes from the start of the window, 0 to `size` - 1.
   * @throws `DmaArgumentError` for another offset.
   * @throws {@link PciGoneError} when the value and the vendor ID are all ones.
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_CLOSED` after the function was closed.
   * @throws the error of an earlier posted write.
   */
  read8(offset: number): Promise<number> {
    return this.#read(offset, 8);
  }

  /**
   * Reads 16 bits, unsigned.
   *
   * @param offset Bytes from the start of the window: a multiple of 2, 0 to `size` - 2.
   * @throws as {@link BarWindow.read8}.
   */
  read16(offset: number): Promise<number> {
    return this.#read(offset, 16);
  }

  /**
   * Reads 32 bits, unsigned.
   *
   * @param offset Bytes from the start of the window: a multiple of 4, 0 to `size` - 4.
   * @throws as {@link BarWindow.read8}.
   */
  read32(offset: number): Promise<number> {
    return this.#read(offset, 32);
  }

  /**
   * Reads 64 bits, unsigned, as a bigint. The backend may split the access into two.
   *
   * @param offset Bytes from the start of the window: a multiple of 8, 0 to `size` - 8.
   * @throws as {@link BarWindow.read8}, and {@link PciError} `ERR_DMAPOOL_PCI_UNSUPPORTED` for I/O ports.
   */
  async read64(offset: number): Promise<bigint> {
    this.#check(offset, 64);
    const value = await this.#backend.read64(this.index, this.offset + offset);
    if (value === MASK_64) await this.#owner.checkPresent();
    return value;
  }

  /**
   * Posts a write of 8 bits.
   *
   * @param offset Bytes from the start of the window, 0 to `size` - 1.
   * @param value A whole number from -128 to 255; negative numbers are two's complement.
   * @throws `DmaArgumentError` for another offset or value.
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_CLOSED` after the function was closed.
   */
  write8(offset: number, value: number): void {
    this.#write(offset, 8, value);
  }

  /**
   * Posts a write of 16 bits.
   *
   * @param offset Bytes from the start of the window: a multiple of 2, 0 to `size` - 2.
   * @param value A whole number from -32768 to 65535.
   * @throws as {@link BarWindow.write8}.
   */
  write16(offset: number, value: number): void {
    this.#write(offset, 16, value);
  }

  /**
   * Posts a write of 32 bits.
   *
   * @param offset Bytes from the start of the window: a multiple of 4, 0 to `size` - 4.
   * @param value A whole number from -2^31 to 2^32-1.
   * @throws as {@link BarWindow.write8}.
   */
  write32(offset: number, value: number): void {
    this.#write(offset, 32, value);
  }

  /**
   * Posts a write of 64 bits. The backend may split the access into two.
   *
   * @param offset Bytes from the start of the window: a multiple of 8, 0 to `size` - 8.
   * @param value A whole number from 0 to 2^53-1, such as a DMA address, or a bigint from 0 to 2^64-1.
   * @throws as {@link BarWindow.write8}, and {@link PciError} `ERR_DMAPOOL_PCI_UNSUPPORTED` for I/O ports.
   */
  write64(offset: number, value: number | bigint): void {
    this.#check(offset, 64);
    if (typeof value === 'bigint') {
      if (value < 0n || value > MASK_64) throw this.#wrongValue(value, 64, 'from 0 to 2^64-1');
      this.#backend.write64(this.index, this.offset + offset, value);
    } else {
      if (!Number.isSafeInteger(value) || value < 0) throw this.#wrongValue(value, 64, 'from 0 to 2^53-1, or a bigint');
      this.#backend.write64(this.index, this.offset + offset, BigInt(value));
    }
  }

  /**
   * Resolves when all writes posted so far, of the whole function, have reached the device; rejects if one failed. It
   * replaces a register read whose only purpose is to flush writes (PCI 3.0, 3.2.5).
   */
  async flush(): Promise<void> {
    this.#owner.guard();
    await this.#backend.flush();
  }

  async #read(offset: number, width: 8 | 16 | 32): Promise<number> {
    this.#check(offset, width);
    const value = await this.#backend.read(this.index, this.offset + offset, width);
    if (value === 2 ** width - 1) await this.#owner.checkPresent();
    return value;
  }

  #write(offset: number, width: 8 | 16 | 32, value: number): void {
    this.#check(offset, width);
    const range = 2 ** width;
    if (!Number.isInteger(value) || value < -range / 2 || value >= range) {
      throw this.#wrongValue(value, width, `from ${String(-range / 2)} to ${String(range - 1)}`);
    }
    this.#backend.write(this.index, this.offset + offset, width, value < 0 ? value + range : value);
  }

  /** For messages. */
  get #name(): string {
    const start = this.offset === 0 ? '' : ` from ${hex(this.offset)}`;
    return `BAR ${String(this.index)}${start}`;
  }

  #check(offset: number, width: AccessWidth): void {
    const bytes = width >> 3;
    if (!Number.isInteger(offset) || offset < 0 || offset > this.size - bytes || (this.offset + offset) % bytes !== 0) {
      throw this.#wrongOffset(offset, width, bytes);
    }
    if (width === 64 && this.kind === 'io') {
      throw new PciError(
        'ERR_DMAPOOL_PCI_UNSUPPORTED',
        this.#backend.address,
        `BAR ${String(this.index)} is an I/O region, which has no 64-bit accesses; use two of 32 bits`,
      );
    }
    this.#owner.guard();
  }

  #wrongOffset(offset: unknown, width: AccessWidth, bytes: number): DmaArgumentError {
    const range = `from 0 to ${hex(Math.max(0, this.size - bytes))} for ${String(width)} bits`;
    // A window may begin anywhere; the accesses of the bus are aligned.
    const multiple =
      this.offset % bytes === 0
        ? `a multiple of ${String(bytes)}`
        : `${String(this.offset % bytes)} less than a multiple of ${String(bytes)}`;
    return new DmaArgumentError(`${this.#backend.address}: ${this.#name} offset`, offset, `${multiple} ${range}`);
  }

  #wrongValue(value: unknown, width: AccessWidth, accepted: string): DmaArgumentError {
    const what = `${this.#backend.address}: ${this.#name} value of ${String(width)} bits`;
    return new DmaArgumentError(what, value, `a whole number ${accepted}`);
  }
}

/**
 * A register region of a function, decoded by one of its base address registers (PCI 3.0, 6.2.5).
 *
 * @example
 * ```ts
 * await using machine = await QemuMachine.start({ devices: [{ driver: 'edu', id: 'edu0' }] });
 * await using edu = await machine.open('edu0');
 * const registers = edu.bar(0);
 * registers.write32(0x08, 6); // starts the computation of 6!
 * await waitFor(async () => ((await registers.read32(0x20)) & 1) === 0, { timeout: 1000 }); // busy bit
 * console.log(await registers.read32(0x08)); // 720
 * ```
 */
export class Bar extends BarWindow implements BarInfo {
  readonly prefetchable: boolean;
  readonly is64: boolean;

  /** @internal */
  constructor(owner: BarOwner, info: BarInfo) {
    super(owner, info, 0, info.size);
    this.prefetchable = info.prefetchable;
    this.is64 = info.is64;
  }
}

/** Checks a BAR number. @internal */
export function checkBarIndex(index: number): void {
  checkInteger('bar', index, 0, 5);
}
