/** Configuration space of a PCI function: PCI 3.0, chapter 6; extended: PCI Express 4.0, 7.2 and 7.6. */
import { checkInteger } from '../arguments.ts';
import { DmaArgumentError, hex } from '../errors.ts';
import type { PciBackend } from './backend.ts';
import { PciError, PciGoneError } from './error.ts';
import { CONVENTIONAL_CONFIG_SIZE, NO_VENDOR, PCI_CONFIG, PCI_STATUS } from './registers.ts';

/** The part of the backend that configuration space uses. @internal */
export type ConfigBackend = Pick<PciBackend, 'address' | 'configSize' | 'readConfig' | 'writeConfig'>;

/** Capabilities follow the header. */
const FIRST_CAPABILITY = 0x40;

/**
 * Configuration space: the registers that identify and control the function (PCI 3.0, 6.1; extended: PCI Express 4.0,
 * 7.2). Reads and writes are awaited: PCI does not post configuration writes (PCI 3.0, 3.2.5). Offsets are in bytes and
 * multiples of the width. `PCI_CONFIG` names the registers of every function.
 *
 * @example
 * ```ts
 * await using machine = await QemuMachine.start({ devices: [{ driver: 'edu', id: 'edu0' }] });
 * await using edu = await machine.open('edu0');
 * const command = await edu.config.read16(PCI_CONFIG.command);
 * console.log((command & PCI_COMMAND.memory) !== 0); // true: its registers are decoded
 * const msi = await edu.config.findCapability(PCI_CAPABILITY.msi);
 * if (msi !== null) console.log(`MSI at ${msi.offset}`); // MSI at 64
 * ```
 */
export class ConfigSpace {
  readonly #backend: ConfigBackend;
  readonly #guard: () => void;
  readonly #onCommand: ((command: number) => void) | undefined;

  /**
   * @internal
   * @param guard Throws after the function was closed.
   * @param onCommand Called with the low bits of the command register before each write of it.
   */
  constructor(backend: ConfigBackend, guard: () => void, onCommand?: (command: number) => void) {
    this.#backend = backend;
    this.#guard = guard;
    this.#onCommand = onCommand;
  }

  /** Bytes: 256, or 4096 where the backend reaches the extended space of PCI Express. */
  get size(): number {
    return this.#backend.configSize;
  }

  /**
   * Reads 8 bits, unsigned.
   *
   * @param offset In bytes, 0 to `size` - 1.
   * @throws `DmaArgumentError` for another offset.
   * @throws {@link PciGoneError} when the value and the vendor ID are all ones (PCI 3.0, 6.2.1).
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_CLOSED` after the function was closed.
   */
  read8(offset: number): Promise<number> {
    return this.#read(offset, 8);
  }

  /**
   * Reads 16 bits, unsigned.
   *
   * @param offset In bytes: a multiple of 2, 0 to `size` - 2.
   * @throws as {@link ConfigSpace.read8}.
   */
  read16(offset: number): Promise<number> {
    return this.#read(offset, 16);
  }

  /**
   * Reads 32 bits, unsigned.
   *
   * @param offset In bytes: a multiple of 4, 0 to `size` - 4.
   * @throws as {@link ConfigSpace.read8}.
   */
  read32(offset: number): Promise<number> {
    return this.#read(offset, 32);
  }

  /**
   * Writes 8 bits. Resolves when the function has received them. A write to an absent function has no effect, as on the
   * bus, until the backend detects the absence.
   *
   * @param offset In bytes, 0 to `size` - 1.
   * @param value A whole number from -128 to 255; negative numbers are two's complement.
   * @throws `DmaArgumentError` for another offset or value.
   * @throws {@link PciGoneError} when the backend has detected that the function was unplugged.
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_CLOSED` after the function was closed.
   */
  write8(offset: number, value: number): Promise<void> {
    return this.#write(offset, 8, value);
  }

  /**
   * Writes 16 bits.
   *
   * @param offset In bytes: a multiple of 2, 0 to `size` - 2.
   * @param value A whole number from -32768 to 65535.
   * @throws as {@link ConfigSpace.write8}.
   */
  write16(offset: number, value: number): Promise<void> {
    return this.#write(offset, 16, value);
  }

  /**
   * Writes 32 bits.
   *
   * @param offset In bytes: a multiple of 4, 0 to `size` - 4.
   * @param value A whole number from -2^31 to 2^32-1.
   * @throws as {@link ConfigSpace.write8}.
   */
  write32(offset: number, value: number): Promise<void> {
    return this.#write(offset, 32, value);
  }

