/** An EHCI host controller: start-up, root ports, devices. EHCI 1.0, chapter 4. */
import { dmaBitMask, DmaArgumentError } from 'dmapool';
import { checkInteger, isInstance, type OptionNames, readOptions } from 'dmapool/arguments';
import { type InterruptOptions, type Interrupts, PciFunction } from 'dmapool/pci';
import { checkMaking, MAKING } from '../common/arguments.ts';
import { delay, waitUntil } from '../common/time.ts';
import type { UsbBuffer } from './buffer.ts';
import { type DeviceHome, MAX_TIMEOUT, UsbDevice } from './device.ts';
import { TransferEngine } from './engine.ts';
import { UsbError } from './errors.ts';
import {
  CAPABILITY,
  COMMAND,
  EHCI_CLASS,
  LEGACY,
  OperationalRegisters,
  PARAMETERS,
  PORT,
  PORT_CHANGES,
  PORT_COMMANDS,
  REGISTER,
  STATUS,
  STRUCTURAL,
} from './registers.ts';

/** How to open a controller. */
export interface EhciOptions {
  /** Milliseconds that a transfer may take unless it says otherwise, 1 to 10 minutes. Default 5000. */
  readonly timeout?: number;
  /** Which interrupts. Default: the best there are, else a look each millisecond. */
  readonly interrupts?: InterruptOptions;
}

/** How to connect to a device. */
export interface ConnectOptions {
  /** Number of the root port, from 1. Default: the first one with a device that is not in use. */
  readonly port?: number;
  /** Milliseconds to wait for a device to be plugged in, 0 to 10 minutes. Default 1000. */
  readonly wait?: number;
}

const OPTIONS: OptionNames<EhciOptions> = { timeout: true, interrupts: true };
const CONNECT_OPTIONS: OptionNames<ConnectOptions> = { port: true, wait: true };

/** Milliseconds for what the specification gives microframes, or 2 ms (PORTSC, Port Reset, 2.3.9); emulated controllers may be slow. */
const REGISTER_TIMEOUT = 1000;
/** Milliseconds that a BIOS gets to let go of the controller (as Linux has it). */
const HANDOVER_TIMEOUT = 1000;
/** Milliseconds after power is on, where ports have switches for it (PORTSC, Port Power, 2.3.9). */
const POWER_TIME = 20;
/** Milliseconds of a connection that does not bounce any more (USB 2.0, 7.1.7.3). */
const DEBOUNCE_TIME = 100;
/** Milliseconds of reset of a root port, and of recovery after it (USB 2.0, 7.1.7.5). */
const RESET_TIME = 50;
const RESET_RECOVERY = 10;
/** Milliseconds between looks for a device. */
const CONNECT_INTERVAL = 10;
const MAX_ADDRESS = 127;

/**
 * An EHCI host controller, and the high-speed devices on its root ports.
 *
 * Limits: control and bulk transfers (the asynchronous schedule) only; no hubs, which are full-speed devices in QEMU and
 * would need split transactions; one configuration a device; all memory below 4 GiB, also where the controller could
 * reach more, as Linux has it. Slower devices are given to the companion controller, which is somebody else's.
 *
 * @example
 * ```ts
 * const machine = await QemuMachine.start({
 *   drives: [{ id: 'disk0', file: 'null-co://' }],
 *   devices: ['usb-ehci,id=ehci', 'usb-storage,bus=ehci.0,drive=disk0'],
 * });
 * const pci = await machine.open('ehci');
 * const controller = await EhciController.open(pci);
 * const device = await controller.connect();
 * console.log(device.port, controller.ports); // 1 6
 * await controller.close();
 * await pci.close();
 * await machine.close();
 * ```
 */
