/** USB mass storage with SCSI commands (interface class 8, subclass 6, protocol 50h). */
import { DmaArgumentError } from 'dmapool';
import { checkBytes, checkInteger, isInstance } from 'dmapool/arguments';
import { checkConstructorKey, CONSTRUCTOR_KEY } from '../common/arguments.ts';
import { delay } from '../common/time.ts';
import type { UsbBuffer } from './buffer.ts';
import { type BulkOnlyLink, BulkOnlyTransport } from './bulk-only.ts';
import type { EndpointDescriptor } from './descriptors.ts';
import { type BulkPipe, type TransferOptions, UsbDevice } from './device.ts';
import { ScsiError, UsbError } from './errors.ts';
import {
  blocks,
  CAPACITY10_LENGTH,
  CAPACITY16_LENGTH,
  command10,
  command6,
  INQUIRY_LENGTH,
  OPERATION,
  readCapacity16,
  INVALID_OPERATION,
  SENSE,
  SENSE_LENGTH,
  text,
} from './scsi.ts';

/** Mass storage, SCSI transparent command set, bulk-only transport (BOT 4.3). */
const INTERFACE = { interfaceClass: 8, interfaceSubclass: 6, interfaceProtocol: 0x50 } as const;
/** Class requests (BOT 3.1, 3.2). */
const REQUEST = { reset: 0xff, getMaxLun: 0xfe } as const;
/** Maximum bytes per command: seven qTDs. */
export const MAX_COMMAND: number = 128 * 1024;
/** Supported block sizes in bytes. They divide {@link MAX_COMMAND}. */
const BLOCK_SIZES: readonly number[] = [512, 1024, 2048, 4096];
/** Maximum number of readiness checks of a disk, and milliseconds between them. */
const READY_ATTEMPTS = 50;
const READY_INTERVAL = 20;
const MAX_LUN = 15;
const MAX_CDB = 16;

/**
 * Driver of a USB disk.
 *
 * Commands run one after another, in the order of the calls: the transport allows one at a time.
 *
 * @example
 * ```ts
 * const machine = await QemuMachine.start({
 *   drives: [{ id: 'disk0', file: 'null-co://' }],
 *   devices: ['usb-ehci,id=ehci', 'usb-storage,bus=ehci.0,drive=disk0'],
 * });
 * const pci = await machine.open('ehci');
 * const controller = await EhciController.open(pci);
 * const disk = await MassStorage.open(await controller.connect());
 * const sector = new Uint8Array(disk.blockSize);
 * await disk.read(0, sector);
 * await disk.write(1, sector);
 * await disk.flush();
 * await controller.close();
 * await machine.close();
 * ```
 */
export class MassStorage {
  /** Size of a block in bytes. Transfers are multiples of it. */
  readonly blockSize: number;
  /** Number of blocks. */
  readonly blocks: number;
  /** Vendor, from INQUIRY. */
  readonly vendor: string;
  /** Product, from INQUIRY. */
  readonly product: string;
  /** Product revision, from INQUIRY. */
  readonly revision: string;
  /** Highest logical unit number. This class uses unit 0. */
  readonly maxLun: number;
  readonly #unit: LogicalUnit;
  /** The disk rejected SYNCHRONIZE CACHE: it has no write cache. */
  #hasNoCache = false;

  private constructor(
    key: symbol,
    unit: LogicalUnit,
    maxLun: number,
    inquiry: Uint8Array,
    blockCount: number,
    blockSize: number,
  ) {
    checkConstructorKey(key, 'MassStorage', 'MassStorage.open()');
    this.#unit = unit;
    this.maxLun = maxLun;
    this.vendor = text(inquiry, 8, 16);
    this.product = text(inquiry, 16, 32);
    this.revision = text(inquiry, 32, 36);
    this.blocks = blockCount;
    this.blockSize = blockSize;
  }

