/** What a controller and its namespaces say of themselves: NVM Express Base Specification 1.4, 5.15.2. */
import { NvmeError } from './errors.ts';
import { PAGE_SIZE } from './registers.ts';

/** LBA formats that an Identify Namespace data structure has room for. */
const MAX_FORMATS = 64;

/** The Identify Controller data structure, what of it a driver needs. */
export interface NvmeIdentity {
  /** PCI Vendor ID. */
  readonly vendorId: number;
  /** Serial number, without the spaces around it. */
  readonly serialNumber: string;
  /** Model number, likewise. */
  readonly modelNumber: string;
  /** Revision of its firmware. */
  readonly firmwareRevision: string;
  /** Version that the controller keeps to, such as `1.4.0`. */
  readonly version: string;
  /** Its ID in the NVM subsystem. */
  readonly controllerId: number;
  /** Most bytes of one command: Maximum Data Transfer Size; `Infinity` when there is no limit. */
  readonly maxTransfer: number;
  /** How many Abort commands it takes at a time. */
  readonly abortLimit: number;
  /** Microseconds that it takes to shut down: RTD3 Entry Latency; 0 when it does not say. */
  readonly shutdownLatency: number;
  /** Highest namespace ID it may have. */
  readonly maxNamespaceId: number;
  /** It has the Dataset Management command (ONCS). */
  readonly datasetManagement: boolean;
  /** It has the Write Zeroes command (ONCS). */
  readonly writeZeroes: boolean;
  /** A Format NVM of one namespace formats all of them (FNA). */
  readonly formatsAll: boolean;
  /** It has a write cache that loses its content without power: flush what must last. */
  readonly volatileWriteCache: boolean;
}

/** The Identify Namespace data structure, what of it a driver needs. */
export interface NvmeNamespaceIdentity {
  /** Size in logical blocks; 0: there is no such namespace now. */
  readonly blocks: number;
  /** Bytes of a logical block. */
  readonly blockSize: number;
  /** Bytes of metadata of each block. */
  readonly metadataSize: number;
  /** What deallocated blocks read as (DLFEAT). */
  readonly deallocatedReads: 'zeros' | 'ones' | 'unknown';
}

function text(bytes: Uint8Array, offset: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(offset, offset + length)).trim();
}

/** A version as it is written: `1.4.0`. @param version Value of the register VS. */
function versionName(version: number): string {
  return `${String(version >>> 16)}.${String((version >>> 8) & 0xff)}.${String(version & 0xff)}`;
}

/**
 * Takes an Identify Controller data structure apart.
 *
 * @param version Value of the register VS: the data structure has a copy (VER), which reads 0 before version 1.2.
 */
export function parseController(bytes: Uint8Array, version: number): NvmeIdentity {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const mdts = bytes[77]!;
  const oncs = view.getUint16(520, true);
  return {
    vendorId: view.getUint16(0, true),
    serialNumber: text(bytes, 4, 20),
    modelNumber: text(bytes, 24, 40),
    firmwareRevision: text(bytes, 64, 8),
    version: versionName(version),
    controllerId: view.getUint16(78, true),
    // MDTS is a power of two in units of the smallest memory page; 0 means no limit.
    maxTransfer: mdts === 0 ? Infinity : PAGE_SIZE * 2 ** mdts,
    abortLimit: bytes[258]! + 1,
    shutdownLatency: view.getUint32(88, true),
    maxNamespaceId: view.getUint32(516, true),
    datasetManagement: (oncs & 0x4) !== 0,
    writeZeroes: (oncs & 0x8) !== 0,
    formatsAll: (bytes[524]! & 0x1) !== 0,
    volatileWriteCache: (bytes[525]! & 0x1) !== 0,
  };
}

/** Size of the namespace that an Identify Namespace data structure describes, in logical blocks; 0: there is none. */
export function parseNamespaceSize(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return view.getUint32(4, true) * 2 ** 32 + view.getUint32(0, true);
}

/**
 * Index of the LBA format in use: FLBAS bits 3:0 and, where there are more than 16 formats (NLBAF and NULBAF), bits 6:5
 * above them. Those were reserved before version 2.0.
 */
function formatIndex(bytes: Uint8Array, formats: number): number {
  const flbas = bytes[26]!;
  return (flbas & 0xf) | (formats > 16 ? (flbas & 0x60) >>> 1 : 0);
}

/** Takes an Identify Namespace data structure apart. @throws {@link NvmeError} when it makes no sense. */
export function parseNamespace(bytes: Uint8Array, device: string, nsid: number): NvmeNamespaceIdentity {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const blocks = parseNamespaceSize(bytes);
  const protocolError = (what: string): NvmeError =>
    new NvmeError('ERR_DMAPOOL_NVME_PROTOCOL', device, `namespace ${String(nsid)} ${what}`);
  // NLBAF counts from 0, and NULBAF comes on top of it.
  const formats = Math.min(bytes[25]! + bytes[82]! + 1, MAX_FORMATS);
  const index = formatIndex(bytes, formats);
  if (index >= formats) throw protocolError(`uses LBA format ${String(index)} of ${String(formats)}`);
  const format = view.getUint32(128 + 4 * index, true);
  const shift = (format >>> 16) & 0xff;
  // An LBA format of less than 512 bytes is not in use.
  if (blocks > 0 && (shift < 9 || shift > 30 || !Number.isSafeInteger(blocks * 2 ** shift))) {
    throw protocolError(`has ${String(blocks)} blocks of 2^${String(shift)} bytes`);
  }
  const deallocated = bytes[33]! & 0x7;
  return {
    blocks,
    blockSize: 2 ** shift,
    metadataSize: format & 0xffff,
    deallocatedReads: deallocated === 1 ? 'zeros' : deallocated === 2 ? 'ones' : 'unknown',
  };
}

/** The IDs in an Active Namespace ID list (5.15.2): ascending, ended by 0. */
export function parseNamespaceList(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const ids: number[] = [];
  for (let offset = 0; offset < bytes.length; offset += 4) {
    const id = view.getUint32(offset, true);
    if (id === 0) break;
    ids.push(id);
  }
  return ids;
}
