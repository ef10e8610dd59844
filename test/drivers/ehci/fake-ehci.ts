/** The registers of an EHCI controller that executes nothing: enough to start, to stop, and to read its ports. */
import type { RawConfigSpace } from 'dmapool/pci';
import { setTimeout as delay } from 'node:timers/promises';
import { FakeBackend } from '../../pci/fake-backend.ts';

/** Offset of the operational registers, and the registers that the tests check (EHCI 1.0, 2.3). */
export const OPERATIONAL = 0x20;
export const COMMAND: number = OPERATIONAL + 0x00;
export const STATUS: number = OPERATIONAL + 0x04;
export const SEGMENT: number = OPERATIONAL + 0x10;
export const PORT_1: number = OPERATIONAL + 0x44;
const HALTED = 0x1000;
const ASYNC_ADVANCE = 0x20;
const ASYNC_ACTIVE = 0x8000;
const PORT_CHANGED = 0x4;
const LEGACY = 0x68;
const BIOS_OWNED = 0x0001_0001;
const PORT = { changes: 0x2a, connectChange: 0x2, enabled: 0x4, reset: 0x100 } as const;
const PCI_COMMAND = 4;
const BUS_MASTER = 4;

export class FakeEhci extends FakeBackend {
  biosLetsGo = true;
  /** True: the reset never ends. */
  stuck = false;
  /** True: bus mastering cannot be switched off. */
  sticks = false;
  /** Number of doorbell writes. */
  doorbells = 0;
  /** True: each read of the port's register takes some milliseconds, and changes it with a change bit. */
  restless = false;
  /** Called before the controller starts to run. */
  onRun: () => void = () => undefined;
  /** Milliseconds that each reset of the port took. */
  readonly portResets: number[] = [];
  #resetBegan = 0;
  #reads = 0;
  readonly rawConfig: RawConfigSpace = {
    read: (offset, width) => super.readConfig(offset, width),
    write: async (offset, width, value) => {
      const kept = offset === PCI_COMMAND && this.sticks ? BUS_MASTER : 0;
      await super.writeConfig(offset, width, value | kept);
    },
  };

  constructor() {
    super();
    this.config.setUint32(8, 0x0c03_2010, true);
    this.config.setUint32(LEGACY, BIOS_OWNED, true);
    this.config.setUint32(LEGACY + 4, 0xe000_0011, true);
    this.registers.setUint8(0, OPERATIONAL);
    this.registers.setUint16(2, 0x0100, true);
    // Two ports with power switches; 64-bit addresses; the legacy capability.
    this.registers.setUint32(4, 0x12, true);
    this.registers.setUint32(8, (LEGACY << 8) | 1, true);
    this.registers.setUint32(STATUS, HALTED, true);
    this.registers.setUint32(SEGMENT, 0xdead, true);
  }

  get registers(): DataView {
    return this.regions.get(0)!;
  }

  get legacy(): number[] {
    return [this.config.getUint32(LEGACY, true), this.config.getUint32(LEGACY + 4, true)];
  }

  override async writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    await super.writeConfig(offset, width, value);
    if (offset === LEGACY && this.biosLetsGo) this.config.setUint32(LEGACY, 0x0100_0001, true);
  }

  override async read(bar: number, offset: number, width: 8 | 16 | 32): Promise<number> {
    const value = await super.read(bar, offset, width);
    if (offset !== PORT_1 || !this.restless) return value;
    this.registers.setUint32(PORT_1, this.registers.getUint32(PORT_1, true) | PORT.connectChange, true);
    this.registers.setUint32(STATUS, this.registers.getUint32(STATUS, true) | PORT_CHANGED, true);
    await delay(1 + ((++this.#reads * 7) % 11));
    return value;
  }

  override write(bar: number, offset: number, width: 8 | 16 | 32, value: number): void {
    const old = this.registers.getUint32(offset, true);
    if (offset === STATUS) {
      super.write(bar, offset, width, old & ~value);
    } else if (offset === COMMAND) {
      if ((value & 1) !== 0) this.onRun();
      super.write(bar, offset, width, this.stuck ? value : value & ~0x42);
      let status = (value & 1) === 0 && !this.stuck ? HALTED : 0;
      if ((value & 0x21) === 0x21) status |= ASYNC_ACTIVE;
      if ((value & 0x40) !== 0) {
        this.doorbells++;
        status |= ASYNC_ADVANCE;
      }
      this.registers.setUint32(STATUS, status, true);
    } else if (offset === PORT_1) {
      super.write(bar, offset, width, this.#port(old, value));
    } else {
      super.write(bar, offset, width, value);
    }
  }

  #port(old: number, value: number): number {
    const changes = old & PORT.changes & ~value;
    const began = (value & ~old & PORT.reset) !== 0;
    const ended = (old & ~value & PORT.reset) !== 0;
    if (began) this.#resetBegan = performance.now();
    if (ended) this.portResets.push(performance.now() - this.#resetBegan);
    return (value & ~PORT.changes) | changes | (ended ? PORT.enabled : 0);
  }
}
