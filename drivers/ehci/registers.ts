/** Names of an EHCI controller's registers and bits. EHCI 1.0 ("Enhanced Host Controller Interface Specification"), chapter 2. */
import type { Bar } from 'dmapool/pci';
import { waitUntil } from '../common/time.ts';
import { UsbError } from './errors.ts';

/** Class code of an EHCI controller: serial bus, USB, programming interface 20h (2.1.2). */
export const EHCI_CLASS = 0x0c0320;

/** Capability registers, from the start of the region (2.2). The operational ones begin `CAPLENGTH` bytes behind it. */
export const CAPABILITY = { length: 0x00, version: 0x02, structural: 0x04, parameters: 0x08 } as const;

/** HCSPARAMS (2.2.3). */
export const STRUCTURAL = { ports: 0xf, portPower: 0x10 } as const;

/** HCCPARAMS (2.2.4). */
export const PARAMETERS = { address64: 1, extendedShift: 8, extendedMask: 0xff } as const;

/** Operational registers, from their start (2.3). */
export const REGISTER = {
  command: 0x00,
  status: 0x04,
  interruptEnable: 0x08,
  segment: 0x10,
  asyncList: 0x18,
  configured: 0x40,
  firstPort: 0x44,
} as const;

/** USBCMD (2.3.1). */
export const COMMAND = {
  run: 0x1,
  reset: 0x2,
  asyncEnable: 0x20,
  /** Interrupt on Async Advance Doorbell: ask for {@link STATUS.asyncAdvance} once no unlinked queue head is cached. */
  doorbell: 0x40,
  /**
   * Interrupt threshold: at most one interrupt in 8 microframes, 1 ms, which is what a reset leaves. QEMU takes interrupts
   * that wait as a sign of more work and looks at the schedule more often: with 1 microframe it is five times slower.
   */
  threshold8: 0x0008_0000,
} as const;

/** USBSTS, and USBINTR for those that interrupt (2.3.2, 2.3.3). */
export const STATUS = {
  transfer: 0x1,
  error: 0x2,
  portChange: 0x4,
  hostSystemError: 0x10,
  asyncAdvance: 0x20,
  halted: 0x1000,
  asyncActive: 0x8000,
} as const;

/** What interrupts us; cleared by writing ones. */
export const INTERRUPTS: number = STATUS.transfer | STATUS.error | STATUS.portChange | STATUS.hostSystemError;

/** PORTSC (2.3.9). */
export const PORT = {
  connected: 0x1,
  connectChange: 0x2,
  enabled: 0x4,
  enableChange: 0x8,
  overcurrentChange: 0x20,
  forceResume: 0x40,
  suspend: 0x80,
  reset: 0x100,
  lineStatus: 0xc00,
  /** Line status of a low-speed device before its first reset. */
  lineStatusK: 0x400,
  power: 0x1000,
  /** The port is a companion controller's, for what is slower than high speed. */
  owner: 0x2000,
} as const;

/** Bits of PORTSC that are cleared by writing ones. */
export const PORT_CHANGES: number = PORT.connectChange | PORT.enableChange | PORT.overcurrentChange;

/** Bits of PORTSC that do something when ones are written, and so are written as zeros otherwise. */
export const PORT_COMMANDS: number = PORT_CHANGES | PORT.forceResume | PORT.suspend | PORT.reset;

/** USBLEGSUP, an extended capability in configuration space: who owns the controller, BIOS or system (2.1.7). */
export const LEGACY = { id: 1, biosOwned: 0x0001_0000, systemOwned: 0x0100_0000, control: 4 } as const;

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
