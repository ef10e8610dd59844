/**
 * What a command of the caller's own transfers: its direction, and how many bytes. NVM Express Base Specification 1.4, 5 and 6.
 *
 * A command whose data pointer is 0, or leads to less memory than it transfers, makes the controller write to address 0. So
 * the buffer is checked before anything is submitted: the direction is bits 1:0 of every opcode, and the length is a field of
 * the command, or fixed. What this driver does not know (vendor specific commands) needs a buffer where the opcode says
 * that data is transferred; that it is long enough is then the caller's to see to.
 */
import { DmaArgumentError } from 'dmapool';
import { ALL_NAMESPACES } from './formats.ts';
import type { NvmeIdentity } from './identify.ts';
import type { NvmeCommand } from './queue-pair.ts';
import { ADMIN, DSM_RANGE_SIZE, FEATURE, IDENTIFY_SIZE, NVM, opcodeName } from './registers.ts';

/** Where the data of a command goes: opcode bits 1:0. */
export type Direction = 'none' | 'toDevice' | 'fromDevice' | 'both';

const DIRECTIONS: readonly Direction[] = ['none', 'toDevice', 'fromDevice', 'both'];

export function directionOf({ opcode }: NvmeCommand): Direction {
  return DIRECTIONS[opcode & 3]!;
}

/**
 * Admin commands that `NvmeController.admin` refuses. Those for queues and doorbells give the controller memory beyond their
 * completion, or take the driver's away; an Asynchronous Event Request is not completed before there is an event.
 */
const REFUSED: ReadonlySet<number> = new Set([
  ADMIN.deleteSubmissionQueue,
  ADMIN.createSubmissionQueue,
  ADMIN.deleteCompletionQueue,
  ADMIN.createCompletionQueue,
  ADMIN.asynchronousEventRequest,
  ADMIN.doorbellBufferConfig,
]);

/** Bytes of the data structure of a feature, by its Feature Identifier; 0: it has none, and its value is dword 11. */
const FEATURE_SIZES: Readonly<Record<number, number>> = {
  0x01: 0, // Arbitration
  0x02: 0, // Power Management
  0x03: 4096, // LBA Range Type
  0x04: 0, // Temperature Threshold
  0x05: 0, // Error Recovery
  0x06: 0, // Volatile Write Cache
  0x07: 0, // Number of Queues
  0x08: 0, // Interrupt Coalescing
  0x09: 0, // Interrupt Vector Configuration
  0x0a: 0, // Write Atomicity Normal
  0x0b: 0, // Asynchronous Event Configuration
  0x0c: 256, // Autonomous Power State Transition
  0x0d: 4096, // Host Memory Buffer
  0x0e: 8, // Timestamp
  0x0f: 0, // Keep Alive Timer
  0x10: 0, // Host Controlled Thermal Management
  0x11: 0, // Non-Operational Power State Config
  0x12: 0, // Read Recovery Level Config
  0x13: 512, // Predictable Latency Mode Config
  0x14: 0, // Predictable Latency Mode Window
  0x16: 512, // Host Behavior Support
  0x17: 0, // Sanitize Config
  0x18: 0, // Endurance Group Event Configuration
  0x80: 0, // Software Progress Marker
  0x82: 0, // Reservation Notification Mask
  0x83: 0, // Reservation Persistence
  0x84: 0, // Namespace Write Protection Config
};
const HOST_IDENTIFIER = 0x81;
/** Select of Get Features, dword 10 bits 10:8: what the feature supports, which is told in dword 0 alone. */
const SELECT_SUPPORTED = 3;

function featureSize({ opcode, cdw10 = 0, cdw11 = 0 }: NvmeCommand): number | null {
  if (opcode === ADMIN.getFeatures && ((cdw10 >>> 8) & 7) === SELECT_SUPPORTED) return 0;
  const feature = cdw10 & 0xff;
  // Bit 0 of dword 11: an extended one, of 128 bits.
  if (feature === HOST_IDENTIFIER) return (cdw11 & 1) === 0 ? 8 : 16;
  return FEATURE_SIZES[feature] ?? null;
}

/** Milliseconds that an admin command gets at least, unless the caller says otherwise: controllers take minutes for some. */
const LEAST_TIMES: Readonly<Record<number, number>> = {
  [ADMIN.formatNvm]: 600_000,
  [ADMIN.namespaceManagement]: 120_000,
  [ADMIN.namespaceAttachment]: 60_000,
  [ADMIN.firmwareImageDownload]: 60_000,
  [ADMIN.firmwareCommit]: 120_000,
  [ADMIN.securitySend]: 120_000,
  [ADMIN.securityReceive]: 120_000,
  [ADMIN.sanitize]: 120_000,
};