  /**
   * Sets and clears bits of a 16-bit register and keeps the others. Writes only if the value changes. No other code may
   * write the register meanwhile. Not for write-1-to-clear registers, such as status (PCI 3.0, 6.2.3): it would clear
   * all bits that are set.
   *
   * @param offset In bytes: a multiple of 2, 0 to `size` - 2.
   * @param set Bits to set, 0 to 0xffff. They override `clear`.
   * @param clear Bits to clear, 0 to 0xffff.
   * @throws as {@link ConfigSpace.read8} and {@link ConfigSpace.write8}.
   */
  async update16(offset: number, set: number, clear = 0): Promise<void> {
    checkInteger('set', set, 0, 0xffff);
    checkInteger('clear', clear, 0, 0xffff);
    const old = await this.read16(offset);
    const value = (old & ~clear) | set;
    if (value !== old) await this.write16(offset, value);
  }

  /**
   * Returns the capabilities in list order (PCI 3.0, 6.7); empty if the status register reports no list (6.2.3). Each
   * reads and writes its own registers: see {@link PciCapability}.
   *
   * @throws {@link PciError} `ERR_DMAPOOL_PCI_PROTOCOL` for a list with a cycle, or one that points into the header.
   * @throws as {@link ConfigSpace.read8}.
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
      found.push(this.#capability(word & 0xff, offset, 0, CONVENTIONAL_CONFIG_SIZE));
      offset = (word >> 8) & 0xfc;
    }
    return found;
  }

  /**
   * Returns the extended capabilities in list order (PCI Express 4.0, 7.6.3); empty if the space has 256 bytes.
   *
   * @throws as {@link ConfigSpace.capabilities}.
   */
  async extendedCapabilities(): Promise<PciCapability[]> {
    const found: PciCapability[] = [];
    let offset = CONVENTIONAL_CONFIG_SIZE;
    while (offset !== 0 && this.size > CONVENTIONAL_CONFIG_SIZE) {
      if (offset < CONVENTIONAL_CONFIG_SIZE || found.some((earlier) => earlier.offset === offset)) {
        throw this.#brokenList(offset);
      }
      const header = await this.read32(offset);
      // An empty list has a first header of zeros. A function without extended space reads all ones.
      if (header === 0 || header === 0xffff_ffff) break;
      found.push(this.#capability(header & 0xffff, offset, (header >>> 16) & 0xf, this.size));
      offset = (header >>> 20) & 0xffc;
    }
    return found;
  }

  /**
   * Returns all capabilities with an ID, in list order: a function may have several (`vendorSpecific`).
   *
   * @param id 0 to 0xff; see `PCI_CAPABILITY`. Extended capabilities are not searched.
   * @throws `DmaArgumentError` for another ID. @throws as {@link ConfigSpace.capabilities}.
   *
   * @example
   * ```ts
   * await using machine = await QemuMachine.start({ devices: ['virtio-rng-pci,id=rng0'] });
   * await using rng = await machine.open('rng0');
   * for (const structure of await rng.config.findCapabilities(PCI_CAPABILITY.vendorSpecific)) {
   *   console.log(await structure.read8(3), await structure.read8(4)); // a virtio structure: its type and its BAR
   * }
   * ```
   */
  async findCapabilities(id: number): Promise<PciCapability[]> {
    checkInteger('id', id, 0, 0xff);
    return (await this.capabilities()).filter((capability) => capability.id === id);
  }

  /**
   * Returns the first capability with an ID, or null.
   *
   * @param id As for {@link ConfigSpace.findCapabilities}.
   * @throws as {@link ConfigSpace.findCapabilities}.
   */
  async findCapability(id: number): Promise<PciCapability | null> {
    return (await this.findCapabilities(id))[0] ?? null;
  }

  /** @param end End of the part of configuration space that holds capabilities of its kind, in bytes. */
  #capability(id: number, offset: number, version: number, end: number): PciCapability {
    return new PciCapability(this, this.#backend.address, { id, offset, version, end });
  }

  async #read(offset: number, width: 8 | 16 | 32): Promise<number> {
    this.#check(offset, width);
    const value = await this.#backend.readConfig(offset, width);
    if (value === 2 ** width - 1) await this.#checkPresent();
    return value;
  }

  async #write(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    this.#check(offset, width);
    checkInteger('value', value, -(2 ** (width - 1)), 2 ** width - 1);
    // The register is aligned to 4 bytes, so an access of any width that covers it starts there.
    if (offset === PCI_CONFIG.command) this.#onCommand?.(value);
    await this.#backend.writeConfig(offset, width, value < 0 ? value + 2 ** width : value);
  }

  /** Rejects when the function is absent. Called after a read of all ones. @internal */
  async checkPresent(): Promise<void> {
    await this.#checkPresent();
  }

  async #checkPresent(): Promise<void> {
    // The function may have been closed while the read was in progress.
    this.#guard();
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
      `its capability list has a cycle or an invalid offset: ${hex(offset)}`,
    );
  }
}

