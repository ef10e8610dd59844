/** Identify data structures of controllers and namespaces: NVM Express Base Specification 1.4, 5.15.2. */
import { NvmeError } from './errors.ts';
import { PAGE_SIZE } from './registers.ts';

/** Number of LBA formats in an Identify Namespace data structure. */
const MAX_FORMATS = 64;

/** Fields of the Identify Controller data structure that the driver or its users need. */
export interface NvmeIdentity {
  /** PCI Vendor ID. */
  readonly vendorId: number;
  /** Serial number, trimmed. */
  readonly serialNumber: string;
  /** Model number, trimmed. */
  readonly modelNumber: string;
  /** Firmware revision, trimmed. */
  readonly firmwareRevision: string;
  /** Version of the specification that the controller implements, such as `1.4.0`. */
  readonly version: string;
  /** Controller ID in the NVM subsystem. */
  readonly controllerId: number;
  /** Maximum Data Transfer Size: bytes per command; `Infinity` without a limit. */
  readonly maxTransfer: number;
  /** Maximum number of concurrent Abort commands. */
  readonly abortLimit: number;
  /** RTD3 Entry Latency: microseconds for a shutdown; 0 if not reported. */
  readonly shutdownLatency: number;
  /** Highest possible namespace ID. */
  readonly maxNamespaceId: number;
  /** Supports Dataset Management (ONCS). */
  readonly datasetManagement: boolean;
  /** Supports Write Zeroes (ONCS). */
  readonly writeZeroes: boolean;
  /** Format NVM of one namespace formats all of them (FNA). */
  readonly formatsAll: boolean;
  /** Has a volatile write cache: data is durable only after a flush. */
  readonly volatileWriteCache: boolean;
}

/** Fields of the Identify Namespace data structure that the driver needs. */
export interface NvmeNamespaceIdentity {
  /** Size in logical blocks; 0 if the namespace is not active. */
  readonly blocks: number;
  /** Size of a logical block in bytes. */
  readonly blockSize: number;
  /** Metadata per block in bytes. */
  readonly metadataSize: number;
  /** Content that deallocated blocks return when read (DLFEAT). */
  readonly deallocatedReads: 'zeros' | 'ones' | 'unknown';
}

function text(bytes: Uint8Array, offset: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(offset, offset + length)).trim();
}

/** Version in text form: `1.4.0`. @param version Value of register VS. */
function versionName(version: number): string {
  return `${String(version >>> 16)}.${String((version >>> 8) & 0xff)}.${String(version & 0xff)}`;
}

/**
 * Parses an Identify Controller data structure.
 *
 * @param version Value of register VS. Its copy in the data structure (VER) is 0 before version 1.2.
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
    // MDTS: power of two, in units of the minimum memory page size; 0 means no limit.
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

/** Size of a namespace in logical blocks, from its Identify Namespace data structure; 0 if it is not active. */
export function parseNamespaceSize(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return view.getUint32(4, true) * 2 ** 32 + view.getUint32(0, true);
}

/**
 * Index of the current LBA format: FLBAS bits 3:0. With more than 16 formats (NLBAF and NULBAF), FLBAS bits 6:5 extend
 * it; they were reserved before version 2.0.
 */
function formatIndex(bytes: Uint8Array, formats: number): number {
  const flbas = bytes[26]!;
  return (flbas & 0xf) | (formats > 16 ? (flbas & 0x60) >>> 1 : 0);
}

/**
 * Parses an Identify Namespace data structure.
 * @throws {@link NvmeError} `ERR_DMAPOOL_NVME_PROTOCOL` if it is invalid.
 */
export function parseNamespace(bytes: Uint8Array, device: string, nsid: number): NvmeNamespaceIdentity {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const blocks = parseNamespaceSize(bytes);
  const protocolError = (what: string): NvmeError =>
    new NvmeError('ERR_DMAPOOL_NVME_PROTOCOL', device, `namespace ${String(nsid)} ${what}`);
  // NLBAF is 0's based; NULBAF is added to it.
  const formats = Math.min(bytes[25]! + bytes[82]! + 1, MAX_FORMATS);
  const index = formatIndex(bytes, formats);
  if (index >= formats) throw protocolError(`uses LBA format ${String(index)} of ${String(formats)}`);
  const format = view.getUint32(128 + 4 * index, true);
  const shift = (format >>> 16) & 0xff;
  // LBA formats of less than 512 bytes are invalid.
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

/** Parses an Active Namespace ID list (5.15.2): ascending IDs, terminated by 0. */
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
