/** Driver for an EHCI host controller: start-up, root ports, devices. EHCI 1.0, chapter 4. */
import { dmaBitMask, DmaArgumentError } from 'dmapool';
import { checkInteger, isInstance, type OptionNames, readOptions } from 'dmapool/arguments';
import { type InterruptOptions, type Interrupts, PciFunction } from 'dmapool/pci';
import { checkConstructorKey, CONSTRUCTOR_KEY } from '../common/arguments.ts';
import { closeInterrupts } from '../common/release.ts';
import { delay, waitUntil } from '../common/time.ts';
import type { UsbBuffer } from './buffer.ts';
import { type DeviceHost, MAX_TIMEOUT, UsbDevice } from './device.ts';
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

/** Options of `EhciController.open`. */
export interface EhciOptions {
  /** Default time limit of a transfer in milliseconds, 1 to 600,000. Default 5000. */
  readonly timeout?: number;
  /** Kinds of interrupts, and polling. Default: the best kind available, else polling every millisecond. */
  readonly interrupts?: InterruptOptions;
}

/** Options of `EhciController.connect`. */
export interface ConnectOptions {
  /** Root port number, from 1. Default: the first port with a device that is not connected yet. */
  readonly port?: number;
  /** Milliseconds to wait for a device to be plugged in, 0 to 600,000. Default 1000. */
  readonly wait?: number;
}

const OPTIONS: OptionNames<EhciOptions> = { timeout: true, interrupts: true };
const CONNECT_OPTIONS: OptionNames<ConnectOptions> = { port: true, wait: true };

/**
 * Time limit in milliseconds for register changes. The specification says microframes, or 2 ms (PORTSC, Port Reset,
 * 2.3.9); emulated controllers may be slow.
 */
const REGISTER_TIMEOUT = 1000;
/** Time limit in milliseconds for the BIOS to release the controller, as in Linux. */
const HANDOVER_TIMEOUT = 1000;
/** Milliseconds from port power on until the ports are usable, if they have power switches (PORTSC, Port Power, 2.3.9). */
const POWER_TIME = 20;
/** Debounce interval of a new connection in milliseconds (USB 2.0, 7.1.7.3). */
const DEBOUNCE_TIME = 100;
/** Duration of a root port reset, and of the recovery after it, in milliseconds (USB 2.0, 7.1.7.5). */
const RESET_TIME = 50;
const RESET_RECOVERY = 10;
/** Polling interval in milliseconds while waiting for a device. */
const CONNECT_INTERVAL = 10;
const MAX_ADDRESS = 127;