/**
 * A capability of a function, from {@link ConfigSpace.capabilities}. Its accesses are those of {@link ConfigSpace}, with
 * offsets from the start of the capability. Its length is not known: an access may reach to the end of configuration
 * space, of which a conventional capability is in the first 256 bytes.
 *
 * @example
 * ```ts
 * await using machine = await QemuMachine.start({ devices: [{ driver: 'edu', id: 'edu0' }] });
 * await using edu = await machine.open('edu0');
 * const msi = await edu.config.findCapability(PCI_CAPABILITY.msi);
 * console.log(((await msi?.read16(2)) ?? 0) & 1); // 0: MSI is disabled (Message Control)
 * ```
 */
export class PciCapability {
  /** Its ID; see `PCI_CAPABILITY`. */
  readonly id: number;
  /** Byte offset in configuration space. */
  readonly offset: number;
  /** Version of an extended capability; else 0. */
  readonly version: number;
  readonly #config: ConfigSpace;
  readonly #address: string;
  readonly #end: number;

  /** @internal */
  constructor(
    config: ConfigSpace,
    address: string,
    { id, offset, version, end }: Pick<PciCapability, 'id' | 'offset' | 'version'> & { readonly end: number },
  ) {
    this.#config = config;
    this.#address = address;
    this.id = id;
    this.offset = offset;
    this.version = version;
    this.#end = end;
  }

  /**
   * Reads 8 bits, unsigned.
   *
   * @param offset Bytes from the start of the capability, 0 up to the end of configuration space.
   * @throws as {@link ConfigSpace.read8}.
   */
  async read8(offset: number): Promise<number> {
    return this.#config.read8(this.#at(offset, 1));
  }

  /**
   * Reads 16 bits, unsigned.
   *
   * @param offset As for {@link PciCapability.read8}, and a multiple of 2.
   * @throws as {@link ConfigSpace.read8}.
   */
  async read16(offset: number): Promise<number> {
    return this.#config.read16(this.#at(offset, 2));
  }

  /**
   * Reads 32 bits, unsigned.
   *
   * @param offset As for {@link PciCapability.read8}, and a multiple of 4.
   * @throws as {@link ConfigSpace.read8}.
   */
  async read32(offset: number): Promise<number> {
    return this.#config.read32(this.#at(offset, 4));
  }

  /**
   * Writes 8 bits. Resolves when the function has received them.
   *
   * @param offset As for {@link PciCapability.read8}.
   * @param value A whole number from -128 to 255.
   * @throws as {@link ConfigSpace.write8}.
   */
  async write8(offset: number, value: number): Promise<void> {
    await this.#config.write8(this.#at(offset, 1), value);
  }

  /**
   * Writes 16 bits. Resolves when the function has received them.
   *
   * @param offset As for {@link PciCapability.read16}.
   * @param value A whole number from -32768 to 65535.
   * @throws as {@link ConfigSpace.write8}.
   */
  async write16(offset: number, value: number): Promise<void> {
    await this.#config.write16(this.#at(offset, 2), value);
  }

  /**
   * Writes 32 bits. Resolves when the function has received them.
   *
   * @param offset As for {@link PciCapability.read32}.
   * @param value A whole number from -2^31 to 2^32-1.
   * @throws as {@link ConfigSpace.write8}.
   */
  async write32(offset: number, value: number): Promise<void> {
    await this.#config.write32(this.#at(offset, 4), value);
  }

  /**
   * {@link ConfigSpace.update16} of a register of the capability.
   *
   * @param offset As for {@link PciCapability.read16}.
   * @param set Bits to set, 0 to 0xffff. They override `clear`.
   * @param clear Bits to clear, 0 to 0xffff.
   * @throws as {@link ConfigSpace.update16}.
   */
  async update16(offset: number, set: number, clear = 0): Promise<void> {
    await this.#config.update16(this.#at(offset, 2), set, clear);
  }

  /** Offset in configuration space. Capabilities are aligned to 4 bytes (PCI 3.0, 6.7). */
  #at(offset: number, bytes: number): number {
    const last = this.#end - this.offset - bytes;
    if (!Number.isInteger(offset) || offset < 0 || offset > last || offset % bytes !== 0) {
      const what = `${this.#address}: offset in the capability ${hex(this.id)} at ${hex(this.offset)}`;
      throw new DmaArgumentError(what, offset, `a multiple of ${String(bytes)} from 0 to ${hex(last)}`);
    }
    return this.offset + offset;
  }
}
