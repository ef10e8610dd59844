/** SCSI commands of a disk: SPC-4 (inquiry, sense), SBC-3 (capacity, blocks). Numbers are big-endian. */

export const OPERATION = {
  testUnitReady: 0x00,
  requestSense: 0x03,
  inquiry: 0x12,
  readCapacity10: 0x25,
  read10: 0x28,
  write10: 0x2a,
  synchronizeCache10: 0x35,
  read16: 0x88,
  write16: 0x8a,
  serviceActionIn16: 0x9e,
} as const;

/** Sense keys that the driver handles (SPC-4). */
export const SENSE = { notReady: 2, illegalRequest: 5, unitAttention: 6 } as const;
/** Additional sense code INVALID COMMAND OPERATION CODE: the unit does not support the command (SPC-4). */
export const INVALID_OPERATION = 0x20;

export const INQUIRY_LENGTH = 36;
export const SENSE_LENGTH = 18;
export const CAPACITY10_LENGTH = 8;
export const CAPACITY16_LENGTH = 32;
const READ_CAPACITY_16 = 0x10;
const MAX_LBA_10 = 0xffff_ffff;

/** A 6-byte command without a block address. */
export function command6(operation: number, length = 0): Uint8Array {
  return Uint8Array.of(operation, 0, 0, 0, length, 0);
}

/** A 10-byte command without a block address. */
export function command10(operation: number): Uint8Array {
  return Uint8Array.of(operation, 0, 0, 0, 0, 0, 0, 0, 0, 0);
}

/** READ CAPACITY (16) (SBC-3). */
export function readCapacity16(): Uint8Array {
  const cdb = new Uint8Array(16);
  cdb[0] = OPERATION.serviceActionIn16;
  cdb[1] = READ_CAPACITY_16;
  cdb[13] = CAPACITY16_LENGTH;
  return cdb;
}

/** READ or WRITE: the 10-byte command, or the 16-byte one if the address needs it (SBC-3). */
export function blocks(what: 'read' | 'write', lba: number, count: number): Uint8Array {
  const short = lba + count - 1 <= MAX_LBA_10;
  const cdb = new Uint8Array(short ? 10 : 16);
  const view = new DataView(cdb.buffer);
  cdb[0] = OPERATION[`${what}${short ? 10 : 16}`];
  if (short) {
    view.setUint32(2, lba);
    view.setUint16(7, count);
  } else {
    view.setUint32(2, Math.floor(lba / 2 ** 32));
    view.setUint32(6, lba % 2 ** 32);
    view.setUint32(10, count);
  }
  return cdb;
}

/** Decodes ASCII and trims it. */
export function text(bytes: Uint8Array, from: number, to: number): string {
  return String.fromCharCode(...bytes.subarray(from, to)).trim();
}