/**
 * Driver of one EHCI host controller and of the high-speed devices on its root ports.
 *
 * The driver supports control and bulk transfers (the asynchronous schedule) and one configuration per device. It does
 * not support hubs: QEMU's are full-speed devices, which need split transactions. All memory is below 4 GiB, as in
 * Linux, even if the controller supports 64-bit addresses. Full-speed and low-speed devices are handed to the companion
 * controller.
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
  /** Number of root ports; ports are numbered from 1. */
  readonly ports: number;
  /** Interface version in binary-coded decimal: 0x0100 for 1.0. */
  readonly version: number;
  readonly #pci: PciFunction;
  readonly #registers: OperationalRegisters;
  readonly #timeout: number;
  readonly #endClaim: () => void;
  #engine!: TransferEngine;
  readonly #attached = new Map<number, UsbDevice>();
  /** By port: the last queued change of its PORTSC. */
  readonly #portTurns = new Map<number, Promise<void>>();
  /** Ports being reset. */
  readonly #resetting = new Set<number>();
  /** Serializes `connect`: only one device at a time may have the default address (USB 2.0, 9.1.1.3). */
  #connecting: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | null = null;

  private constructor(
    key: symbol,
    pci: PciFunction,
    capabilities: Capabilities,
    timeout: number,
    endClaim: () => void,
  ) {
    checkConstructorKey(key, 'EhciController', 'EhciController.open()');
    this.#pci = pci;
    this.version = capabilities.version;
    this.ports = capabilities.ports;
    this.#registers = new OperationalRegisters(pci.bar(0), capabilities.length, pci.address);
    this.#timeout = timeout;
    this.#endClaim = endClaim;
  }

  /**
   * Takes over a controller from the BIOS, resets it and starts it (4.1).
   *
   * @param pci The open function of the controller. The caller closes it, after the driver.
   * @param options Time limit, interrupts.
   * @throws `DmaArgumentError` for a function of another class, or invalid options.
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_CONTROLLER` when the controller does not respond as specified.
   * @throws `PciError` `ERR_DMAPOOL_PCI_BUSY` when another driver has claimed the function; other `PciError`s.
   * @throws `DmaOutOfMemoryError` After any error all memory is released. If the controller can't be stopped, its memory
   *   and the claim of the function are kept until `pci.close()`, and the device's log reports it.
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
      controller = new EhciController(CONSTRUCTOR_KEY, pci, capabilities, timeout, endClaim);
      await controller.#takeOver(capabilities.extended);
      await controller.#start(capabilities, opened);
      return controller;
    } catch (error) {
      await closeInterrupts(opened, pci.address).catch(() => undefined);
      // Keep the claim while the memory is kept: another driver would enable DMA, and the controller may reach that memory.
      if (controller === null || !controller.#keepsMemory) endClaim();
      throw error;
    }
  }

  get #keepsMemory(): boolean {
    return (this.#engine as TransferEngine | undefined)?.keepsMemory === true;
  }

  /** Aborted when the controller has stopped. The reason is a {@link UsbError}: gone, failed or closed. */
  get ended(): AbortSignal {
    return this.#engine.ended;
  }

  /** The connected devices, in order of enumeration, without unplugged and closed ones. */
  get devices(): readonly UsbDevice[] {
    return [...this.#attached.values()].filter((device) => !device.removed.aborted);
  }

  /**
   * Allocates a buffer for transfers without a copy.
   * @param length Bytes, 0 to 4 MiB.
   * @throws `DmaOutOfMemoryError`
   * @throws {@link UsbError}
   */
  buffer(length: number): UsbBuffer {
    return this.#engine.buffer(length);
  }

  /**
   * Resets a port and enumerates the device on it.
   *
   * @param options Port, and time to wait for a device.
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_NO_DEVICE` when no device is plugged in in time, `ERR_DMAPOOL_USB_SPEED`
   *   when it is not a high-speed device, `ERR_DMAPOOL_USB_BUSY` when the device on the port is connected already;
   *   errors of transfers.
   * @throws `DmaOutOfMemoryError`
   */
  connect(options: ConnectOptions = {}): Promise<UsbDevice> {
    const connecting = this.#connecting.then(() => this.#connect(options));
    this.#connecting = connecting.catch(() => undefined);
    return connecting;
  }

  /**
   * Stops the controller and releases its memory. Transfers in flight fail with `ERR_DMAPOOL_USB_CLOSED`. The caller
   * must free its buffers first. It is safe to call `close` twice.
   *
   * @throws `PciError` `ERR_DMAPOOL_PCI_DMA_ACTIVE` when the controller can't be proven to have stopped. Its memory is
   *   kept, and the device's log reports it. A later `close` or `pci.close()` tries again.
   * @throws `DmaReleaseError` when releasing some of the memory failed; errors of closing the interrupts, such as
   *   `PciError` `ERR_DMAPOOL_PCI_TIMEOUT` after 10 seconds. The memory is released nevertheless.
   */
  close(): Promise<void> {
    return (this.#closing ??= this.#close().catch((error: unknown) => {
      if (this.#keepsMemory) this.#closing = null;
      throw error;
    }));
  }

  /** {@link EhciController.close}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    try {
      await this.#engine.close();
    } finally {
      if (!this.#keepsMemory) this.#endClaim();
    }
  }

  /**
   * BIOS hand-over through USBLEGSUP: requests ownership and waits until the BIOS releases the controller (2.1.7, 5.1).
   */
  async #takeOver(offset: number): Promise<void> {
    const { config } = this.#pci;
    const { id, biosOwned, systemOwned, control } = LEGACY;
    // Extended capabilities lie above the header. The number of steps is limited, since the list may be circular.
    for (let at = offset, steps = 0; at >= 0x40 && at % 4 === 0 && steps < 48; steps++) {
      const capability = await config.read32(at);
      if ((capability & 0xff) === id) {
        await config.write32(at, capability | systemOwned);
        if (!(await waitUntil(async () => ((await config.read32(at)) & biosOwned) === 0, HANDOVER_TIMEOUT))) {
          this.#pci.device.report(
            'warn',
            'EHCI hand-over',
            'the BIOS did not release the controller; taking ownership',
          );
          await config.write32(at, systemOwned);
        }
        // Disable system management interrupts.
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
    // Throws if the write failed. Without this, a reset that was never requested would look complete below.
    await registers.flush();
    await registers.until(REGISTER.command, COMMAND.reset, 0, REGISTER_TIMEOUT, 'end of the reset');
    this.#pci.device.setDmaMask(dmaBitMask(32));
    // Upper 32 bits of all addresses.
    if (address64) registers.write(REGISTER.segment, 0);
    this.#engine = new TransferEngine(this.#pci, registers, interrupts, () => this.#onPortChange());
    await this.#engine.start();
    this.ended.addEventListener('abort', () => {
      for (const device of this.devices) void device.end(this.ended.reason as UsbError);
    });
    try {
      // Route all ports to this controller, away from the companion controllers.
      registers.write(REGISTER.configured, 1);
      if (portPower) {
        for (let port = 1; port <= this.ports; port++) await this.#updatePort(port, PORT.power, 0);
        await delay(POWER_TIME);
      }
      await registers.flush();
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

  /** @returns The first port with a device that can be connected; 0 if there is none. */
  async #findDevice(wanted: number | undefined): Promise<number> {
    for (let port = wanted ?? 1; port <= (wanted ?? this.ports); port++) {
      const attached = this.#attached.get(port);
      // The device is gone or being closed: wait until it is closed.
      if (attached?.removed.aborted === true) await attached.close();
      else if (attached !== undefined) {
        if (wanted === undefined) continue;
        throw new UsbError('ERR_DMAPOOL_USB_BUSY', attached.name, 'the device is connected already; close it first');
      }
      const state = await this.#readPort(port);
      if ((state & PORT.connected) !== 0 && (state & PORT.owner) === 0) return port;
    }
    return 0;
  }

  /** Resets the port, determines the device's speed and assigns an address (4.2.2). */
  async #enumerate(port: number): Promise<UsbDevice> {
    await delay(DEBOUNCE_TIME);
    const before = await this.#readPort(port);
    const lowSpeed = (before & PORT.enabled) === 0 && (before & PORT.lineStatus) === PORT.lineStatusK;
    if (!lowSpeed) await this.#resetPort(port);
    const after = await this.#readPort(port);
    if ((after & PORT.connected) === 0) {
      throw new UsbError('ERR_DMAPOOL_USB_NO_DEVICE', this.#portName(port), 'the device was unplugged');
    }
    // A reset enables the port of a high-speed device only (PORTSC, 2.3.9). Others go to the companion controller.
    if ((after & PORT.enabled) === 0) {
      await this.#updatePort(port, PORT.owner, 0);
      const speed = lowSpeed ? 'low-speed' : 'full-speed';
      throw new UsbError(
        'ERR_DMAPOOL_USB_SPEED',
        this.#portName(port),
        `a ${speed} device; its port was handed to the companion controller`,
      );
    }
    const device = new UsbDevice(this.#hostOf(port), this.#freeAddress());
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
    // Queue no other PORTSC write until the reset has ended: each write includes the reset bit.
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
    // Clear the changes caused by the reset.
    await this.#updatePort(port, PORT_CHANGES, 0);
  }

  /** Handles a port change (4.15.2.1). */
  async #onPortChange(): Promise<void> {
    for (let port = 1; port <= this.ports; port++) {
      // Changes during a reset are checked after it.
      if (this.#resetting.has(port)) continue;
      const state = await this.#readPort(port);
      if (this.#engine.stopping) return;
      if ((state & PORT_CHANGES) !== 0 && !this.#resetting.has(port)) {
        await this.#updatePort(port, state & PORT_CHANGES, 0);
      }
      const device = this.#attached.get(port);
      if (device !== undefined && !isUnchanged(state)) void device.end(this.#goneError(port));
    }
  }

  #hostOf(port: number): DeviceHost {
    return {
      engine: this.#engine,
      name: this.#pci.address,
      port,
      timeout: this.#timeout,
      explain: async (error) => {
        try {
          const state = await this.#readPort(port);
          return isUnchanged(state) || this.#engine.stopping ? error : this.#goneError(port, error);
        } catch {
          return this.#goneError(port, error);
        }
      },
      onClosed: async (device) => {
        try {
          // Disable the port: a device that is still connected must not respond to an address that may be reused.
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
    // Skip addresses of devices that are being closed: their ports may still be enabled.
    const devices = [...this.#attached.values()];
    while (address < MAX_ADDRESS && devices.some((device) => device.address === address)) address++;
    return address;
  }

  #readPort(port: number): Promise<number> {
    return this.#registers.read(REGISTER.firstPort + 4 * (port - 1));
  }

  /** Sets and clears bits of PORTSC, after the changes queued before. */
  #updatePort(port: number, set: number, clear: number): Promise<void> {
    return this.#inPortTurn(port, () => this.#changePort(port, set, clear));
  }

  /** Runs read-modify-write accesses of one PORTSC one after another. */
  #inPortTurn(port: number, action: () => Promise<void>): Promise<void> {
    const turn = (this.#portTurns.get(port) ?? Promise.resolve()).then(action);
    this.#portTurns.set(
      port,
      turn.catch(() => undefined),
    );
    return turn;
  }

  /**
   * Sets and clears bits of PORTSC. Change bits and commands are written as 0 unless they are in `set`. Runs in the
   * port's turn.
   */
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

/** Capability registers of a controller (2.2). */
interface Capabilities {
  /** Offset of the operational registers in bytes. */
  readonly length: number;
  readonly version: number;
  readonly ports: number;
  readonly portPower: boolean;
  readonly address64: boolean;
  /** Offset of the first extended capability in configuration space; 0 if there is none. */
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
    const what = `${String(ports)} ports, operational registers at offset ${String(length)}`;
    throw new UsbError('ERR_DMAPOOL_USB_CONTROLLER', pci.address, `invalid capability registers: ${what}`);
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

/** @returns True if the port is enabled and has not changed: it still has the same device. */
function isUnchanged(state: number): boolean {
  const { connected, enabled, connectChange, enableChange } = PORT;
  return (state & (connected | enabled | connectChange | enableChange)) === (connected | enabled);
}