  /**
   * Opens the disk on a device.
   *
   * @param device A device with a mass-storage interface that is not open.
   * @throws {@link UsbError} `ERR_DMAPOOL_USB_UNSUPPORTED` when the device has no such interface,
   *   `ERR_DMAPOOL_USB_BUSY` when it is open, {@link ScsiError} when the disk does not become ready; errors of
   *   transfers. @throws `DmaOutOfMemoryError`
   */
  static async open(device: UsbDevice): Promise<MassStorage> {
    if (!isInstance(device, UsbDevice)) throw new DmaArgumentError('device', device, 'a UsbDevice');
    const unit = await LogicalUnit.open(device);
    try {
      const maxLun = await unit.getMaxLun();
      const inquiry = await unit.read(command6(OPERATION.inquiry, INQUIRY_LENGTH), INQUIRY_LENGTH);
      await unit.untilReady();
      const [count, size] = await unit.capacity();
      if (!BLOCK_SIZES.includes(size)) {
        throw new UsbError('ERR_DMAPOOL_USB_UNSUPPORTED', device.name, `blocks of ${String(size)} bytes`);
      }
      return new MassStorage(CONSTRUCTOR_KEY, unit, maxLun, inquiry, count, size);
    } catch (error) {
      await unit.close();
      throw error;
    }
  }

  /**
   * Reads blocks.
   *
   * @param lba First block, from 0.
   * @param into Destination. Its length is a multiple of {@link MassStorage.blockSize}.
   * @param options Time limit of each transfer.
   * @throws `DmaArgumentError` for blocks beyond the end of the disk. @throws {@link ScsiError} {@link UsbError}
   *   `DmaOutOfMemoryError`
   */
  async read(lba: number, into: Uint8Array, options?: TransferOptions): Promise<void> {
    checkBytes('into', into);
    this.#check(lba, into.length);
    for (let at = 0; at < into.length; at += MAX_COMMAND) {
      const piece = into.subarray(at, at + MAX_COMMAND);
      using buffer = this.#unit.device.buffer(piece.length);
      await this.readInto(lba + at / this.blockSize, buffer, piece.length, options);
      buffer.copyTo(piece);
    }
  }

  /** Writes blocks; see {@link MassStorage.read}. They may stay in the disk's cache until {@link MassStorage.flush}. */
  async write(lba: number, from: Uint8Array, options?: TransferOptions): Promise<void> {
    checkBytes('from', from);
    this.#check(lba, from.length);
    for (let at = 0; at < from.length; at += MAX_COMMAND) {
      const piece = from.subarray(at, at + MAX_COMMAND);
      using buffer = this.#unit.device.buffer(piece.length);
      buffer.set(piece);
      await this.writeFrom(lba + at / this.blockSize, buffer, piece.length, options);
    }
  }

  /** {@link MassStorage.read} without a copy: one command of at most 128 KiB, into a buffer of the controller. */
  readInto(lba: number, into: UsbBuffer, length: number, options?: TransferOptions): Promise<void> {
    return this.#move('read', lba, into, length, options);
  }

  /** {@link MassStorage.write} without a copy. */
  writeFrom(lba: number, from: UsbBuffer, length: number, options?: TransferOptions): Promise<void> {
    return this.#move('write', lba, from, length, options);
  }

  /**
   * Resolves when all data written so far is durable. If the disk rejects SYNCHRONIZE CACHE, it has no cache, and later
   * calls send no command.
   * @param options Time limit.
   */
  async flush(options?: TransferOptions): Promise<void> {
    if (this.#hasNoCache) {
      await this.#unit.inTurn(options);
      return;
    }
    try {
      await this.#unit.run(command10(OPERATION.synchronizeCache10), 'out', null, 0, options);
    } catch (error) {
      const unknown =
        error instanceof ScsiError && error.key === SENSE.illegalRequest && error.asc === INVALID_OPERATION;
      if (!unknown) throw error;
      this.#hasNoCache = true;
    }
  }

  /**
   * Runs a SCSI command that reads data, or transfers none.
   *
   * @param cdb Command descriptor block, 1 to 16 bytes.
   * @param length Maximum bytes to read, up to 128 KiB.
   * @param lun Logical unit, 0 to 15.
   * @throws {@link ScsiError} when the command fails; {@link UsbError} `ERR_DMAPOOL_USB_STALL` when the device rejects
   *   the command block.
   */
  async command(cdb: Uint8Array, length = 0, lun = 0): Promise<Uint8Array> {
    checkBytes('cdb', cdb, 1, MAX_CDB);
    checkInteger('length', length, 0, MAX_COMMAND);
    checkInteger('lun', lun, 0, MAX_LUN);
    return this.#unit.read(cdb, length, lun);
  }