export class EhciController {
  /** Root ports; they are numbered from 1. */
  readonly ports: number;
  /** Release of the interface in binary-coded decimal: 0x0100 for 1.0. */
  readonly version: number;
  readonly #pci: PciFunction;
  readonly #registers: OperationalRegisters;
  readonly #timeout: number;
  readonly #endClaim: () => void;
  #engine!: TransferEngine;
  readonly #attached = new Map<number, UsbDevice>();
  /** Ends of the changes of PORTSC, by port. */
  readonly #portTurns = new Map<number, Promise<void>>();
  /** Ports in reset. */
  readonly #resetting = new Set<number>();
  /** One port at a time is reset, for there is one default address (USB 2.0, 9.1.1.3). */
  #connecting: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | null = null;

  private constructor(
    key: symbol,
    pci: PciFunction,
    capabilities: Capabilities,
    timeout: number,
    endClaim: () => void,
  ) {
    checkMaking(key, 'EhciController', 'EhciController.open()');
    this.#pci = pci;
    this.version = capabilities.version;
    this.ports = capabilities.ports;
    this.#registers = new OperationalRegisters(pci.bar(0), capabilities.length, pci.address);
    this.#timeout = timeout;
    this.#endClaim = endClaim;
  }

  /**
   * Takes a controller over from the BIOS, resets and starts it (4.1).
   *
   * @param pci The controller, open. It stays the caller's to close, after the controller.
   * @param options Time-out, interrupts.
   * @throws `DmaArgumentError` for a function of another kind, or wrong options.
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_CONTROLLER` when it does not do what it is told.
   * @throws `PciError` `ERR_DMAPOOL_PCI_BUSY` when a driver has it already, which goes on; and others.
   * @throws `DmaOutOfMemoryError` After an error nothing is kept. Only when nothing stops the controller, its memory is kept
   *   until `pci.close()`, the device's log says so, and no other driver gets the function.
   */
  static async open(pci: PciFunction, options: EhciOptions = {}): Promise<EhciController> {
    if (!isInstance(pci, PciFunction) || pci.classCode !== EHCI_CLASS) {
      throw new DmaArgumentError('pci', pci, 'a PCI function of class 0c0320, an EHCI host controller');
    }
    const { timeout = 5000, interrupts = {} } = readOptions('options', options, OPTIONS);
    checkInteger('timeout', timeout, 1, MAX_TIMEOUT);
    const endClaim = pci.claim('EHCI');
    let opened: Interrupts | null = null;
    let controller: EhciController | null = null;
    try {
      opened = await pci.interrupts(interrupts);
      const capabilities = await readCapabilities(pci);
      controller = new EhciController(MAKING, pci, capabilities, timeout, endClaim);
      await controller.#takeOver(capabilities.extended);
      await controller.#start(capabilities, opened);
      return controller;
    } catch (error) {
      await opened?.close();
      // Another driver would switch on the DMA of a controller that may still reach what is kept.
      if (controller === null || !controller.#keepsMemory) endClaim();
      throw error;
    }
  }

  get #keepsMemory(): boolean {
    return (this.#engine as TransferEngine | undefined)?.keepsMemory === true;
  }

  /** Aborted when the controller stopped, with the {@link UsbError} that says why: gone, failed, closed. */
  get ended(): AbortSignal {
    return this.#engine.ended;
  }

  /** Its devices, in the order of their enumeration; those that were pulled out or closed are not among them. */
  get devices(): readonly UsbDevice[] {
    return [...this.#attached.values()].filter((device) => !device.removed.aborted);
  }

  /** Memory for transfers without a copy. @param length Bytes, 0 to 4 MiB. @throws `DmaOutOfMemoryError` @throws {@link UsbError} */
  buffer(length: number): UsbBuffer {
    return this.#engine.buffer(length);
  }

  /**
   * Resets a port and enumerates the device on it.
   *
   * @param options Which port, and how long to wait for a device.
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_NO_DEVICE` when none is plugged in in time, `ERR_DMAPOOL_USB_SPEED` when it is no
   *   high-speed one, `ERR_DMAPOOL_USB_BUSY` when the port's device is in use already, and what goes wrong in transfers.
   * @throws `DmaOutOfMemoryError`
   */
  connect(options: ConnectOptions = {}): Promise<UsbDevice> {
    const connecting = this.#connecting.then(() => this.#connect(options));
    this.#connecting = connecting.catch(() => undefined);
    return connecting;
  }

  /**
   * Stops the controller and gives its memory back; transfers under way fail with `ERR_DMAPOOL_USB_CLOSED`. Closing twice is
   * fine. Buffers of the caller's are to be freed first.
   *
   * @throws `PciError` `ERR_DMAPOOL_PCI_DMA_ACTIVE` when nothing proves that the controller stopped: its memory is kept, the
   *   device's log says so, and a later call tries again, as `pci.close()` does.
   * @throws `DmaReleaseError` when memory failed to go back.
   */
  close(): Promise<void> {
    return (this.#closing ??= this.#close().catch((error: unknown) => {
      this.#closing = null;
      throw error;
    }));
  }

