/** A region of registers, as one of the function's base address registers decodes it (PCI 3.0, 6.2.5). */
import { checkInteger } from '../arguments.ts';
import { DmaArgumentError, hex } from '../errors.ts';
import type { AccessWidth, BarInfo, PciBackend } from './backend.ts';
import { PciError } from './error.ts';

const MASK_64 = 0xffff_ffff_ffff_ffffn;

/** What a BAR needs of its function. @internal */
export interface BarOwner {
  readonly backend: PciBackend;
  /** Throws when the function must not be used any more. */
  readonly guard: () => void;
  /** All ones were read: rejects when nobody is there. */
  readonly checkThere: () => Promise<void>;
}

/**
 * A function's registers: the region that one of its base address registers decodes (PCI 3.0, 6.2.5).
 *
 * - **Writes are posted** (PCI 3.0, 3.2.5; here also those to ports): they return at once, arrive at the device in the
 *   order of the calls, and before any later read. What goes wrong with one is told by the next awaited call.
 * - **Reads are awaited**, and do not overtake writes. A read of all ones is checked: if the function's vendor ID reads
 *   all ones too, it is gone, and the read is rejected with `PciGoneError`. Writes to a function that is gone vanish.
 * - Offsets are multiples of the access' width, and inside the region: all else is a `DmaArgumentError`, thrown at once
 *   by writes and by reads as a rejection. So is a value that does not fit; negative numbers, as bitwise operators give
 *   them, stand for their unsigned ones.
 * - A region of ports has no accesses of 64 bits (`PciError`, `ERR_DMAPOOL_PCI_UNSUPPORTED`).
 *
 * After memory was written for the device (descriptors), plain writes before a posted one are seen by the device when the
 * posted write arrives; between threads use `storeRelease32`.
 *
 * @example
 * ```ts
 * await using machine = await QemuMachine.start({ devices: [{ driver: 'edu', id: 'edu0' }] });
 * await using edu = await machine.open('edu0');
 * const registers = edu.bar(0);
 * registers.write32(0x08, 6); // the device begins to work out 6!
 * while (((await registers.read32(0x20)) & 1) !== 0); // its status: busy
 * console.log(await registers.read32(0x08)); // 720
 * ```
 */
export class Bar implements BarInfo {
  readonly index: number;
  readonly kind: 'memory' | 'io';
  readonly size: number;
  readonly prefetchable: boolean;
  readonly is64: boolean;
  readonly #owner: BarOwner;
  readonly #backend: PciBackend;

  /** @internal */
  constructor(owner: BarOwner, info: BarInfo) {
    this.#owner = owner;
    this.#backend = owner.backend;
    this.index = info.index;
    this.kind = info.kind;
    this.size = info.size;
    this.prefetchable = info.prefetchable;
    this.is64 = info.is64;
  }

  /**
   * Reads 8 bits, unsigned, after all posted writes.
   *
   * @param offset Bytes from the beginning of the region, 0 to `size` - 1.
   * @throws `DmaArgumentError` for another offset.
   * @throws {@link PciGoneError} when it reads all ones, and so does the vendor ID.
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_CLOSED` after the function was closed.
   * @throws what went wrong with a posted write before it.
   */
  read8(offset: number): Promise<number> {
    return this.#read(offset, 8);
  }

  /**
   * Reads 16 bits, unsigned.
   *
   * @param offset Bytes from the beginning of the region: a multiple of 2, 0 to `size` - 2.
   * @throws as {@link Bar.read8}.
   */
  read16(offset: number): Promise<number> {
    return this.#read(offset, 16);
  }

  /**
   * Reads 32 bits, unsigned.
   *
   * @param offset Bytes from the beginning of the region: a multiple of 4, 0 to `size` - 4.
   * @throws as {@link Bar.read8}.
   */
  read32(offset: number): Promise<number> {
    return this.#read(offset, 32);
  }

  /**
   * Reads 64 bits, unsigned; a bigint, since registers use bits beyond 2^53. Whether in one access is up to the home.
   *
   * @param offset Bytes from the beginning of the region: a multiple of 8, 0 to `size` - 8.
   * @throws as {@link Bar.read8}, and {@link PciError} `ERR_DMAPOOL_PCI_UNSUPPORTED` for a region of ports.
   */
  async read64(offset: number): Promise<bigint> {
    this.#check(offset, 64);
    const value = await this.#backend.read64(this.index, offset);
    if (value === MASK_64) await this.#owner.checkThere();
    return value;
  }

