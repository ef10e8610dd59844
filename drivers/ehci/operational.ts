import type { Bar } from 'dmapool/pci';
import { waitUntil } from '../common/time.ts';
import { UsbError } from './errors.ts';
import { REGISTER } from './registers.ts';

/** The operational registers (EHCI 1.0, 2.3): writes are posted, reads awaited. */
export class OperationalRegisters {
  readonly #bar: Bar;
  readonly #base: number;
  readonly #name: string;
  /** USBCMD as it was written last, without the bits that the controller clears by itself. */
  #command = 0;

  /** @param base CAPLENGTH: where they begin. */
  constructor(bar: Bar, base: number, name: string) {
    this.#bar = bar;
    this.#base = base;
    this.#name = name;
  }

  read(offset: number): Promise<number> {
    return this.#bar.read32(this.#base + offset);
  }

  write(offset: number, value: number): void {
    this.#bar.write32(this.#base + offset, value);
  }

  /** Sets bits of USBCMD and clears others; they stay so. */
  command(set: number, clear = 0): void {
    this.#command = (this.#command & ~clear) | set;
    this.write(REGISTER.command, this.#command);
  }

  /** Sets a bit of USBCMD that the controller clears by itself. */
  ring(bit: number): void {
    this.write(REGISTER.command, this.#command | bit);
  }

  /** Waits until the bits of `mask` read as `value`. @throws {@link UsbError} `ERR_DMAPOOL_USB_CONTROLLER` after `timeout` milliseconds. */
  async until(offset: number, mask: number, value: number, timeout: number, what: string): Promise<void> {
    if (await waitUntil(async () => ((await this.read(offset)) & mask) === value, timeout)) return;
    throw new UsbError('ERR_DMAPOOL_USB_CONTROLLER', this.#name, `no ${what} within ${String(timeout)} ms`);
  }
}
