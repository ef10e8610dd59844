/**
 * Bulk-only transport: SCSI commands over two bulk endpoints. USB Mass Storage Class, Bulk-Only Transport 1.0 (BOT).
 *
 *     CBW, 31 bytes, out  -->  data, in or out  -->  CSW, 13 bytes, in
 */
import type { UsbBuffer } from './buffer.ts';
import { UsbError } from './errors.ts';

/** What the transport needs of its device. */
export interface BulkOnlyLink {
  /** For messages. */
  readonly name: string;
  /** Memory for transfers. */
  buffer(length: number): UsbBuffer;
  /** Moves data on one of the two endpoints; returns how many bytes. */
  transfer(direction: 'in' | 'out', buffer: UsbBuffer, length: number): Promise<number>;
  /** Ends the halt of an endpoint. */
  clearHalt(direction: 'in' | 'out'): Promise<void>;
  /** The class request Bulk-Only Mass Storage Reset (BOT 3.1). */
  reset(): Promise<void>;
}

/** A SCSI command. */
export interface ScsiCommand {
  /** Its command descriptor block, 1 to 16 bytes. */
  readonly cdb: Uint8Array;
  /** Where its data go. */
  readonly direction: 'in' | 'out';
  /** Its data, or where they are put; null: none. */
  readonly buffer: UsbBuffer | null;
  /** Bytes of data. */
  readonly length: number;
  /** Logical unit, 0 to 15. */
  readonly lun: number;
}

/** How a SCSI command ended. */
export interface ScsiResult {
  /** Bytes of data that count. */
  readonly length: number;
  /** False: ask for the reason by REQUEST SENSE. */
  readonly passed: boolean;
}

const CBW_SIZE = 31;
const CBW_SIGNATURE = 0x43425355;
const CSW_SIZE = 13;
const CSW_SIGNATURE = 0x53425355;
/** bCSWStatus (BOT, table 5.3). */
const STATUS = { passed: 0, failed: 1 } as const;
/** What a device may answer a CSW request with: a whole packet, if it is in error. */
const CSW_ROOM = 512;

export class BulkOnlyTransport {
  readonly #link: BulkOnlyLink;
  #tag = 0;
  /** The last command left the device in a state that only a reset ends. */
  #resetNeeded = false;

  constructor(link: BulkOnlyLink) {
    this.#link = link;
  }

  /**
   * Runs one command; the caller sees to it that there is one at a time. Halts are cleared on the way. After any error
   * the device is reset, before the error is passed on or else before the next command.
   *
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_STALL` when the device does not take the command, `ERR_DMAPOOL_USB_PROTOCOL` when its answer
   *   is none, and what goes wrong in transfers. @throws `DmaOutOfMemoryError`
   */
  async run(command: ScsiCommand): Promise<ScsiResult> {
    using cbw = this.#link.buffer(CBW_SIZE);
    using csw = this.#link.buffer(CSW_ROOM);
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

  /** The data (BOT 5.3.2): a halt ends them, and the status says the rest. */
  async #moveData({ direction, buffer, length }: ScsiCommand): Promise<number> {
    if (buffer === null || length === 0) return 0;
    try {
      return await this.#link.transfer(direction, buffer, length);
    } catch (error) {
      if (!isStall(error)) throw error;
      await this.#link.clearHalt(direction);
      // How many went before the halt, the residue says.
      return length;
    }
  }

  /** The status (BOT 5.3.3, figure 2): after a halt it is asked for once more. */
  async #readStatus(csw: UsbBuffer, tag: number, command: ScsiCommand, moved: number): Promise<ScsiResult> {
    let size: number;
    try {
      size = await this.#link.transfer('in', csw, CSW_ROOM);
    } catch (error) {
      if (!isStall(error)) throw error;
      await this.#link.clearHalt('in');
      size = await this.#link.transfer('in', csw, CSW_ROOM);
    }
    // Valid and meaningful (BOT 6.3).
    const { view } = csw.pages[0]!;
    const residue = view.getUint32(8, true);
    const status = view.getUint8(12);
    const valid = size === CSW_SIZE && view.getUint32(0, true) === CSW_SIGNATURE && view.getUint32(4, true) === tag;
    if (!valid || residue > command.length || status > STATUS.failed) {
      const what = valid
        ? `status ${String(status)}, residue ${String(residue)}`
        : `${String(size)} bytes that are no status`;
      throw new UsbError('ERR_DMAPOOL_USB_PROTOCOL', this.#link.name, `a command was answered with ${what}`);
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
      // The first error is what the caller should hear; the next command tries again.
    }
  }
}

/** A command block wrapper (BOT 5.1). */
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
