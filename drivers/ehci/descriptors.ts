/** Descriptors: what a device says of itself. USB 2.0, 9.5 and 9.6. */
import { UsbError } from './errors.ts';

/** Types of descriptors (table 9-5). */
export const DESCRIPTOR = { device: 1, configuration: 2, string: 3, interface: 4, endpoint: 5 } as const;

const DEVICE_LENGTH = 18;
export const CONFIGURATION_LENGTH = 9;
const INTERFACE_LENGTH = 9;
const ENDPOINT_LENGTH = 7;

/** A device descriptor (table 9-8). */
export interface DeviceDescriptor {
  /** Release of the specification in binary-coded decimal: 0x0200 for 2.0. */
  readonly usbVersion: number;
  /** What it is: 0 when each interface says it for itself. */
  readonly deviceClass: number;
  /** Within its class. */
  readonly deviceSubclass: number;
  /** Within its subclass. */
  readonly deviceProtocol: number;
  /** Largest packet of endpoint 0, in bytes: 64 at high speed. */
  readonly packetSize0: number;
  /** Who made it. */
  readonly vendorId: number;
  /** What its maker numbers it. */
  readonly productId: number;
  /** Release of the device in binary-coded decimal. */
  readonly deviceVersion: number;
  /** Index of the string that names its maker; 0: none. */
  readonly manufacturerIndex: number;
  /** Index of the string that names it; 0: none. */
  readonly productIndex: number;
  /** Index of the string with its serial number; 0: none. */
  readonly serialNumberIndex: number;
  /** How many configurations it has. */
  readonly configurations: number;
}

/** An endpoint descriptor (table 9-13). */
export interface EndpointDescriptor {
  /** Number and direction: bit 7 is set for those to the host. */
  readonly address: number;
  /** 1 to 15. */
  readonly number: number;
  /** `in`: to the host. */
  readonly direction: 'in' | 'out';
  /** How its transfers are run. */
  readonly type: 'control' | 'isochronous' | 'bulk' | 'interrupt';
  /** Most bytes of a packet. */
  readonly packetSize: number;
  /** How often it is to be asked, in the unit of its type and speed. */
  readonly interval: number;
}

/** An interface descriptor (table 9-12) with its endpoints. */
export interface InterfaceDescriptor {
  /** Its number, from 0. */
  readonly number: number;
  /** Which of its alternate settings this is, from 0. */
  readonly alternate: number;
  /** What it is: 8 for mass storage. */
  readonly interfaceClass: number;
  /** Within its class. */
  readonly interfaceSubclass: number;
  /** Within its subclass. */
  readonly interfaceProtocol: number;
  /** Index of the string that names it; 0: none. */
  readonly nameIndex: number;
  /** Its endpoints, besides number 0. */
  readonly endpoints: readonly EndpointDescriptor[];
}

/** A configuration descriptor (table 9-10) with its interfaces. */
export interface ConfigurationDescriptor {
  /** What SET_CONFIGURATION selects it by. */
  readonly value: number;
  /** Index of the string that names it; 0: none. */
  readonly nameIndex: number;
  /** It has power of its own. */
  readonly selfPowered: boolean;
  /** Most current that it draws from the bus, in mA. */
  readonly maxPower: number;
  /** Its interfaces, in the order of the descriptors; alternate settings are among them. */
  readonly interfaces: readonly InterfaceDescriptor[];
}

const TYPES = ['control', 'isochronous', 'bulk', 'interrupt'] as const;

/** @throws {@link UsbError} `ERR_DMAPOOL_USB_PROTOCOL` for anything else than a device descriptor. */
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

/** Bytes of a configuration descriptor with all that belongs to it, as its first nine say. @throws as {@link parseDevice} */
export function totalLength(bytes: Uint8Array, device: string): number {
  check(device, bytes, 0, DESCRIPTOR.configuration, CONFIGURATION_LENGTH, 'configuration');
  const total = word(bytes, 2);
  if (total < CONFIGURATION_LENGTH) throw wrong(device, `a configuration descriptor of ${String(total)} bytes in all`);
  return total;
}

/** Parses a configuration descriptor and all that follows it. Descriptors of unknown types are skipped. @throws as {@link parseDevice} */
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

/** The text of a string descriptor: UTF-16 (9.6.7). @throws as {@link parseDevice} */
export function parseString(bytes: Uint8Array, device: string): string {
  check(device, bytes, 0, DESCRIPTOR.string, 2, 'string');
  let text = '';
  for (let at = 2; at + 1 < bytes[0]!; at += 2) text += String.fromCharCode(word(bytes, at));
  return text;
}

/** The languages that a device has strings in: string descriptor 0 (table 9-15). @throws as {@link parseDevice} */
export function parseLanguages(bytes: Uint8Array, device: string): number[] {
  return parseString(bytes, device)
    .split('')
    .map((character) => character.charCodeAt(0));
}

function word(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8);
}

/** Throws unless a whole descriptor of the type lies there. */
function check(device: string, bytes: Uint8Array, at: number, type: number, least: number, name: string): void {
  const length = bytes[at];
  if (length === undefined || length < least || at + length > bytes.length || bytes[at + 1] !== type) {
    throw wrong(
      device,
      `in place of its ${name} descriptor: ${[...bytes.subarray(at, at + 4)].map(hex).join(' ') || 'nothing'}`,
    );
  }
}

function hex(byte: number): string {
  return byte.toString(16).padStart(2, '0');
}

function wrong(device: string, what: string): UsbError {
  return new UsbError('ERR_DMAPOOL_USB_PROTOCOL', device, `the device gave ${what}`);
}
