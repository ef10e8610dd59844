/** A USB device: address, descriptors, transfers. USB 2.0, chapters 8 and 9. */
import { DmaArgumentError } from 'dmapool';
import { checkBytes, checkInteger, type OptionNames, readOptions } from 'dmapool/arguments';
import { delay } from '../common/time.ts';
import { MAX_BUFFER, type UsbBuffer } from './buffer.ts';
import {
  CONFIGURATION_LENGTH,
  type ConfigurationDescriptor,
  DESCRIPTOR,
  type DeviceDescriptor,
  type EndpointDescriptor,
  parseConfiguration,
  parseDevice,
  parseLanguages,
  parseString,
  totalLength,
} from './descriptors.ts';
import type { TransferEngine } from './engine.ts';
import { UsbError } from './errors.ts';
import type { EndpointQueue } from './queue.ts';
import { PID } from './structures.ts';

/** Setup of a control transfer, as in WebUSB. */
export interface ControlSetup {
  /** Type of the request. */
  readonly requestType: 'standard' | 'class' | 'vendor';
  /** Recipient of the request. */
  readonly recipient: 'device' | 'interface' | 'endpoint' | 'other';
  /** Request code, 0 to 255. */
  readonly request: number;
  /** Value, 0 to 65535; its meaning depends on the request. */
  readonly value: number;
  /** Index, 0 to 65535; often the number of an interface or endpoint. */
  readonly index: number;
}

/** Options of one transfer. */
export interface TransferOptions {
  /** Time limit in milliseconds, 1 to 600,000, checked every 100 ms. Default: the controller's. */
  readonly timeout?: number;
}

const TRANSFER_OPTIONS: OptionNames<TransferOptions> = { timeout: true };
const ENDPOINT: OptionNames<EndpointDescriptor> = {
  address: true,
  number: true,
  direction: true,
  type: true,
  packetSize: true,
  interval: true,
};
const SETUP: OptionNames<ControlSetup> = {
  requestType: true,
  recipient: true,
  request: true,
  value: true,
  index: true,
};

/** The controller, as seen by a device. @internal */
export interface DeviceHost {
  readonly engine: TransferEngine;
  readonly name: string;
  readonly port: number;
  readonly timeout: number;
  /** Finds the cause of a failed transaction: the device may be gone. */
  readonly explain: (error: UsbError) => Promise<UsbError>;
  /** Called when the driver no longer uses the device. Disables its port and frees its address. */
  readonly onClosed: (device: UsbDevice) => Promise<void>;
}

/** Standard requests (USB 2.0, table 9-4). */
const REQUEST = { clearFeature: 1, setAddress: 5, getDescriptor: 6, setConfiguration: 9 } as const;
const ENDPOINT_HALT = 0;
const REQUEST_TYPES = ['standard', 'class', 'vendor'] as const;
const RECIPIENTS = ['device', 'interface', 'endpoint', 'other'] as const;
/** Maximum packet size of endpoint 0 at high speed (5.5.3). */
const CONTROL_PACKET = 64;
/** Maximum packet size of bulk endpoints at high speed (5.8.3). */
const BULK_PACKET = 512;
const MAX_CONTROL_LENGTH = 0xffff;
const STRING_LENGTH = 255;
/** Milliseconds until a device responds at its new address (9.2.6.3). */
const ADDRESS_RECOVERY = 2;
export const MAX_TIMEOUT = 600_000;

/**
 * An enumerated device, with an address and its first configuration. Returned by `EhciController.connect()`.
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
 * console.log(await device.string(device.descriptor.productIndex)); // QEMU USB HARDDRIVE
 * await controller.close();
 * await machine.close();
 * ```
 */
export class UsbDevice {
  /** Root port number, from 1. */
  readonly port: number;
  /** USB address, 1 to 127. */
  readonly address: number;
  readonly #host: DeviceHost;
  readonly #queues = new Set<EndpointQueue>();
  readonly #open = new Set<number>();
  readonly #removed = new AbortController();
  #control!: EndpointQueue;
  #descriptor!: DeviceDescriptor;
  #configuration!: ConfigurationDescriptor;
  #closing: Promise<void> | null = null;

  /** @internal */
  constructor(host: DeviceHost, address: number) {
    this.#host = host;
    this.port = host.port;
    this.address = address;
  }

