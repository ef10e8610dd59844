/** Registers of an EHCI controller. EHCI 1.0 ("Enhanced Host Controller Interface Specification"), chapter 2. */
import type { Bar } from 'dmapool/pci';
import { waitUntil } from '../common/time.ts';
import { UsbError } from './errors.ts';

/** Class code of an EHCI controller: serial bus controller, USB, programming interface 20h (2.1.2). */
export const EHCI_CLASS = 0x0c0320;

/** Offsets of the capability registers (2.2). The operational registers follow at offset CAPLENGTH. */
export const CAPABILITY = { length: 0x00, version: 0x02, structural: 0x04, parameters: 0x08 } as const;

/** HCSPARAMS (2.2.3). */
export const STRUCTURAL = { ports: 0xf, portPower: 0x10 } as const;

/** HCCPARAMS (2.2.4). */
export const PARAMETERS = { address64: 1, extendedShift: 8, extendedMask: 0xff } as const;

/** Offsets of the operational registers from CAPLENGTH (2.3). */
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
  /**
   * Interrupt on Async Advance Doorbell: requests {@link STATUS.asyncAdvance} once no unlinked queue head is cached.
   */
  doorbell: 0x40,
  /**
   * Interrupt threshold: at most one interrupt per 8 microframes (1 ms), the default after a reset. With 1 microframe
   * QEMU is five times slower: it treats a pending interrupt as a sign of more work and processes the schedule more
   * often.
   */
  threshold8: 0x0008_0000,
} as const;

/** USBSTS, and USBINTR for the bits that can interrupt (2.3.2, 2.3.3). */
export const STATUS = {
  transfer: 0x1,
  error: 0x2,
  portChange: 0x4,
  hostSystemError: 0x10,
  asyncAdvance: 0x20,
  halted: 0x1000,
  asyncActive: 0x8000,
} as const;

/** Enabled interrupts. Their status bits are cleared by writing ones. */
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
  /** A companion controller owns the port, for full-speed and low-speed devices. */
  owner: 0x2000,
} as const;

/** Change bits of PORTSC, cleared by writing ones. */
export const PORT_CHANGES: number = PORT.connectChange | PORT.enableChange | PORT.overcurrentChange;

/** Bits of PORTSC that act when written as 1. Other writes must set them to 0. */
export const PORT_COMMANDS: number = PORT_CHANGES | PORT.forceResume | PORT.suspend | PORT.reset;

/** USBLEGSUP, an extended capability in configuration space: ownership by the BIOS or the system (2.1.7). */
export const LEGACY = { id: 1, biosOwned: 0x0001_0000, systemOwned: 0x0100_0000, control: 4 } as const;

/** Access to the operational registers (2.3): writes are posted, reads awaited. */
export class OperationalRegisters {
  readonly #bar: Bar;
  readonly #base: number;
  readonly #name: string;
  /** Last value written to USBCMD, without the bits that the controller clears. */
  #command = 0;

  /** @param base CAPLENGTH, the offset of the operational registers. */
  constructor(bar: Bar, base: number, name: string) {
    this.#bar = bar;
    this.#base = base;
    this.#name = name;
  }

  /**
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_CONTROLLER` for all ones, which no register has: the controller did not
   *   respond, and a status bit in them proves nothing.
   */
  async read(offset: number): Promise<number> {
    const value = await this.#bar.read32(this.#base + offset);
    if (value !== 0xffff_ffff) return value;
    const what = `register 0x${(this.#base + offset).toString(16)} reads all ones`;
    throw new UsbError('ERR_DMAPOOL_USB_CONTROLLER', this.#name, what);
  }

  write(offset: number, value: number): void {
    this.#bar.write32(this.#base + offset, value);
  }

  /** Sets and clears bits of USBCMD. The bits keep their new values. */
  command(set: number, clear = 0): void {
    this.#command = (this.#command & ~clear) | set;
    this.write(REGISTER.command, this.#command);
  }

  /** Sets a bit of USBCMD that the controller clears. */
  ring(bit: number): void {
    this.write(REGISTER.command, this.#command | bit);
  }

  /** Resolves when all writes have reached the controller; rejects if one failed. */
  flush(): Promise<void> {
    return this.#bar.flush();
  }

  /**
   * Waits until the bits in `mask` equal `value`.
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_CONTROLLER` after `timeout` milliseconds.
   */
  async until(offset: number, mask: number, value: number, timeout: number, what: string): Promise<void> {
    if (await waitUntil(async () => ((await this.read(offset)) & mask) === value, timeout)) return;
    throw new UsbError('ERR_DMAPOOL_USB_CONTROLLER', this.#name, `no ${what} within ${String(timeout)} ms`);
  }
}
