/**
 * A function under guard that does nothing but DMA: a driver passes it addresses in registers, and it accesses them
 * until the driver takes them back or resets it. It has the resets of PCI, each of which may be slow, and MSI-X in a
 * BAR.
 */
import type { Grant, RelentlessDma } from '../guard/relentless-dma.ts';
import { FakeBackend, FakeInterrupts } from './fake-backend.ts';

/** Registers of BAR 0: bit 0 of the control register resets the device, and reads 1 until that is done. */
export const CONTROL = 0x00;
/** Slots of 16 bytes: address, length (its write starts the access), and done, which is written and read as 1. */
export const SLOTS = 0x100;
export const SLOT_COUNT = 16;
const LENGTH = 8;
const DONE = 12;
const MSIX_TABLE = 0x800;

const COMMAND = 4;
const BUS_MASTER = 4;
/** The other bits are reserved, and read 0 (PCI 3.0, 6.2.2). */
const COMMAND_BITS = 0x7ff;
const EXPRESS = 0x40;
const EXPRESS_CONTROL: number = EXPRESS + 8;
const EXPRESS_STATUS: number = EXPRESS + 10;
const PENDING = 0x20;
const INITIATE_FLR = 0x8000;
const ADVANCED = 0x80;
const ADVANCED_CONTROL: number = ADVANCED + 4;
const MSIX = 0xa0;
const MSIX_ENTRIES = 3;
const MSIX_ENABLE = 0x8000;

export type ResetKind = 'none' | 'express' | 'advanced';

export class GuardedFunction extends FakeBackend {
  readonly #dma: RelentlessDma;
  readonly #grants = new Map<number, Grant>();
  /** Milliseconds in which it reads all ones after a function-level reset. */
  readyTime = 0;
  /** Milliseconds of a reset by its register; `Infinity`: it never ends. */
  resetTime = 0;
  /** True: bus mastering cannot be switched off. */
  sticks = false;
  #isInReset = false;
  #resets = 0;

  constructor(dma: RelentlessDma, kind: ResetKind) {
    super();
    this.#dma = dma;
    this.interrupts = new FakeInterrupts('msix', 2);
    this.putCapabilities([0x10, EXPRESS], [0x13, ADVANCED], [0x11, MSIX]);
    this.config.setUint16(EXPRESS + 2, 2, true);
    this.config.setUint32(EXPRESS + 4, kind === 'express' ? 1 << 28 : 0, true);
    this.config.setUint16(EXPRESS_CONTROL, 0x10, true);
    this.config.setUint8(ADVANCED + 3, kind === 'advanced' ? 2 : 0);
    this.config.setUint16(MSIX + 2, MSIX_ENABLE | (MSIX_ENTRIES - 1), true);
    this.config.setUint32(MSIX + 4, MSIX_TABLE, true);
    this.config.setUint32(0x10, 0xfe00_0004, true);
    for (let at = 0; at < MSIX_ENTRIES * 16; at += 4) this.registers.setUint32(MSIX_TABLE + at, 0x1111_0000 + at, true);
  }

  get registers(): DataView {
    return this.regions.get(0)!;
  }

  get isBusMaster(): boolean {
    return (this.config.getUint16(COMMAND, true) & BUS_MASTER) !== 0;
  }

  /** The state that a reset clears and its owner has to restore: header, Device Control, MSI-X. */
  get state(): readonly number[] {
    const { config } = this;
    return [
      config.getUint32(0x10, true),
      config.getUint16(EXPRESS_CONTROL, true),
      config.getUint16(MSIX + 2, true),
      ...this.#msixTable(),
    ];
  }

  override readConfig(offset: number, width: 8 | 16 | 32): Promise<number> {
    return this.#isInReset ? Promise.resolve(2 ** width - 1) : super.readConfig(offset, width);
  }

  override async writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    if (this.#isInReset) return;
    if (offset === COMMAND) value &= COMMAND_BITS;
    if (offset === COMMAND && this.sticks && this.isBusMaster) value |= BUS_MASTER;
    const isFlr =
      (offset === EXPRESS_CONTROL && (value & INITIATE_FLR) !== 0 && this.config.getUint32(EXPRESS + 4, true) !== 0) ||
      (offset === ADVANCED_CONTROL && (value & 1) !== 0 && this.config.getUint8(ADVANCED + 3) !== 0);
    if (isFlr) this.#reset();
    else await super.writeConfig(offset, width, value);
  }

  #reset(): void {
    this.resetFunction();
    if (this.readyTime === 0) return;
    this.#isInReset = true;
    const reset = ++this.#resets;
    setTimeout(() => {
      if (reset === this.#resets) this.#isInReset = false;
    }, this.readyTime);
  }

  /** Clears all state and switches bus mastering off. */
  resetFunction(): void {
    const { config } = this;
    config.setUint16(COMMAND, 0, true);
    config.setUint32(0x10, 0, true);
    config.setUint16(EXPRESS_CONTROL, 0, true);
    config.setUint16(EXPRESS_STATUS, 0, true);
    config.setUint16(MSIX + 2, MSIX_ENTRIES - 1, true);
    for (let at = 0; at < 4096; at += 4) this.registers.setUint32(at, 0, true);
    this.#forget();
    this.#dma.proven();
  }

  /** A reset by its PCI backend, which restores MSI-X itself. */
  resetByBackend(): void {
    const control = this.config.getUint16(MSIX + 2, true);
    const table = this.#msixTable();
    this.resetFunction();
    this.config.setUint16(MSIX + 2, control, true);
    table.forEach((word, i) => {
      this.registers.setUint32(MSIX_TABLE + i * 4, word, true);
    });
  }

  #msixTable(): number[] {
    return Array.from({ length: MSIX_ENTRIES * 4 }, (_, i) => this.registers.getUint32(MSIX_TABLE + i * 4, true));
  }

  #forget(): void {
    this.#grants.clear();
    this.#dma.reset();
  }

  /** Number of milliseconds for which transactions stay pending. */
  pend(time: number): void {
    this.config.setUint16(EXPRESS_STATUS, PENDING, true);
    setTimeout(() => {
      this.config.setUint16(EXPRESS_STATUS, 0, true);
    }, time);
  }

  override write(bar: number, offset: number, width: 8 | 16 | 32, value: number): void {
    if (this.#isInReset) return;
    super.write(bar, offset, width, value);
    if (bar !== 0) return;
    if (offset === CONTROL && (value & 1) !== 0 && this.resetTime !== Infinity) {
      setTimeout(() => {
        this.#forget();
        this.registers.setUint32(CONTROL, 0, true);
      }, this.resetTime);
    }
    const slot = Math.floor((offset - SLOTS) / 16);
    if (slot < 0 || slot >= SLOT_COUNT) return;
    const at = SLOTS + slot * 16;
    if (offset === at + LENGTH) {
      this.registers.setUint32(at + DONE, 0, true);
      const address = Number(this.registers.getBigUint64(at, true));
      // A reset came between address and length.
      if (address !== 0) this.#grants.set(slot, this.#dma.learn(`slot ${String(slot)}`, address, value, 'both', true));
    } else if (offset === at + DONE) {
      const grant = this.#grants.get(slot);
      if (grant !== undefined) this.#dma.release(grant);
      this.#grants.delete(slot);
    }
  }

  override async read(bar: number, offset: number, width: 8 | 16 | 32): Promise<number> {
    return this.#isInReset ? 2 ** width - 1 : super.read(bar, offset, width);
  }
}
