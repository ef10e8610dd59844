/**
 * Registers, commands and fields of the NVM Express Base Specification 1.4, to which the section numbers refer.
 */

/** Class code of an NVM Express I/O controller: mass storage, non-volatile memory, NVMe (2.1.5). */
export const CLASS_NVME = 0x010802;

/** Offsets in BAR 0 (3.1). */
export const REGISTER: Readonly<Record<'cap' | 'vs' | 'cc' | 'csts' | 'aqa' | 'asq' | 'acq' | 'doorbells', number>> = {
  /** Controller Capabilities, 64 bits (3.1.1). */
  cap: 0x00,
  /** Version (3.1.2). */
  vs: 0x08,
  /** Controller Configuration (3.1.5). */
  cc: 0x14,
  /** Controller Status (3.1.6). */
  csts: 0x1c,
  /** Admin Queue Attributes (3.1.8). */
  aqa: 0x24,
  /** Admin Submission and Completion Queue Base Address, 64 bits each (3.1.9, 3.1.10). */
  asq: 0x28,
  acq: 0x30,
  /** First doorbell, SQ0TDBL (3.1). The others follow at the stride of CAP.DSTRD. */
  doorbells: 0x1000,
};

/** Version 1.1 in the format of VS: the first version with Active Namespace ID lists (CNS 02h). */
export const VERSION_1_1 = 0x0001_0100;

/** Controller Configuration (3.1.5). */
export const CC: Readonly<Record<'enable' | 'shutdownNormal' | 'shutdownMask' | 'entrySizes', number>> = {
  enable: 0x1,
  /** Shutdown Notification, bits 15:14: normal shutdown. */
  shutdownNormal: 0x1 << 14,
  shutdownMask: 0x3 << 14,
  /** I/O Submission Queue Entry Size, bits 19:16: 2^6 bytes; I/O Completion Queue Entry Size, bits 23:20: 2^4. */
  entrySizes: (6 << 16) | (4 << 20),
};

/** Controller Status (3.1.6). */
export const CSTS: Readonly<Record<'ready' | 'fatal' | 'shutdownComplete' | 'shutdownMask', number>> = {
  ready: 0x1,
  fatal: 0x2,
  /** Shutdown Status, bits 3:2: complete. */
  shutdownComplete: 0x2 << 2,
  shutdownMask: 0x3 << 2,
};

/** Fields of CAP (3.1.1). */
export interface ControllerCapabilities {
  /** Maximum entries per queue: MQES + 1. */
  readonly maxEntries: number;
  /** Milliseconds within which CSTS.RDY follows CC.EN: TO, in units of 500 ms. */
  readonly readyTimeout: number;
  /** Bytes between doorbells: 4 << DSTRD. */
  readonly doorbellStride: number;
  /** Supports the NVM command set: CSS, bit 37. */
  readonly nvmCommandSet: boolean;
  /** Minimum memory page size: 2^(12 + MPSMIN) bytes. */
  readonly minPageSize: number;
}

/** Parses CAP. */
export function parseCapabilities(cap: bigint): ControllerCapabilities {
  const field = (low: number, width: number): number => Number((cap >> BigInt(low)) & ((1n << BigInt(width)) - 1n));
  return {
    maxEntries: field(0, 16) + 1,
    readyTimeout: Math.max(1, field(24, 8)) * 500,
    doorbellStride: 4 * 2 ** field(32, 4),
    nvmCommandSet: field(37, 1) === 1,
    minPageSize: 2 ** (12 + field(48, 4)),
  };
}

/** Admin commands (5). */
export const ADMIN: Readonly<
  Record<
    | 'deleteSubmissionQueue'
    | 'createSubmissionQueue'
    | 'getLogPage'
    | 'deleteCompletionQueue'
    | 'createCompletionQueue'
    | 'identify'
    | 'abort'
    | 'setFeatures'
    | 'getFeatures'
    | 'asynchronousEventRequest'
    | 'namespaceManagement'
    | 'firmwareCommit'
    | 'firmwareImageDownload'
    | 'namespaceAttachment'
    | 'doorbellBufferConfig'
    | 'formatNvm'
    | 'securitySend'
    | 'securityReceive'
    | 'sanitize',
    number
  >
