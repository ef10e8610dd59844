/** A device model on a fake PCI function: registers, configuration space and one interrupt. */
import type { InterruptKind } from 'dmapool/pci';
import { FakeBackend, FakeInterrupts } from '../pci/fake-backend.ts';

const COMMAND = 4;
const BUS_MASTER = 4;
/** The writable bits of the command register (PCI 3.0, 6.2.2). */
const COMMAND_BITS = 0x547;

/** The registers of a device, and its part of the interrupt. */
export interface DeviceModel {
  /** The device asserts its interrupt. */
  readonly interrupting: boolean;
  onInterrupt: () => void;
  read(offset: number, width: number): number;
  write(offset: number, value: number): void;
  /** The function was reset. */
  reset(): void;
  /** Configuration space was written. */
  wake(): void;
}

export class ModelFunction<M extends DeviceModel> extends FakeBackend {
  /** True: bus mastering cannot be switched off. */
  sticks = false;
  readonly model: M;

  /** @param kind Kind of its interrupt; null: it has none. */
  constructor(model: M, kind: InterruptKind | null) {
    super();
    this.model = model;
    if (kind === null) return;
    const interrupts = new FakeInterrupts(kind);
    this.interrupts = interrupts;
    interrupts.rearmed = () => Promise.resolve(interrupts.level && model.interrupting);
    model.onInterrupt = () => {
      interrupts.fire(0);
    };
  }

  isBusMaster(): boolean {
    return (this.config.getUint16(COMMAND, true) & BUS_MASTER) !== 0;
  }

  override async writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    const isCommand = offset === COMMAND;
    const kept = isCommand && this.sticks && this.isBusMaster() ? BUS_MASTER : 0;
    await super.writeConfig(offset, width, isCommand ? (value & COMMAND_BITS) | kept : value);
    this.model.wake();
  }

  override read(_bar: number, offset: number, width: 8 | 16 | 32): Promise<number> {
    return Promise.resolve(this.model.read(offset, width));
  }

  override write(_bar: number, offset: number, _width: number, value: number): void {
    this.model.write(offset, value);
  }

  /** A function reset. */
  resetFunction(): void {
    this.config.setUint16(COMMAND, 0, true);
    this.model.reset();
  }
}