  /** {@link EhciController.close}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    await this.#engine.close();
    this.#endClaim();
  }

  /** USBLEGSUP: the system asks for the controller, and waits until the BIOS lets go (2.1.7, 5.1). */
  async #takeOver(offset: number): Promise<void> {
    const { config } = this.#pci;
    const { id, biosOwned, systemOwned, control } = LEGACY;
    // Extended capabilities lie behind the header; a list that does not end is no list.
    for (let at = offset, steps = 0; at >= 0x40 && at % 4 === 0 && steps < 48; steps++) {
      const capability = await config.read32(at);
      if ((capability & 0xff) === id) {
        await config.write32(at, capability | systemOwned);
        if (!(await waitUntil(async () => ((await config.read32(at)) & biosOwned) === 0, HANDOVER_TIMEOUT))) {
          this.#pci.device.report('warn', 'EHCI hand-over', 'the BIOS does not let go of the controller; taking it');
          await config.write32(at, systemOwned);
        }
        // No more system management interrupts.
        await config.write32(at + control, 0);
      }
      at = (capability >>> 8) & 0xff;
    }
  }

  /** Controller initialization (4.1). */
  async #start({ portPower, address64 }: Capabilities, interrupts: Interrupts): Promise<void> {
    const registers = this.#registers;
    registers.command(0, COMMAND.run);
    await registers.until(REGISTER.status, STATUS.halted, STATUS.halted, REGISTER_TIMEOUT, 'halt');
    registers.ring(COMMAND.reset);
    // Reports a failed write here: without a reset, the bit below reads 0 too.
    await this.#pci.bar(0).flush();
    await registers.until(REGISTER.command, COMMAND.reset, 0, REGISTER_TIMEOUT, 'end of the reset');
    this.#pci.device.setDmaMask(dmaBitMask(32));
    // The upper halves of all addresses.
    if (address64) registers.write(REGISTER.segment, 0);
    this.#engine = new TransferEngine(this.#pci, registers, interrupts, () => this.#onPortChange());
    await this.#engine.start();
    this.ended.addEventListener('abort', () => {
      for (const device of this.devices) void device.end(this.ended.reason as UsbError);
    });
    try {
      // From now on the ports are ours, and not the companions'.
      registers.write(REGISTER.configured, 1);
      if (portPower) {
        for (let port = 1; port <= this.ports; port++) await this.#updatePort(port, PORT.power, 0);
        await delay(POWER_TIME);
      }
      await this.#pci.bar(0).flush();
    } catch (error) {
      await this.close().catch(() => undefined);
      throw error;
    }
  }

  async #connect(options: ConnectOptions): Promise<UsbDevice> {
    const { port, wait = 1000 } = readOptions('options', options, CONNECT_OPTIONS);
    if (port !== undefined) checkInteger('port', port, 1, this.ports);
    checkInteger('wait', wait, 0, MAX_TIMEOUT);
    let found = 0;
    const find = async (): Promise<boolean> => (found = await this.#findDevice(port)) !== 0;
    if (await waitUntil(find, wait, CONNECT_INTERVAL, this.ended)) return this.#enumerate(found);
    const where = port === undefined ? 'any port' : `port ${String(port)}`;
    throw new UsbError(
      'ERR_DMAPOOL_USB_NO_DEVICE',
      this.#pci.address,
      `no device on ${where} within ${String(wait)} ms`,
    );
  }

  /** The port on which there is a device to connect to; 0 for none. */
  async #findDevice(wanted: number | undefined): Promise<number> {
    for (let port = wanted ?? 1; port <= (wanted ?? this.ports); port++) {
      const attached = this.#attached.get(port);
      // It is on its way out.
      if (attached?.removed.aborted === true) await attached.close();
      else if (attached !== undefined) {
        if (wanted === undefined) continue;
        throw new UsbError('ERR_DMAPOOL_USB_BUSY', attached.name, 'it is connected already; close it first');
      }
      const state = await this.#readPort(port);
      if ((state & PORT.connected) !== 0 && (state & PORT.owner) === 0) return port;
    }
    return 0;
  }

  /** Resets the port, sees what speed the device has, and gives it an address (4.2.2). */
  async #enumerate(port: number): Promise<UsbDevice> {
    await delay(DEBOUNCE_TIME);
    const before = await this.#readPort(port);
    const lowSpeed = (before & PORT.enabled) === 0 && (before & PORT.lineStatus) === PORT.lineStatusK;
    if (!lowSpeed) await this.#resetPort(port);
    const after = await this.#readPort(port);
    if ((after & PORT.connected) === 0) {
      throw new UsbError('ERR_DMAPOOL_USB_NO_DEVICE', this.#portName(port), 'the device was pulled out');
    }
    // The reset enables the ports of high-speed devices only (PORTSC, 2.3.9); others go to the companion controller.
    if ((after & PORT.enabled) === 0) {
      await this.#updatePort(port, PORT.owner, 0);
      const speed = lowSpeed ? 'low-speed' : 'full-speed';
      throw new UsbError(
        'ERR_DMAPOOL_USB_SPEED',
        this.#portName(port),
        `a ${speed} device; its port was given to the companion`,
      );
    }
    const device = new UsbDevice(this.#homeOf(port), this.#freeAddress());
    this.#attached.set(port, device);
    try {
      await device.enumerate();
      return device;
    } catch (error) {
      await device.close();
      throw error;
    }
  }

  async #resetPort(port: number): Promise<void> {
    // No other change of the register from here to the end of the reset: each write of it has the reset's bit.
    this.#resetting.add(port);
    try {
      await this.#inPortTurn(port, async () => {
        await this.#changePort(port, PORT.reset, PORT.enabled);
        await delay(RESET_TIME);
        await this.#changePort(port, 0, PORT.reset);
        const offset = REGISTER.firstPort + 4 * (port - 1);
        await this.#registers.until(offset, PORT.reset, 0, REGISTER_TIMEOUT, 'end of the port reset');
      });
    } finally {
      this.#resetting.delete(port);
    }
    await delay(RESET_RECOVERY);
    // What changed until now is known.
    await this.#updatePort(port, PORT_CHANGES, 0);
  }

  /** The controller says that some port changed (4.15.2.1). */
  async #onPortChange(): Promise<void> {
    for (let port = 1; port <= this.ports; port++) {
      // What changes in a reset is looked at when it is over.
      if (this.#resetting.has(port)) continue;
      const state = await this.#readPort(port);
      if (this.#engine.stopping) return;
      if ((state & PORT_CHANGES) !== 0 && !this.#resetting.has(port)) {
        await this.#updatePort(port, state & PORT_CHANGES, 0);
      }
      const device = this.#attached.get(port);
      if (device !== undefined && !isThere(state)) void device.end(this.#goneError(port));
    }
  }

  #homeOf(port: number): DeviceHome {
    return {
      engine: this.#engine,
      name: this.#pci.address,
      port,
      timeout: this.#timeout,
      explain: async (error) => {
        try {
          const state = await this.#readPort(port);
          return isThere(state) || this.#engine.stopping ? error : this.#goneError(port, error);
        } catch {
          return this.#goneError(port, error);
        }
      },
      onClosed: async (device) => {
        try {
          // A device that is still there must not answer to an address that is another's.
          await this.#updatePort(port, 0, PORT.enabled);
        } catch {
          // The controller is gone.
        }
        if (this.#attached.get(port) === device) this.#attached.delete(port);
      },
    };
  }

  #freeAddress(): number {
    let address = 1;
    // Also of those that are on their way out: their ports may still be enabled.
    const devices = [...this.#attached.values()];
    while (address < MAX_ADDRESS && devices.some((device) => device.address === address)) address++;
    return address;
  }

  #readPort(port: number): Promise<number> {
    return this.#registers.read(REGISTER.firstPort + 4 * (port - 1));
  }

  /** Sets and clears bits of PORTSC, after the changes that were asked for before. */
  #updatePort(port: number, set: number, clear: number): Promise<void> {
    return this.#inPortTurn(port, () => this.#changePort(port, set, clear));
  }

  /** One change of a port's register at a time: each is a read and a write. */
  #inPortTurn(port: number, action: () => Promise<void>): Promise<void> {
    const turn = (this.#portTurns.get(port) ?? Promise.resolve()).then(action);
    this.#portTurns.set(
      port,
      turn.catch(() => undefined),
    );
    return turn;
  }

  /** Change bits are only cleared, and resets only begun, when they are in `set`. In the port's turn. */
  async #changePort(port: number, set: number, clear: number): Promise<void> {
    const old = await this.#readPort(port);
    this.#registers.write(REGISTER.firstPort + 4 * (port - 1), (old & ~PORT_COMMANDS & ~clear) | set);
  }

  #goneError(port: number, cause?: unknown): UsbError {
    return new UsbError('ERR_DMAPOOL_USB_GONE', this.#portName(port), 'the device is gone', { cause });
  }

  #portName(port: number): string {
    return `${this.#pci.address} port ${String(port)}`;
  }
}

