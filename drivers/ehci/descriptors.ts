/** Parses the descriptors of a device. USB 2.0, 9.5 and 9.6. */
import { UsbError } from './errors.ts';

/** Descriptor types (table 9-5). */
export const DESCRIPTOR = { device: 1, configuration: 2, string: 3, interface: 4, endpoint: 5 } as const;

const DEVICE_LENGTH = 18;
export const CONFIGURATION_LENGTH = 9;
const INTERFACE_LENGTH = 9;
const ENDPOINT_LENGTH = 7;

/** A device descriptor (table 9-8). */
export interface DeviceDescriptor {
  /** USB version in binary-coded decimal: 0x0200 for 2.0. */
  readonly usbVersion: number;
  /** Class code; 0 if each interface has its own. */
  readonly deviceClass: number;
  /** Subclass code. */
  readonly deviceSubclass: number;
  /** Protocol code. */
  readonly deviceProtocol: number;
  /** Maximum packet size of endpoint 0 in bytes: 64 at high speed. */
  readonly packetSize0: number;
  /** Vendor ID. */
  readonly vendorId: number;
  /** Product ID, assigned by the vendor. */
  readonly productId: number;
  /** Device version in binary-coded decimal. */
  readonly deviceVersion: number;
  /** Index of the manufacturer string; 0 if there is none. */
  readonly manufacturerIndex: number;
  /** Index of the product string; 0 if there is none. */
  readonly productIndex: number;
  /** Index of the serial number string; 0 if there is none. */
  readonly serialNumberIndex: number;
  /** Number of configurations. */
  readonly configurations: number;
}

/** An endpoint descriptor (table 9-13). */
export interface EndpointDescriptor {
  /** Endpoint address: the number, with bit 7 set for direction `in`. */
  readonly address: number;
  /** Endpoint number, 1 to 15. */
  readonly number: number;
  /** Direction; `in` is towards the host. */
  readonly direction: 'in' | 'out';
  /** Transfer type. */
  readonly type: 'control' | 'isochronous' | 'bulk' | 'interrupt';
  /** Maximum packet size in bytes. */
  readonly packetSize: number;
  /** Polling interval; the unit depends on the type and speed. */
  readonly interval: number;
}

/** An interface descriptor (table 9-12) with its endpoints. */
export interface InterfaceDescriptor {
  /** Interface number, from 0. */
  readonly number: number;
  /** Number of this alternate setting, from 0. */
  readonly alternate: number;
  /** Class code, such as 8 for mass storage. */
  readonly interfaceClass: number;
  /** Subclass code. */
  readonly interfaceSubclass: number;
  /** Protocol code. */
  readonly interfaceProtocol: number;
  /** Index of the interface string; 0 if there is none. */
  readonly nameIndex: number;
  /** Its endpoints, without endpoint 0. */
  readonly endpoints: readonly EndpointDescriptor[];
}

/** A configuration descriptor (table 9-10) with its interfaces. */
export interface ConfigurationDescriptor {
  /** Argument of SET_CONFIGURATION that selects it. */
  readonly value: number;
  /** Index of the configuration string; 0 if there is none. */
  readonly nameIndex: number;
  /** The device is self-powered. */
  readonly selfPowered: boolean;
  /** Maximum current from the bus in mA. */
  readonly maxPower: number;
  /** Its interfaces in the order of the descriptors, alternate settings included. */
  readonly interfaces: readonly InterfaceDescriptor[];
}

const TYPES = ['control', 'isochronous', 'bulk', 'interrupt'] as const;

/** @throws {@link UsbError} `ERR_DMAPOOL_USB_PROTOCOL` if `bytes` is not a device descriptor. */
export function parseDevice(bytes: Uint8Array, device: string): DeviceDescriptor {
  check(device, bytes, 0, DESCRIPTOR.device, DEVICE_LENGTH, 'device');
  return {
    usbVersion: word(bytes, 2),
    deviceClass: bytes[4]!,
    deviceSubclass: bytes[5]!,
    deviceProtocol: bytes[6]!,
    packetSize0: bytes[7]!,
    vendorId: word(bytes, 8),
    productId: word(bytes, 10),
    deviceVersion: word(bytes, 12),
    manufacturerIndex: bytes[14]!,
    productIndex: bytes[15]!,
    serialNumberIndex: bytes[16]!,
    configurations: bytes[17]!,
  };
}