> = {
  deleteSubmissionQueue: 0x00,
  createSubmissionQueue: 0x01,
  getLogPage: 0x02,
  deleteCompletionQueue: 0x04,
  createCompletionQueue: 0x05,
  identify: 0x06,
  abort: 0x08,
  setFeatures: 0x09,
  getFeatures: 0x0a,
  asynchronousEventRequest: 0x0c,
  namespaceManagement: 0x0d,
  firmwareCommit: 0x10,
  firmwareImageDownload: 0x11,
  namespaceAttachment: 0x15,
  doorbellBufferConfig: 0x7c,
  formatNvm: 0x80,
  securitySend: 0x81,
  securityReceive: 0x82,
  sanitize: 0x84,
};

/** Commands of the NVM command set (6). */
export const NVM: Readonly<
  Record<'flush' | 'write' | 'read' | 'compare' | 'writeZeroes' | 'datasetManagement', number>
> = {
  flush: 0x00,
  write: 0x01,
  read: 0x02,
  compare: 0x05,
  writeZeroes: 0x08,
  datasetManagement: 0x09,
};

/** Identify: Controller or Namespace Structure, CNS (5.15). */
export const IDENTIFY: Readonly<Record<'namespace' | 'controller' | 'activeNamespaces', number>> = {
  namespace: 0x00,
  controller: 0x01,
  activeNamespaces: 0x02,
};

/** Feature Identifiers of Set Features (5.21.1). */
export const FEATURE: Readonly<Record<'numberOfQueues' | 'hostMemoryBuffer', number>> = {
  numberOfQueues: 0x07,
  hostMemoryBuffer: 0x0d,
};

/** Flags in dword 11 of Create I/O Completion Queue and Create I/O Submission Queue (5.3, 5.4). */
export const QUEUE_FLAG: Readonly<Record<'physicallyContiguous' | 'interruptsEnabled', number>> = {
  physicallyContiguous: 0x1,
  interruptsEnabled: 0x2,
};

/** Flags in dword 12 of Read (6.9), Write (6.15) and Write Zeroes (6.17). */
export const IO_FLAG: Readonly<Record<'forceUnitAccess' | 'deallocate', number>> = {
  forceUnitAccess: 0x4000_0000,
  deallocate: 0x0200_0000,
};

/** Dword 11 of Dataset Management: Attribute Deallocate (6.7). */
export const DSM_DEALLOCATE = 0x4;
/** Maximum ranges per Dataset Management command, and bytes per range (6.7). */
export const DSM_MAX_RANGES = 256;
export const DSM_RANGE_SIZE = 16;

/** Size of a submission queue entry (4.2) and of a completion queue entry (4.6) in bytes. */
export const SUBMISSION_ENTRY = 64;
export const COMPLETION_ENTRY = 16;

/** Size of a memory page in bytes: CC.MPS = 0. */
export const PAGE_SIZE = 4096;
/** Size of every Identify data structure in bytes (5.15). */
export const IDENTIFY_SIZE = 4096;
/** Number of IDs in an Active Namespace ID list (5.15.2). */
export const NAMESPACE_LIST_LENGTH: number = IDENTIFY_SIZE / 4;

/** Name of a command for messages. */
export function opcodeName(opcode: number, admin: boolean): string {
  const table: Readonly<Record<string, number>> = admin ? ADMIN : NVM;
  const found = Object.entries(table).find(([, code]) => code === opcode);
  // createSubmissionQueue --> create submission queue
  return found === undefined
    ? `command 0x${opcode.toString(16).padStart(2, '0')}`
    : found[0].replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}
