/**
 * Bulk-only transport: SCSI commands over two bulk endpoints. USB Mass Storage Class, Bulk-Only Transport 1.0 (BOT).
 *
 *     CBW, 31 bytes, out  -->  data, in or out  -->  CSW, 13 bytes, in
 */
import type { UsbBuffer } from './buffer.ts';
import { UsbError } from './errors.ts';

/** The device, as seen by the transport. */
export interface BulkOnlyLink {
  /** Name for messages. */
  readonly name: string;
  /** Allocates a buffer. */
  buffer(length: number): UsbBuffer;
  /** Transfers data on one of the two endpoints. @returns Bytes transferred. */
  transfer(direction: 'in' | 'out', buffer: UsbBuffer, length: number): Promise<number>;
  /** Clears the halt of an endpoint. */
  clearHalt(direction: 'in' | 'out'): Promise<void>;
  /** The class request Bulk-Only Mass Storage Reset (BOT 3.1). */
  reset(): Promise<void>;
}

/** A SCSI command. */
export interface ScsiCommand {
  /** Command descriptor block, 1 to 16 bytes. */
  readonly cdb: Uint8Array;
  /** Direction of the data. */
  readonly direction: 'in' | 'out';
  /** Source or destination of the data; null if there is none. */
  readonly buffer: UsbBuffer | null;
  /** Bytes to transfer. */
  readonly length: number;
  /** Logical unit, 0 to 15. */
  readonly lun: number;
}

/** Result of a SCSI command. */
export interface ScsiResult {
  /** Bytes of valid data. */
  readonly length: number;
  /** False if the command failed. REQUEST SENSE returns the cause. */
  readonly passed: boolean;
}

const CBW_SIZE = 31;
const CBW_SIGNATURE = 0x43425355;
const CSW_SIZE = 13;
const CSW_SIGNATURE = 0x53425355;
/** bCSWStatus (BOT, table 5.3). */
const STATUS = { passed: 0, failed: 1 } as const;
/** Buffer size for a CSW. A faulty device may send a whole packet. */
const CSW_BUFFER_SIZE = 512;

export class BulkOnlyTransport {
  readonly #link: BulkOnlyLink;
  #tag = 0;
  /** The last command failed, and the device has not been reset since. */
  #resetNeeded = false;

  constructor(link: BulkOnlyLink) {
    this.#link = link;
  }

  /**
   * Runs one command. The caller runs one at a time. Halts are cleared. After any error the device is reset: before the
   * error is thrown or, if that fails, before the next command.
   *
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_STALL` when the device rejects the command block,
   *   `ERR_DMAPOOL_USB_PROTOCOL` when its status is invalid; errors of transfers. @throws `DmaOutOfMemoryError`
   */
  async run(command: ScsiCommand): Promise<ScsiResult> {
    using cbw = this.#link.buffer(CBW_SIZE);
    using csw = this.#link.buffer(CSW_BUFFER_SIZE);
    if (this.#resetNeeded) await this.#recover();
    this.#resetNeeded = true;
    try {
      const tag = (this.#tag = (this.#tag + 1) >>> 0);
      writeCommandBlock(cbw.pages[0]!.view, tag, command);
      await this.#link.transfer('out', cbw, CBW_SIZE);
      const moved = await this.#moveData(command);
      const result = await this.#readStatus(csw, tag, command, moved);
      this.#resetNeeded = false;
      return result;
    } catch (error) {
      await this.#tryToRecover();
      throw error;
    }
  }

  /** Data stage (BOT 5.3.2). A halt ends it; the status follows. */
  async #moveData({ direction, buffer, length }: ScsiCommand): Promise<number> {
    if (buffer === null || length === 0) return 0;
    try {
      return await this.#link.transfer(direction, buffer, length);
    } catch (error) {
      if (!isStall(error)) throw error;
      await this.#link.clearHalt(direction);
      // The residue in the status tells how many bytes were transferred before the halt.
      return length;
    }
  }

  /** Status stage (BOT 5.3.3, figure 2). After a halt it is read once more. */
  async #readStatus(csw: UsbBuffer, tag: number, command: ScsiCommand, moved: number): Promise<ScsiResult> {
    let size: number;
    try {
      size = await this.#link.transfer('in', csw, CSW_BUFFER_SIZE);
    } catch (error) {
      if (!isStall(error)) throw error;
      await this.#link.clearHalt('in');
      size = await this.#link.transfer('in', csw, CSW_BUFFER_SIZE);
    }
    // The CSW must be valid and meaningful (BOT 6.3).
    const { view } = csw.pages[0]!;
    const residue = view.getUint32(8, true);
    const status = view.getUint8(12);
    const valid = size === CSW_SIZE && view.getUint32(0, true) === CSW_SIGNATURE && view.getUint32(4, true) === tag;
    if (!valid || residue > command.length || status > STATUS.failed) {
      const what = valid
        ? `status ${String(status)}, residue ${String(residue)}`
        : `${String(size)} bytes that are not a valid status`;
      throw new UsbError('ERR_DMAPOOL_USB_PROTOCOL', this.#link.name, `the device answered a command with ${what}`);
    }
    return { length: Math.min(moved, command.length - residue), passed: status === STATUS.passed };
  }

  /** Reset recovery (BOT 5.3.4). */
  async #recover(): Promise<void> {
    await this.#link.reset();
    await this.#link.clearHalt('in');
    await this.#link.clearHalt('out');
    this.#resetNeeded = false;
  }

  async #tryToRecover(): Promise<void> {
    try {
      await this.#recover();
    } catch {
      // Report the original error. The next command tries again.
    }
  }
}

/** Writes a command block wrapper (BOT 5.1). */
function writeCommandBlock(view: DataView, tag: number, command: ScsiCommand): void {
  const { cdb, direction, length, lun } = command;
  view.setUint32(0, CBW_SIGNATURE, true);
  view.setUint32(4, tag, true);
  view.setUint32(8, length, true);
  view.setUint8(12, direction === 'in' && length > 0 ? 0x80 : 0);
  view.setUint8(13, lun);
  view.setUint8(14, cdb.length);
  for (let i = 0; i < 16; i++) view.setUint8(15 + i, cdb[i] ?? 0);
}

function isStall(error: unknown): boolean {
  return error instanceof UsbError && error.code === 'ERR_DMAPOOL_USB_STALL';
}