  /**
   * Posts a write of 8 bits.
   *
   * @param offset Bytes from the beginning of the region, 0 to `size` - 1.
   * @param value A whole number from -128 to 255; negative numbers stand for their two's complement.
   * @throws `DmaArgumentError` for another offset or value.
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_CLOSED` after the function was closed.
   */
  write8(offset: number, value: number): void {
    this.#write(offset, 8, value);
  }

  /**
   * Posts a write of 16 bits.
   *
   * @param offset Bytes from the beginning of the region: a multiple of 2, 0 to `size` - 2.
   * @param value A whole number from -32768 to 65535.
   * @throws as {@link Bar.write8}.
   */
  write16(offset: number, value: number): void {
    this.#write(offset, 16, value);
  }

  /**
   * Posts a write of 32 bits.
   *
   * @param offset Bytes from the beginning of the region: a multiple of 4, 0 to `size` - 4.
   * @param value A whole number from -2^31 to 2^32-1.
   * @throws as {@link Bar.write8}.
   */
  write32(offset: number, value: number): void {
    this.#write(offset, 32, value);
  }

  /**
   * Posts a write of 64 bits. Whether in one access is up to the home.
   *
   * @param offset Bytes from the beginning of the region: a multiple of 8, 0 to `size` - 8.
   * @param value A whole number from 0 to 2^53-1, such as a DMA address, or a bigint from 0 to 2^64-1.
   * @throws as {@link Bar.write8}, and {@link PciError} `ERR_DMAPOOL_PCI_UNSUPPORTED` for a region of ports.
   */
  write64(offset: number, value: number | bigint): void {
    this.#check(offset, 64);
    if (typeof value === 'bigint') {
      if (value < 0n || value > MASK_64) throw this.#wrongValue(value, 64, 'from 0 to 2^64-1');
      this.#backend.write64(this.index, offset, value);
    } else {
      if (!Number.isSafeInteger(value) || value < 0) throw this.#wrongValue(value, 64, 'from 0 to 2^53-1, or a bigint');
      this.#backend.write64(this.index, offset, BigInt(value));
    }
  }

  /**
   * Resolves when all writes posted so far, of the whole function, have arrived at the device; rejects if one failed. A
   * driver needs it where it would otherwise read a register only to be sure (PCI 3.0, 3.2.5).
   */
  async flush(): Promise<void> {
    this.#owner.guard();
    await this.#backend.flush();
  }

  async #read(offset: number, width: 8 | 16 | 32): Promise<number> {
    this.#check(offset, width);
    const value = await this.#backend.read(this.index, offset, width);
    if (value === 2 ** width - 1) await this.#owner.checkThere();
    return value;
  }

  #write(offset: number, width: 8 | 16 | 32, value: number): void {
    this.#check(offset, width);
    const range = 2 ** width;
    if (!Number.isInteger(value) || value < -range / 2 || value >= range) {
      throw this.#wrongValue(value, width, `from ${String(-range / 2)} to ${String(range - 1)}`);
    }
    this.#backend.write(this.index, offset, width, value < 0 ? value + range : value);
  }

  #check(offset: number, width: AccessWidth): void {
    const bytes = width >> 3;
    if (!Number.isInteger(offset) || offset < 0 || offset > this.size - bytes || offset % bytes !== 0) {
      throw new DmaArgumentError(
        `${this.#backend.address}: BAR ${String(this.index)} offset`,
        offset,
        `a multiple of ${String(bytes)} from 0 to ${hex(Math.max(0, this.size - bytes))} for ${String(width)} bits`,
      );
    }
    if (width === 64 && this.kind === 'io') {
      throw new PciError(
        'ERR_DMAPOOL_PCI_UNSUPPORTED',
        this.#backend.address,
        `BAR ${String(this.index)} is a region of ports, which has no accesses of 64 bits; use two of 32`,
      );
    }
    this.#owner.guard();
  }

  #wrongValue(value: unknown, width: AccessWidth, accepted: string): DmaArgumentError {
    const what = `${this.#backend.address}: BAR ${String(this.index)} value of ${String(width)} bits`;
    return new DmaArgumentError(what, value, `a whole number ${accepted}`);
  }
}

/** Checks a BAR number. @internal */
export function checkBarIndex(index: number): void {
  checkInteger('bar', index, 0, 5);
}