/** Milliseconds that an admin command may take by default. @param timeout What any command may take. */
export function adminTimeout({ opcode }: NvmeCommand, timeout: number): number {
  return Math.max(timeout, LEAST_TIMES[opcode] ?? 0);
}

/** The namespace whose block size an admin command may change, or all of them; null for none. */
export function formatChangedBy(command: NvmeCommand, { formatsAll }: NvmeIdentity): number | null {
  const { opcode, nsid = 0 } = command;
  switch (opcode) {
    case ADMIN.formatNvm:
      return formatsAll ? ALL_NAMESPACES : nsid;
    case ADMIN.namespaceManagement:
      return isNamespaceDeletion(command) ? nsid : null;
    case ADMIN.namespaceAttachment:
      return nsid;
    default:
      return null;
  }
}

/** Namespace Management: Select, dword 10 bits 3:0, is 1. */
function isNamespaceDeletion({ cdw10 = 0 }: NvmeCommand): boolean {
  return (cdw10 & 0xf) === 1;
}

/** Bytes that an admin command transfers; null when this driver does not know. */
function adminSize(command: NvmeCommand): number | null {
  const { opcode, cdw10 = 0, cdw11 = 0 } = command;
  switch (opcode) {
    case ADMIN.identify:
      return IDENTIFY_SIZE;
    case ADMIN.getLogPage:
      // NUMD counts dwords from 0: its lower half is in dword 10, its upper half in dword 11.
      return ((cdw10 >>> 16) + (cdw11 & 0xffff) * 0x10000 + 1) * 4;
    case ADMIN.setFeatures:
    case ADMIN.getFeatures:
      return featureSize(command);
    case ADMIN.namespaceManagement:
      return isNamespaceDeletion(command) ? 0 : 4096;
    case ADMIN.namespaceAttachment:
      return 4096;
    case ADMIN.firmwareImageDownload:
      return ((cdw10 >>> 0) + 1) * 4;
    case ADMIN.securitySend:
    case ADMIN.securityReceive:
      return cdw11 >>> 0;
    default:
      return null;
  }
}

/** Says whether the number of logical blocks (dword 12, bits 15:0, from 0 up) is what a command transfers. */
export function transfersBlocks({ opcode }: NvmeCommand): boolean {
  return opcode === NVM.read || opcode === NVM.write || opcode === NVM.compare;
}

/** Bytes that a command of the NVM command set transfers; null when this driver does not know. */
function nvmSize({ opcode, cdw10 = 0, cdw12 = 0 }: NvmeCommand, blockSize: number | null): number | null {
  switch (opcode) {
    case NVM.read:
    case NVM.write:
    case NVM.compare:
      return blockSize === null ? null : ((cdw12 & 0xffff) + 1) * blockSize;
    case NVM.datasetManagement:
      return ((cdw10 & 0xff) + 1) * DSM_RANGE_SIZE;
    default:
      return null;
  }
}

function checkSize(command: NvmeCommand, isAdmin: boolean, size: number | null, length: number | null): void {
  const name = opcodeName(command.opcode, isAdmin);
  const direction = directionOf(command);
  if (direction === 'none' || size === 0) {
    if (length !== null) throw new DmaArgumentError('buffer', length, `none: ${name} transfers no data`);
    return;
  }
  const expected = size === null ? 'as many bytes as it transfers' : `${String(size)} bytes`;
  if (length === null) throw new DmaArgumentError('buffer', undefined, `${expected}: ${name} transfers data`);
  if (size !== null && length !== size) throw new DmaArgumentError('buffer.length', length, `${expected} for ${name}`);
}

/**
 * Checks the buffer of an admin command. @param length Its bytes; null: there is none.
 * @returns Whether its size is known.
 * @throws `DmaArgumentError` when the command transfers another number of bytes, or is the driver's alone.
 */
export function checkAdminTransfer(command: NvmeCommand, length: number | null): boolean {
  const { opcode, cdw10 = 0 } = command;
  if (REFUSED.has(opcode)) {
    throw new DmaArgumentError('command.opcode', opcode, `no ${opcodeName(opcode, true)}: that is the driver's`);
  }
  if (opcode === ADMIN.setFeatures && (cdw10 & 0xff) === FEATURE.hostMemoryBuffer) {
    const accepted = 'no Host Memory Buffer: the controller would have memory beyond the end of the command';
    throw new DmaArgumentError('command.cdw10', cdw10, accepted);
  }
  const size = adminSize(command);
  checkSize(command, true, size, length);
  return size !== null;
}

/** Checks the buffer of a command of the NVM command set; see {@link checkAdminTransfer}. @param blockSize Bytes; null: not known. */
export function checkNvmTransfer(command: NvmeCommand, length: number | null, blockSize: number | null): boolean {
  const size = nvmSize(command, blockSize);
  checkSize(command, false, size, length);
  return size !== null;
}
