/**
 * Data transfer of the caller's own commands: direction and length. NVM Express Base Specification 1.4, 5 and 6.
 *
 * If a command transfers more data than its data pointer describes, the controller writes to address 0 or beyond the
 * buffer. So the buffer is checked before submission. Bits 1:0 of the opcode give the direction. The length is fixed,
 * or a field of the command. For commands unknown to this driver (vendor specific) only the direction is checked, and
 * the caller must provide a buffer that is long enough.
 */
import { DmaArgumentError } from 'dmapool';
import { ALL_NAMESPACES } from './formats.ts';
import type { NvmeIdentity } from './identify.ts';
import type { NvmeCommand } from './queue-pair.ts';
import { ADMIN, DSM_RANGE_SIZE, FEATURE, IDENTIFY_SIZE, NVM, opcodeName } from './registers.ts';

/** Direction of a command's data: opcode bits 1:0. */
export type Direction = 'none' | 'toDevice' | 'fromDevice' | 'both';

const DIRECTIONS: readonly Direction[] = ['none', 'toDevice', 'fromDevice', 'both'];

export function directionOf({ opcode }: NvmeCommand): Direction {
  return DIRECTIONS[opcode & 3]!;
}

/**
 * Admin commands that `NvmeController.admin` rejects. Commands for queues and doorbells give the controller memory that
 * it uses after their completion, or remove the driver's queues. An Asynchronous Event Request completes only at an
 * event.
 */
const REFUSED: ReadonlySet<number> = new Set([
  ADMIN.deleteSubmissionQueue,
  ADMIN.createSubmissionQueue,
  ADMIN.deleteCompletionQueue,
  ADMIN.createCompletionQueue,
  ADMIN.asynchronousEventRequest,
  ADMIN.doorbellBufferConfig,
]);

/** Bytes of the data structure of each feature, by Feature Identifier. 0: none, the value is in dword 11. */
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
/** Select of Get Features, dword 10 bits 10:8: supported capabilities. They are returned in dword 0, without data. */
const SELECT_SUPPORTED = 3;

function featureSize({ opcode, cdw10 = 0, cdw11 = 0 }: NvmeCommand): number | null {
  if (opcode === ADMIN.getFeatures && ((cdw10 >>> 8) & 7) === SELECT_SUPPORTED) return 0;
  const feature = cdw10 & 0xff;
  // Bit 0 of dword 11 selects the extended host identifier of 128 bits.
  if (feature === HOST_IDENTIFIER) return (cdw11 & 1) === 0 ? 8 : 16;
  return FEATURE_SIZES[feature] ?? null;
}

/** Minimum default time limits in milliseconds, by opcode: controllers may take minutes for these commands. */
const MIN_TIMEOUTS: Readonly<Record<number, number>> = {
  [ADMIN.formatNvm]: 600_000,
  [ADMIN.namespaceManagement]: 120_000,
  [ADMIN.namespaceAttachment]: 60_000,
  [ADMIN.firmwareImageDownload]: 60_000,
  [ADMIN.firmwareCommit]: 120_000,
  [ADMIN.securitySend]: 120_000,
  [ADMIN.securityReceive]: 120_000,
  [ADMIN.sanitize]: 120_000,
};

/** Default time limit of an admin command in milliseconds. @param timeout Default of all commands. */
export function adminTimeout({ opcode }: NvmeCommand, timeout: number): number {
  return Math.max(timeout, MIN_TIMEOUTS[opcode] ?? 0);
}

/** @returns The namespace whose block size an admin command may change, `ALL_NAMESPACES`, or null for none. */
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

/** Namespace Management with Select (dword 10, bits 3:0) = 1, which transfers no data. */
function isNamespaceDeletion({ cdw10 = 0 }: NvmeCommand): boolean {
  return (cdw10 & 0xf) === 1;
}

/** @returns Bytes that an admin command transfers; null if unknown. */
function adminSize(command: NvmeCommand): number | null {
  const { opcode, cdw10 = 0, cdw11 = 0 } = command;
  switch (opcode) {
    case ADMIN.identify:
      return IDENTIFY_SIZE;
    case ADMIN.getLogPage:
      // NUMD, 0's based, counts dwords. Its lower half is in dword 10, its upper half in dword 11.
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

/** @returns True if a command transfers the logical blocks that it addresses (NLB: dword 12, bits 15:0, 0's based). */
export function transfersBlocks({ opcode }: NvmeCommand): boolean {
  return opcode === NVM.read || opcode === NVM.write || opcode === NVM.compare;
}

/** @returns Bytes that a command of the NVM command set transfers; null if unknown. */
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
  const expected = size === null ? 'a buffer' : `${String(size)} bytes`;
  if (length === null) throw new DmaArgumentError('buffer', undefined, `${expected}: ${name} transfers data`);
  if (size !== null && length !== size) throw new DmaArgumentError('buffer.length', length, `${expected} for ${name}`);
}

/**
 * Checks the buffer of an admin command. @param length Its length in bytes; null if there is none.
 * @returns True if the transfer length of the command is known.
 * @throws `DmaArgumentError` if the length is wrong, or the command is reserved for the driver.
 */
export function checkAdminTransfer(command: NvmeCommand, length: number | null): boolean {
  const { opcode, cdw10 = 0 } = command;
  if (REFUSED.has(opcode)) {
    throw new DmaArgumentError(
      'command.opcode',
      opcode,
      `an opcode other than ${opcodeName(opcode, true)}, which is reserved for the driver`,
    );
  }
  if (opcode === ADMIN.setFeatures && (cdw10 & 0xff) === FEATURE.hostMemoryBuffer) {
    const accepted = 'a feature other than Host Memory Buffer: the controller would use its memory after completion';
    throw new DmaArgumentError('command.cdw10', cdw10, accepted);
  }
  const size = adminSize(command);
  checkSize(command, true, size, length);
  return size !== null;
}

/** {@link checkAdminTransfer} for a command of the NVM command set. @param blockSize In bytes; null if unknown. */
export function checkNvmTransfer(command: NvmeCommand, length: number | null, blockSize: number | null): boolean {
  const size = nvmSize(command, blockSize);
  checkSize(command, false, size, length);
  return size !== null;
}
