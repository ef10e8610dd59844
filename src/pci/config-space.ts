/** The configuration space of a PCI function: PCI 3.0, chapter 6; extended: PCI Express 4.0, 7.2 and 7.6. */
import { checkInteger } from '../arguments.ts';
import { DmaArgumentError, hex } from '../errors.ts';
import type { PciBackend } from './backend.ts';
import { PciError, PciGoneError } from './error.ts';
import { CONVENTIONAL_CONFIG_SIZE, NO_VENDOR, PCI_CONFIG, PCI_STATUS } from './registers.ts';

/** One entry of a capability list. */
export interface PciCapability {
  /** Its ID; see `PCI_CAPABILITY`. */
  readonly id: number;
  /** Where it begins in configuration space, in bytes. */
  readonly offset: number;
  /** Version, of an extended capability; else 0. */
  readonly version: number;
}

/** Capabilities begin behind the header and are aligned to 4 bytes: no list can be longer than this. */
const FIRST_CAPABILITY = 0x40;

/**
 * Registers that describe and steer the function itself. Every access is awaited, also writes: PCI does not post them.
 * Offsets are multiples of the width.
 *
 * @example
 * ```ts
 * const machine = await QemuMachine.start({ devices: ['edu,id=edu0'] });
 * const edu = await machine.open('edu0');
 * const command = await edu.config.read16(PCI_CONFIG.command);
 * console.log((command & PCI_COMMAND.memory) !== 0); // true
 * const msi = await edu.config.findCapability(PCI_CAPABILITY.msi);
 * if (msi !== null) console.log(`MSI at ${msi.offset}`);
 * await machine.close();
 * ```
 */
export class ConfigSpace {
  readonly #backend: PciBackend;
  readonly #guard: () => void;

  /** @internal @param guard Throws when the function must not be used any more. */
  constructor(backend: PciBackend, guard: () => void) {
    this.#backend = backend;
    this.#guard = guard;
  }

  /** Bytes: 256, or 4096 where the home reaches the extended space of PCI Express. */
  get size(): number {
    return this.#backend.configSize;
  }

  /**
   * Reads the byte at `offset`.
   * @throws `DmaArgumentError` for an offset outside the space. @throws {@link PciGoneError}
   */
  read8(offset: number): Promise<number> {
    return this.#read(offset, 8);
  }

  /** Reads 16 bits at `offset`. @throws as {@link ConfigSpace.read8}, also for an offset that is not a multiple of 2. */
  read16(offset: number): Promise<number> {
    return this.#read(offset, 16);
  }

  /** Reads 32 bits at `offset`, unsigned. @throws as {@link ConfigSpace.read8}, also for an offset that is not a multiple of 4. */
  read32(offset: number): Promise<number> {
    return this.#read(offset, 32);
  }

  /** Writes `value`, a byte, at `offset`. @throws as {@link ConfigSpace.read8}, also for a value that does not fit. */
  write8(offset: number, value: number): Promise<void> {
    return this.#write(offset, 8, value);
  }

  /** Writes `value`, 16 bits, at `offset`. @throws as {@link ConfigSpace.read16}, also for a value that does not fit. */
  write16(offset: number, value: number): Promise<void> {
    return this.#write(offset, 16, value);
  }

  /** Writes `value`, 32 bits, at `offset`. @throws as {@link ConfigSpace.read32}, also for a value that does not fit. */
  write32(offset: number, value: number): Promise<void> {
    return this.#write(offset, 32, value);
  }

  /** Sets the bits `set` of the 16-bit register at `offset`, clears those of `clear`, and leaves the rest. */
  async update16(offset: number, set: number, clear = 0): Promise<void> {
    checkInteger('set', set, 0, 0xffff);
    checkInteger('clear', clear, 0, 0xffff);
    const old = await this.read16(offset);
    const value = (old & ~clear) | set;
    if (value !== old) await this.write16(offset, value);
  }

  /**
   * The capabilities, in the order of the function's list (PCI 3.0, 6.7).
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_PROTOCOL` for a list that runs in a circle or into the header.
   */
  async capabilities(): Promise<PciCapability[]> {
    const status = await this.read16(PCI_CONFIG.status);
    if ((status & PCI_STATUS.capabilities) === 0) return [];
    const found: PciCapability[] = [];
    // The two lowest bits are reserved (6.7).
    let offset = (await this.read8(PCI_CONFIG.capabilities)) & 0xfc;
    while (offset !== 0) {
      if (offset < FIRST_CAPABILITY || found.some((earlier) => earlier.offset === offset)) {
        throw this.#brokenList(offset);
      }
      const word = await this.read16(offset);
      found.push({ id: word & 0xff, offset, version: 0 });
      offset = (word >> 8) & 0xfc;
    }
    return found;
  }

  /** The extended capabilities (PCI Express 4.0, 7.6.3); none where the space has 256 bytes. @throws as {@link ConfigSpace.capabilities}. */
  async extendedCapabilities(): Promise<PciCapability[]> {
    const found: PciCapability[] = [];
    let offset = CONVENTIONAL_CONFIG_SIZE;
    while (offset !== 0 && this.size > CONVENTIONAL_CONFIG_SIZE) {
      if (offset < CONVENTIONAL_CONFIG_SIZE || found.some((earlier) => earlier.offset === offset)) {
        throw this.#brokenList(offset);
      }
      const header = await this.read32(offset);
      // An empty list is a first header of zeros; a function without the space reads all ones.
      if (header === 0 || header === 0xffff_ffff) break;
      found.push({ id: header & 0xffff, offset, version: (header >>> 16) & 0xf });
      offset = (header >>> 20) & 0xffc;
    }
    return found;
  }

  /** The first capability of `id`, or null. @throws as {@link ConfigSpace.capabilities}. */
  async findCapability(id: number): Promise<PciCapability | null> {
    checkInteger('id', id, 0, 0xff);
    return (await this.capabilities()).find((capability) => capability.id === id) ?? null;
  }

  async #read(offset: number, width: 8 | 16 | 32): Promise<number> {
    this.#check(offset, width);
    const value = await this.#backend.readConfig(offset, width);
    if (value === 2 ** width - 1) await this.#checkThere();
    return value;
  }

  async #write(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    this.#check(offset, width);
    checkInteger('value', value, -(2 ** (width - 1)), 2 ** width - 1);
    await this.#backend.writeConfig(offset, width, value < 0 ? value + 2 ** width : value);
  }

  /** All ones were read: is anybody there? @internal */
  async checkThere(): Promise<void> {
    await this.#checkThere();
  }

  async #checkThere(): Promise<void> {
    const vendor = await this.#backend.readConfig(PCI_CONFIG.vendorId, 16);
    if (vendor === NO_VENDOR) throw new PciGoneError(this.#backend.address, 'its vendor ID reads all ones');
  }

  #check(offset: number, width: 8 | 16 | 32): void {
    const bytes = width / 8;
    const last = this.size - bytes;
    if (!Number.isInteger(offset) || offset < 0 || offset > last || offset % bytes !== 0) {
      throw new DmaArgumentError(
        `${this.#backend.address}: config offset`,
        offset,
        `a multiple of ${String(bytes)} from 0 to ${hex(last)} for ${String(width)} bits`,
      );
    }
    this.#guard();
  }

  #brokenList(offset: number): PciError {
    return new PciError(
      'ERR_DMAPOOL_PCI_PROTOCOL',
      this.#backend.address,
      `its capability list leads to ${hex(offset)}, where it has been or where none can be`,
    );
  }
}