/** @returns Total length of a configuration descriptor, from its first nine bytes. @throws as {@link parseDevice} */
export function totalLength(bytes: Uint8Array, device: string): number {
  check(device, bytes, 0, DESCRIPTOR.configuration, CONFIGURATION_LENGTH, 'configuration');
  const total = word(bytes, 2);
  if (total < CONFIGURATION_LENGTH)
    throw wrong(device, `a configuration descriptor with a total length of ${String(total)} bytes`);
  return total;
}

/**
 * Parses a configuration descriptor and the descriptors in it. Unknown types are skipped.
 * @throws as {@link parseDevice}
 */
export function parseConfiguration(bytes: Uint8Array, device: string): ConfigurationDescriptor {
  const total = totalLength(bytes, device);
  if (bytes.length < total) {
    throw wrong(device, `${String(bytes.length)} bytes of a configuration descriptor of ${String(total)} bytes`);
  }
  const interfaces: InterfaceDescriptor[] = [];
  let endpoints: EndpointDescriptor[] | null = null;
  for (let at = bytes[0]!; at < total; at += bytes[at]!) {
    const length = bytes[at]!;
    if (length < 2 || at + length > total)
      throw wrong(device, `a descriptor of ${String(length)} bytes at byte ${String(at)}`);
    if (bytes[at + 1] === DESCRIPTOR.interface) {
      check(device, bytes, at, DESCRIPTOR.interface, INTERFACE_LENGTH, 'interface');
      endpoints = [];
      interfaces.push({
        number: bytes[at + 2]!,
        alternate: bytes[at + 3]!,
        interfaceClass: bytes[at + 5]!,
        interfaceSubclass: bytes[at + 6]!,
        interfaceProtocol: bytes[at + 7]!,
        nameIndex: bytes[at + 8]!,
        endpoints,
      });
    } else if (bytes[at + 1] === DESCRIPTOR.endpoint) {
      check(device, bytes, at, DESCRIPTOR.endpoint, ENDPOINT_LENGTH, 'endpoint');
      if (endpoints === null) throw wrong(device, 'an endpoint descriptor before the first interface');
      endpoints.push(parseEndpoint(bytes, at));
    }
  }
  return {
    value: bytes[5]!,
    nameIndex: bytes[6]!,
    selfPowered: (bytes[7]! & 0x40) !== 0,
    maxPower: bytes[8]! * 2,
    interfaces,
  };
}

function parseEndpoint(bytes: Uint8Array, at: number): EndpointDescriptor {
  const address = bytes[at + 2]!;
  return {
    address,
    number: address & 0xf,
    direction: (address & 0x80) === 0 ? 'out' : 'in',
    type: TYPES[bytes[at + 3]! & 3]!,
    packetSize: word(bytes, at + 4) & 0x7ff,
    interval: bytes[at + 6]!,
  };
}

/** Decodes a string descriptor: UTF-16 (9.6.7). @throws as {@link parseDevice} */
export function parseString(bytes: Uint8Array, device: string): string {
  check(device, bytes, 0, DESCRIPTOR.string, 2, 'string');
  let text = '';
  for (let at = 2; at + 1 < bytes[0]!; at += 2) text += String.fromCharCode(word(bytes, at));
  return text;
}

/**
 * Decodes string descriptor 0 (table 9-15).
 * @returns Language IDs of the device's strings.
 * @throws as {@link parseDevice}
 */
export function parseLanguages(bytes: Uint8Array, device: string): number[] {
  return parseString(bytes, device)
    .split('')
    .map((character) => character.charCodeAt(0));
}

function word(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8);
}

/** @throws {@link UsbError} unless a complete descriptor of this type is at `at`. */
function check(device: string, bytes: Uint8Array, at: number, type: number, least: number, name: string): void {
  const length = bytes[at];
  if (length === undefined || length < least || at + length > bytes.length || bytes[at + 1] !== type) {
    throw wrong(
      device,
      `instead of its ${name} descriptor: ${[...bytes.subarray(at, at + 4)].map(hex).join(' ') || 'nothing'}`,
    );
  }
}

function hex(byte: number): string {
  return byte.toString(16).padStart(2, '0');
}

function wrong(device: string, what: string): UsbError {
  return new UsbError('ERR_DMAPOOL_USB_PROTOCOL', device, `the device returned ${what}`);
}