  /** Takes a device from the default state, just after its reset, to the configured state (9.1.1). @internal */
  async enumerate(): Promise<void> {
    this.#control = await this.#openQueue(0, 0, true);
    await this.#standardOut(REQUEST.setAddress, this.address, 0);
    const addressed = this.#control;
    await addressed.close(this.#closedError());
    this.#queues.delete(addressed);
    await delay(ADDRESS_RECOVERY);
    this.#control = await this.#openQueue(this.address, 0, true);
    this.#descriptor = parseDevice(await this.#getDescriptor(DESCRIPTOR.device, 0, 0, 18), this.name);
    const head = await this.#getDescriptor(DESCRIPTOR.configuration, 0, 0, CONFIGURATION_LENGTH);
    const whole = await this.#getDescriptor(DESCRIPTOR.configuration, 0, 0, totalLength(head, this.name));
    this.#configuration = parseConfiguration(whole, this.name);
    await this.#standardOut(REQUEST.setConfiguration, this.#configuration.value, 0);
  }

  /** Name for messages: controller, port and address. */
  get name(): string {
    return `${this.#host.name} port ${String(this.port)} device ${String(this.address)}`;
  }

  /** The device descriptor. */
  get descriptor(): DeviceDescriptor {
    return this.#descriptor;
  }

  /** The current configuration: its first one. */
  get configuration(): ConfigurationDescriptor {
    return this.#configuration;
  }

  /** Aborted when the device or its controller is unplugged, fails or is closed. The reason is a {@link UsbError}. */
  get removed(): AbortSignal {
    return this.#removed.signal;
  }

  /**
   * Allocates a buffer for transfers without a copy.
   * @param length Bytes, 0 to 4 MiB.
   * @throws `DmaOutOfMemoryError`
   * @throws {@link UsbError}
   */
  buffer(length: number): UsbBuffer {
    this.removed.throwIfAborted();
    return this.#host.engine.buffer(length);
  }

  /**
   * Reads a string descriptor in the device's first language.
   * @param index Index of the string, 0 to 255, from another descriptor. 0 means no string.
   * @returns The text; empty for index 0.
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_STALL` when the device has no such string.
   */
  async string(index: number): Promise<string> {
    checkInteger('index', index, 0, 255);
    if (index === 0) return '';
    const languages = parseLanguages(await this.#getDescriptor(DESCRIPTOR.string, 0, 0, STRING_LENGTH), this.name);
    return parseString(
      await this.#getDescriptor(DESCRIPTOR.string, index, languages[0] ?? 0, STRING_LENGTH),
      this.name,
    );
  }

  /**
   * Control transfer from the device to the host (8.5.3).
   * @param setup The request.
   * @param length Maximum bytes to receive, 0 to 65535.
   * @param options Time limit.
   * @returns The received bytes; the device may send fewer than `length`.
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_STALL` when the device rejects the request. The next request clears the
   *   stall (8.5.3.4).
   */
  async controlIn(setup: ControlSetup, length: number, options: TransferOptions = {}): Promise<Uint8Array> {
    checkInteger('length', length, 0, MAX_CONTROL_LENGTH);
    const packet = setupPacket(setup, true, length);
    const timeout = this.timeoutOf(options);
    using buffer = this.buffer(length);
    const moved = await this.#control.run({ setup: packet, pid: PID.in, buffer, length, timeout });
    const bytes = new Uint8Array(moved);
    buffer.copyTo(bytes);
    return bytes;
  }

  /**
   * Control transfer from the host to the device.
   * @param setup The request.
   * @param bytes Data, at most 65535 bytes. Default: none.
   * @param options Time limit.
   * @throws as {@link UsbDevice.controlIn}
   */
  async controlOut(setup: ControlSetup, bytes: Uint8Array = NO_BYTES, options: TransferOptions = {}): Promise<void> {
    checkBytes('bytes', bytes, 0, MAX_CONTROL_LENGTH);
    const { length } = bytes;
    const packet = setupPacket(setup, false, length);
    const timeout = this.timeoutOf(options);
    using buffer = this.buffer(length);
    buffer.set(bytes);
    await this.#control.run({ setup: packet, pid: PID.out, buffer, length, timeout });
  }

  /**
   * Opens a bulk endpoint.
   * @param endpoint An endpoint of {@link UsbDevice.configuration}.
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_UNSUPPORTED` when it is not a high-speed bulk endpoint,
   *   `ERR_DMAPOOL_USB_BUSY` when it is open.
   * @throws `DmaOutOfMemoryError`
   */
  async openBulk(endpoint: EndpointDescriptor): Promise<BulkPipe> {
    const checked = readOptions('endpoint', endpoint, ENDPOINT);
    const { type, packetSize, address, number, direction } = checked;
    checkInteger('endpoint.number', number, 0, 15);
    checkInteger('endpoint.address', address, 0, 0xff);
    checkInteger('endpoint.packetSize', packetSize, 0, 0xffff);
    if (direction !== 'in' && direction !== 'out') {
      throw new DmaArgumentError('endpoint.direction', direction, 'in or out');
    }
    if (typeof type !== 'string') throw new DmaArgumentError('endpoint.type', type, 'the type of an endpoint');
    const name = `${this.name} endpoint ${String(number)} ${direction}`;
    if (type !== 'bulk' || packetSize !== BULK_PACKET || number === 0) {
      throw new UsbError(
        'ERR_DMAPOOL_USB_UNSUPPORTED',
        name,
        `not a high-speed bulk endpoint: ${type}, packets of ${String(packetSize)} bytes`,
      );
    }
    if (this.#open.has(address)) throw new UsbError('ERR_DMAPOOL_USB_BUSY', name, 'the endpoint is open already');
    this.#open.add(address);
    try {
      const queue = await this.#openQueue(this.address, number, false, name);
      return new BulkPipe(this, checked, queue, async () => {
        await queue.close(new UsbError('ERR_DMAPOOL_USB_CLOSED', name, 'the pipe was closed'));
        this.#queues.delete(queue);
        this.#open.delete(address);
      });
    } catch (error) {
      this.#open.delete(address);
      throw error;
    }
  }

  /** Clears the halt of an endpoint in the device (CLEAR_FEATURE, 9.4.1). @internal */
  async clearHalt(endpoint: EndpointDescriptor): Promise<void> {
    const { clearFeature } = REQUEST;
    const setup = {
      requestType: 'standard',
      recipient: 'endpoint',
      request: clearFeature,
      value: ENDPOINT_HALT,
    } as const;
    await this.controlOut({ ...setup, index: endpoint.address });
  }

  /** Ends the use of the device: its transfers fail and its port is disabled. It is safe to call `close` twice. */
  close(): Promise<void> {
    return this.end(this.#closedError());
  }

  /** {@link UsbDevice.close}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Closes the device with `error` as the reason. @internal */
  end(error: UsbError): Promise<void> {
    return (this.#closing ??= this.#end(error));
  }

  /** @throws `DmaArgumentError` unless `value` is a buffer of the device's controller. @internal */
  checkBuffer(value: UsbBuffer): void {
    this.#host.engine.checkBuffer(value);
  }

  /** Checks the options. @returns The time limit in milliseconds. @internal */
  timeoutOf(options: TransferOptions): number {
    const { timeout = this.#host.timeout } = readOptions('options', options, TRANSFER_OPTIONS);
    checkInteger('timeout', timeout, 1, MAX_TIMEOUT);
    return timeout;
  }

  async #end(error: UsbError): Promise<void> {
    this.#removed.abort(error);
    await Promise.all([...this.#queues].map((queue) => queue.close(error)));
    await this.#host.onClosed(this);
  }

  async #openQueue(address: number, endpoint: number, control: boolean, name = this.name): Promise<EndpointQueue> {
    this.removed.throwIfAborted();
    const { engine, explain } = this.#host;
    const packetSize = control ? CONTROL_PACKET : BULK_PACKET;
    const queue = engine.openQueue({ name, address, endpoint, packetSize, control, explain });
    this.#queues.add(queue);
    await queue.link();
    // If the device ended meanwhile, `#end` closes this queue with the others.
    this.removed.throwIfAborted();
    engine.ended.throwIfAborted();
    return queue;
  }

  #getDescriptor(type: number, index: number, language: number, length: number): Promise<Uint8Array> {
    const { getDescriptor: request } = REQUEST;
    const value = (type << 8) | index;
    return this.controlIn({ requestType: 'standard', recipient: 'device', request, value, index: language }, length);
  }

  #standardOut(request: number, value: number, index: number): Promise<void> {
    return this.controlOut({ requestType: 'standard', recipient: 'device', request, value, index });
  }

  #closedError(): UsbError {
    return new UsbError('ERR_DMAPOOL_USB_CLOSED', this.name, 'the device was closed');
  }
}

/**
 * A bulk endpoint of a device; transfers go in one direction. Returned by {@link UsbDevice.openBulk}.
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
 * for (const endpoint of device.configuration.interfaces[0]?.endpoints ?? []) {
 *   const pipe = await device.openBulk(endpoint);
 *   console.log(pipe.endpoint.direction, pipe.endpoint.packetSize); // in 512, out 512
 *   await pipe.close();
 * }
 * await controller.close();
 * await machine.close();
 * ```
 */
export class BulkPipe {
  /** Its endpoint descriptor. */
  readonly endpoint: EndpointDescriptor;
  readonly #device: UsbDevice;
  readonly #queue: EndpointQueue;
  readonly #onClose: () => Promise<void>;
  #closing: Promise<void> | null = null;

  /** @internal */
  constructor(device: UsbDevice, endpoint: EndpointDescriptor, queue: EndpointQueue, onClose: () => Promise<void>) {
    this.#device = device;
    this.endpoint = endpoint;
    this.#queue = queue;
    this.#onClose = onClose;
  }

  /**
   * Transfers data between the device and a buffer, without a copy. Transfers run in the order of the calls.
   *
   * @param buffer Source or destination. It is in use until the promise settles.
   * @param length Bytes from the start of the buffer: the number to send, or the maximum to receive.
   * @param options Time limit.
   * @returns Bytes transferred. A device may send fewer than requested. No zero-length packet follows a full last
   *   packet.
   * @throws `DmaArgumentError`, also for a buffer of another controller.
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_STALL` when the endpoint is halted, until {@link BulkPipe.clearHalt};
   *   other codes.
   * @throws `DmaOutOfMemoryError`
   */
  async transfer(buffer: UsbBuffer, length: number, options: TransferOptions = {}): Promise<number> {
    this.#device.checkBuffer(buffer);
    checkInteger('length', length, 0, buffer.length);
    const pid = this.endpoint.direction === 'in' ? PID.in : PID.out;
    return this.#queue.run({ setup: null, pid, buffer, length, timeout: this.#device.timeoutOf(options) });
  }

  /** Sends `bytes`. @param options Time limit. @returns Bytes sent. @throws as {@link BulkPipe.transfer} */
  async send(bytes: Uint8Array, options: TransferOptions = {}): Promise<number> {
    this.#check('out');
    checkBytes('bytes', bytes, 0, MAX_BUFFER);
    using buffer = this.#device.buffer(bytes.length);
    buffer.set(bytes);
    return await this.transfer(buffer, bytes.length, options);
  }

  /** Receives up to `length` bytes. @param options Time limit. @throws as {@link BulkPipe.transfer} */
  async receive(length: number, options: TransferOptions = {}): Promise<Uint8Array> {
    this.#check('in');
    using buffer = this.#device.buffer(length);
    const bytes = new Uint8Array(await this.transfer(buffer, length, options));
    buffer.copyTo(bytes);
    return bytes;
  }

  /**
   * Clears the endpoint's halt and resets the data toggle to DATA0 on both sides (5.8.5). It runs in order with the
   * transfers, after those started before it: no transfer may run while the toggle is reset.
   */
  clearHalt(): Promise<void> {
    return this.#queue.restart(() => this.#device.clearHalt(this.endpoint));
  }

  /** Closes the pipe. Its transfers fail. It is safe to call `close` twice. */
  close(): Promise<void> {
    // Run it once: afterwards the endpoint may be open again for another caller.
    return (this.#closing ??= this.#onClose());
  }

  #check(direction: 'in' | 'out'): void {
    if (this.endpoint.direction === direction) return;
    const what = `${this.#device.name} endpoint ${String(this.endpoint.number)}`;
    throw new UsbError(
      'ERR_DMAPOOL_USB_UNSUPPORTED',
      what,
      `the direction of the endpoint is ${this.endpoint.direction}, not ${direction}`,
    );
  }
}

const NO_BYTES = new Uint8Array(0);

/** Builds a SETUP packet (table 9-2). */
function setupPacket(given: ControlSetup, toHost: boolean, length: number): Uint8Array {
  const setup = readOptions('setup', given, SETUP);
  const type = REQUEST_TYPES.indexOf(setup.requestType);
  const recipient = RECIPIENTS.indexOf(setup.recipient);
  if (type === -1) throw new DmaArgumentError('requestType', setup.requestType, REQUEST_TYPES.join(', '));
  if (recipient === -1) throw new DmaArgumentError('recipient', setup.recipient, RECIPIENTS.join(', '));
  const { request, value, index } = setup;
  checkInteger('request', request, 0, 0xff);
  checkInteger('value', value, 0, 0xffff);
  checkInteger('index', index, 0, 0xffff);
  const low = [(toHost ? 0x80 : 0) | (type << 5) | recipient, request];
  return Uint8Array.from([...low, ...[value, index, length].flatMap((word) => [word & 0xff, word >> 8])]);
}