/** What a controller says of itself (2.2). */
interface Capabilities {
  /** Bytes from the beginning of the registers to the operational ones. */
  readonly length: number;
  readonly version: number;
  readonly ports: number;
  readonly portPower: boolean;
  readonly address64: boolean;
  /** Where the extended capabilities begin in configuration space; 0: there are none. */
  readonly extended: number;
}

/** @throws {@link UsbError} `ERR_DMAPOOL_USB_CONTROLLER` */
async function readCapabilities(pci: PciFunction): Promise<Capabilities> {
  const bar = pci.bar(0);
  const length = await bar.read8(CAPABILITY.length);
  const version = await bar.read16(CAPABILITY.version);
  const structural = await bar.read32(CAPABILITY.structural);
  const parameters = await bar.read32(CAPABILITY.parameters);
  const ports = structural & STRUCTURAL.ports;
  if (length % 4 !== 0 || length + REGISTER.firstPort + 4 * ports > bar.size || ports === 0) {
    const what = `${String(ports)} ports, and registers at ${String(length)}`;
    throw new UsbError('ERR_DMAPOOL_USB_CONTROLLER', pci.address, `its capability registers make no sense: ${what}`);
  }
  return {
    length,
    version,
    ports,
    portPower: (structural & STRUCTURAL.portPower) !== 0,
    address64: (parameters & PARAMETERS.address64) !== 0,
    extended: (parameters >> PARAMETERS.extendedShift) & PARAMETERS.extendedMask,
  };
}

/** A device on an enabled port stays the same one as long as nothing changes. */
function isThere(state: number): boolean {
  const { connected, enabled, connectChange, enableChange } = PORT;
  return (state & (connected | enabled | connectChange | enableChange)) === (connected | enabled);
}