  /** Closes the disk, but not the device. Commands in flight fail. It is safe to call `close` twice. */
  close(): Promise<void> {
    return this.#unit.close();
  }

  /** {@link MassStorage.close}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #move(
    what: 'read' | 'write',
    lba: number,
    buffer: UsbBuffer,
    length: number,
    options?: TransferOptions,
  ): Promise<void> {
    this.#unit.device.checkBuffer(buffer);
    checkInteger('length', length, 0, Math.min(MAX_COMMAND, buffer.length));
    this.#check(lba, length);
    if (length === 0) return;
    const cdb = blocks(what, lba, length / this.blockSize);
    // Hold the buffer while the command waits, too.
    buffer.hold();
    let moved: number;
    try {
      moved = await this.#unit.run(cdb, what === 'read' ? 'in' : 'out', buffer, length, options);
    } finally {
      buffer.release();
    }
    if (moved < length) {
      const { name } = this.#unit.device;
      const counts = `${String(moved)} of ${String(length)} bytes at block ${String(lba)}`;
      throw new UsbError('ERR_DMAPOOL_USB_PROTOCOL', name, `the disk reported success for a ${what} of only ${counts}`);
    }
  }

  #check(lba: number, length: number): void {
    checkInteger('lba', lba, 0, this.blocks);
    const most = (this.blocks - lba) * this.blockSize;
    if (length % this.blockSize !== 0 || length > most) {
      const accepted = `a multiple of ${String(this.blockSize)} bytes, at most ${String(most)} at block ${String(lba)}`;
      throw new DmaArgumentError('length', length, accepted);
    }
  }
}

/** Logical units of a device, which run one command at a time. */
class LogicalUnit {
  readonly device: UsbDevice;
  readonly #interface: number;
  readonly #pipes: Readonly<Record<'in' | 'out', BulkPipe>>;
  readonly #transport: BulkOnlyTransport;
  #turn: Promise<unknown> = Promise.resolve();
  #options: TransferOptions = {};

