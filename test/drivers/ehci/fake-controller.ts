/**
 * An EHCI controller on a fake PCI function: {@link EhciModel} behind registers, configuration space and an interrupt.
 */
import type { InterruptKind } from 'dmapool/pci';
import { FakeBackend, FakeInterrupts } from '../../pci/fake-backend.ts';
import type { EhciModel } from './model-ehci.ts';

const COMMAND = 4;
const BUS_MASTER = 4;
/** The writable bits of the command register (PCI 3.0, 6.2.2). */
const COMMAND_BITS = 0x547;

export class FakeController extends FakeBackend {
  /** True: bus mastering cannot be switched off. */
  sticks = false;
  readonly model: EhciModel;

  /** @param kind Kind of its interrupt; null: it has none. */
  constructor(model: EhciModel, kind: InterruptKind | null = 'msi') {
    super();
    this.model = model;
    this.config.setUint32(8, 0x0c03_2010, true);
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