  private constructor(device: UsbDevice, number: number, pipes: Readonly<Record<'in' | 'out', BulkPipe>>) {
    this.device = device;
    this.#interface = number;
    this.#pipes = pipes;
    const link: BulkOnlyLink = {
      name: device.name,
      buffer: (length) => device.buffer(length),
      transfer: (direction, buffer, length) => pipes[direction].transfer(buffer, length, this.#options),
      clearHalt: (direction) => pipes[direction].clearHalt(),
      reset: () => {
        const setup = { requestType: 'class', recipient: 'interface', request: REQUEST.reset } as const;
        return device.controlOut({ ...setup, value: 0, index: number });
      },
    };
    this.#transport = new BulkOnlyTransport(link);
  }

  static async open(device: UsbDevice): Promise<LogicalUnit> {
    const found = device.configuration.interfaces.find(
      (candidate) =>
        candidate.interfaceClass === INTERFACE.interfaceClass &&
        candidate.interfaceSubclass === INTERFACE.interfaceSubclass &&
        candidate.interfaceProtocol === INTERFACE.interfaceProtocol,
    );
    const bulk = (direction: 'in' | 'out'): EndpointDescriptor | undefined =>
      found?.endpoints.find((endpoint) => endpoint.type === 'bulk' && endpoint.direction === direction);
    const [input, output] = [bulk('in'), bulk('out')];
    if (found === undefined || input === undefined || output === undefined) {
      throw new UsbError('ERR_DMAPOOL_USB_UNSUPPORTED', device.name, 'no interface for bulk-only SCSI mass storage');
    }
    const inPipe = await device.openBulk(input);
    try {
      return new LogicalUnit(device, found.number, { in: inPipe, out: await device.openBulk(output) });
    } catch (error) {
      await inPipe.close();
      throw error;
    }
  }

  /** Get Max LUN (BOT 3.2). A device with one unit may stall the request. */
  async getMaxLun(): Promise<number> {
    const setup = { requestType: 'class', recipient: 'interface', request: REQUEST.getMaxLun } as const;
    try {
      return (await this.device.controlIn({ ...setup, value: 0, index: this.#interface }, 1))[0] ?? 0;
    } catch (error) {
      if (error instanceof UsbError && error.code === 'ERR_DMAPOOL_USB_STALL') return 0;
      throw error;
    }
  }

  /** Sends TEST UNIT READY until it succeeds. The first ones may report a unit attention for earlier events (SPC-4). */
  async untilReady(): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        await this.run(command6(OPERATION.testUnitReady), 'out', null, 0);
        return;
      } catch (error) {
        const passing =
          error instanceof ScsiError && (error.key === SENSE.unitAttention || error.key === SENSE.notReady);
        if (!passing || attempt === READY_ATTEMPTS) throw error;
        if (error.key === SENSE.notReady) await delay(READY_INTERVAL);
      }
    }
  }

  /** READ CAPACITY (SBC-3). @returns Number and size of the blocks. */
  async capacity(): Promise<[count: number, size: number]> {
    const short = await this.#readWhole(command10(OPERATION.readCapacity10), CAPACITY10_LENGTH);
    if (short.getUint32(0) !== 0xffff_ffff) return [short.getUint32(0) + 1, short.getUint32(4)];
    const long = await this.#readWhole(readCapacity16(), CAPACITY16_LENGTH);
    return [long.getUint32(0) * 2 ** 32 + long.getUint32(4) + 1, long.getUint32(8)];
  }

  /** Runs a command that reads up to `length` bytes. */
  async read(cdb: Uint8Array, length: number, lun = 0): Promise<Uint8Array> {
    using buffer = this.device.buffer(length);
    const bytes = new Uint8Array(await this.run(cdb, 'in', buffer, length, {}, lun));
    buffer.copyTo(bytes);
    return bytes;
  }

  /** Runs a command. @returns Bytes transferred. @throws {@link ScsiError} with the sense data if it fails. */
  run(
    cdb: Uint8Array,
    direction: 'in' | 'out',
    buffer: UsbBuffer | null,
    length: number,
    options: TransferOptions = {},
    lun = 0,
  ): Promise<number> {
    this.device.timeoutOf(options);
    const running = this.#turn.then(async () => {
      this.#options = options;
      const result = await this.#transport.run({ cdb, direction, buffer, length, lun });
      if (!result.passed) throw await this.#sense(cdb[0]!, lun);
      return result.length;
    });
    this.#turn = running.catch(() => undefined);
    return running;
  }

  /** Resolves when the commands queued before are complete. @throws The reason if the device is gone or closed. */
  async inTurn(options: TransferOptions = {}): Promise<void> {
    this.device.timeoutOf(options);
    await this.#turn;
    this.device.removed.throwIfAborted();
  }

  async close(): Promise<void> {
    await Promise.all([this.#pipes.in.close(), this.#pipes.out.close()]);
  }

  async #readWhole(cdb: Uint8Array, length: number): Promise<DataView> {
    const bytes = await this.read(cdb, length);
    if (bytes.length === length) return new DataView(bytes.buffer);
    const what = `${String(bytes.length)} bytes of capacity data instead of ${String(length)}`;
    throw new UsbError('ERR_DMAPOOL_USB_PROTOCOL', this.device.name, `the disk returned ${what}`);
  }

  /** REQUEST SENSE (SPC-4), in fixed format. */
  async #sense(operation: number, lun: number): Promise<Error> {
    using buffer = this.device.buffer(SENSE_LENGTH);
    const cdb = command6(OPERATION.requestSense, SENSE_LENGTH);
    const result = await this.#transport.run({ cdb, direction: 'in', buffer, length: SENSE_LENGTH, lun });
    const sense = new Uint8Array(SENSE_LENGTH);
    if (result.passed) buffer.copyTo(sense.subarray(0, result.length));
    return new ScsiError(this.device.name, operation, sense[2]! & 0xf, sense[12]!, sense[13]!);
  }
}
