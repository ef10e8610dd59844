/** Reads and writes the blocks of a namespace. NVM Express Base Specification 1.4, 6. */
import { DmaArgumentError, writeAddress64 } from 'dmapool';
import {
  checkBoolean,
  checkBytes,
  checkInteger,
  checkObject,
  type OptionNames,
  reading,
  readOptions,
  isArray,
} from 'dmapool/arguments';
import { BouncedData, type BouncePages, type CommandData, DirectData, type DmaMemory } from './data.ts';
import type { Transfer } from './dispatcher.ts';
import { NvmeError } from './errors.ts';
import type { NamespaceFormat } from './formats.ts';
import type { NvmeIdentity, NvmeNamespaceIdentity } from './identify.ts';
import { checkTimeout, commandTimeout, MAX_TRANSFER, type NvmeCommandOptions } from './options.ts';
import type { PrpLists } from './prp.ts';
import type { NvmeCommand } from './queue-pair.ts';
import { DSM_DEALLOCATE, DSM_MAX_RANGES, DSM_RANGE_SIZE, IO_FLAG, NVM, PAGE_SIZE } from './registers.ts';

/** Maximum blocks per command: NLB has 16 bits and is 0's based (6.9, 6.15, 6.17). */
const MAX_BLOCKS = 0x10000;

/** Maximum commands of one call. They are all made before the first is submitted. */
const MAX_COMMANDS = 65536;

/** Options of a write. */
export interface NvmeWriteOptions {
  /** Force Unit Access: completes when the data is durable, past any volatile cache. Default false. */
  readonly fua?: boolean;
}

/** Options of Write Zeroes. */
export interface NvmeWriteZeroesOptions extends NvmeCommandOptions {
  /** The controller may deallocate the blocks. Default false. */
  readonly deallocate?: boolean;
}

/** Options of a transfer from or to DMA memory. */
export interface NvmeDmaOptions extends NvmeWriteOptions {
  /** First byte in the memory, a multiple of 4. Default 0. */
  readonly offset?: number;
  /** Bytes, a multiple of the block size. Default: from the offset to the end. */
  readonly length?: number;
}

/** A range of blocks to deallocate. */
export interface NvmeRange {
  /** First logical block. */
  readonly lba: number;
  /** Number of blocks, 1 to 2^32-1. */
  readonly blocks: number;
}

/** The controller, as seen by a namespace. @internal */
export interface NamespaceOwner {
  readonly address: string;
  readonly identity: NvmeIdentity;
  /** Maximum bytes per command. */
  readonly maxTransfer: number;
  readonly lists: PrpLists;
  readonly bounce: BouncePages;
  /** Submits an I/O command. */
  transfer(command: NvmeCommand, data: CommandData | null, timeout?: number): Promise<void>;
  /** Submits several I/O commands; settles after all of them have completed. */
  transferAll(transfers: readonly Transfer[]): Promise<void>;
}

const WRITE_OPTIONS: OptionNames<NvmeWriteOptions> = { fua: true };
const ZEROES_OPTIONS: OptionNames<NvmeWriteZeroesOptions> = { deallocate: true, timeout: true };
const DMA_OPTIONS: OptionNames<NvmeDmaOptions> = { fua: true, offset: true, length: true };
const RANGE: OptionNames<NvmeRange> = { lba: true, blocks: true };

/**
 * A namespace of a controller: logical blocks, numbered from 0. Transfers that exceed the controller's limit are split
 * into commands that run concurrently. If one fails, the transfer rejects after all have completed. The controller
 * checks the block addresses (`LBA Out of Range`).
 *
 * A command that may change the format of the namespace (Format NVM, Namespace Management or Namespace Attachment by
 * `NvmeController.admin`) makes it stale: its block size may have changed, and further commands fail with
 * `ERR_DMAPOOL_NVME_STALE_NAMESPACE`. Open it again.
 *
 * A buffer must not be modified until the promise settles. The transfer fails with `DmaArgumentError` if the buffer is
 * detached (for example by `postMessage`) or resized before its command is submitted or its read data is copied.
 *
 * @example
 * ```ts
 * const machine = await QemuMachine.start({
 *   drives: [{ id: 'disk0', file: 'null-co://', options: { 'file.read-zeroes': true, 'file.size': 1048576 } }],
 *   devices: [{ driver: 'nvme', id: 'nvme0', drive: 'disk0', serial: '1' }],
 * });
 * try {
 *   const pci = await machine.open('nvme0');
 *   const nvme = await NvmeController.open(pci, { queues: 2, queueDepth: 64 });
 *   const disk = await nvme.namespace(1);
 *   // Without a copy: memory that the device reaches.
 *   const pool = DmaPool.createManaged('buffers', pci.device, { size: 65536, align: 4096 });
 *   const buffer = pool.alloc();
 *   await disk.readDma(0, buffer, { length: 4096 });
 *   await disk.writeDma(8, buffer, { length: 4096, fua: true });
 *   pool.free(buffer);
 *   await nvme.close();
 *   await pci.close();
 * } finally {
 *   await machine.close();
 * }
 * ```
 */
export class NvmeNamespace {
  /** Namespace ID, from 1 up. */
  readonly nsid: number;
  /** Size of a logical block in bytes. */
  readonly blockSize: number;
  /** Number of logical blocks. */
  readonly blocks: number;
  /** Content that deallocated blocks return when read. */
  readonly deallocatedReads: 'zeros' | 'ones' | 'unknown';
  readonly #owner: NamespaceOwner;
  readonly #format: NamespaceFormat;
  /** Maximum bytes per command: whole blocks. */
  readonly #maxBytes: number;

  /** @internal */
  constructor(owner: NamespaceOwner, nsid: number, identity: NvmeNamespaceIdentity, format: NamespaceFormat) {
    this.#owner = owner;
    this.#format = format;
    this.nsid = nsid;
    this.blockSize = identity.blockSize;
    this.blocks = identity.blocks;
    this.deallocatedReads = identity.deallocatedReads;
    const blocks = Math.min(MAX_BLOCKS, Math.floor(owner.maxTransfer / identity.blockSize));
    // An unaligned transfer moves less than MAX_TRANSFER per command, and must move at least one block.
    if (blocks === 0 || identity.blockSize > MAX_TRANSFER / 2) {
      const most = String(Math.min(owner.maxTransfer, MAX_TRANSFER / 2));
      const message = `namespace ${String(nsid)} has blocks of ${String(identity.blockSize)} bytes; the maximum is ${most}`;
      throw new NvmeError('ERR_DMAPOOL_NVME_UNSUPPORTED', owner.address, message);
    }
    if (identity.metadataSize !== 0) {
      const message = `namespace ${String(nsid)} has metadata, which this driver does not support`;
      throw new NvmeError('ERR_DMAPOOL_NVME_UNSUPPORTED', owner.address, message);
    }
    this.#maxBytes = blocks * identity.blockSize;
  }

  /** Size in bytes. */
  get size(): number {
    return this.blocks * this.blockSize;
  }

  /**
   * Reads blocks (6.9) into a buffer.
   *
   * @param lba First logical block. @param buffer One or more whole blocks. Undefined content after an error.
   */
  read(lba: number, buffer: Uint8Array): Promise<void> {
    return this.#transferBuffer(NVM.read, lba, buffer, 0);
  }

  /**
   * Writes blocks (6.15) from a buffer.
   *
   * @param lba First logical block. @param buffer One or more whole blocks. @param options Force Unit Access.
   */
  write(lba: number, buffer: Uint8Array, options?: NvmeWriteOptions): Promise<void> {
    const fua = options === undefined ? false : readOptions('options', options, WRITE_OPTIONS).fua;
    return this.#transferBuffer(NVM.write, lba, buffer, flagsOf(fua));
  }

  /**
   * Reads blocks into DMA memory of the controller's device, without a copy: a block of a `DmaPool` on `pci.device`, or
   * memory from `pci.device.allocCoherent`.
   *
   * @param lba First logical block. @param memory Destination. @param options Part of the memory to use.
   */
  readDma(lba: number, memory: DmaMemory, options?: NvmeDmaOptions): Promise<void> {
    return this.#transferDma(NVM.read, lba, memory, options);
  }

  /** Writes blocks from DMA memory, without a copy; see {@link NvmeNamespace.readDma}. */
  writeDma(lba: number, memory: DmaMemory, options?: NvmeDmaOptions): Promise<void> {
    return this.#transferDma(NVM.write, lba, memory, options);
  }

  /**
   * Reads blocks into several pieces of DMA memory: as many {@link NvmeNamespace.readDma}, but with one promise, which
   * costs about a quarter less CPU time for each (32 reads of 4 KiB). If an argument is invalid, nothing is transferred.
   *
   * Rejects after all transfers have ended, with the error that came first; the others may have succeeded. If the
   * controller can't be stopped, it rejects with `ERR_DMAPOOL_PCI_DMA_ACTIVE`: do not reuse any of the memory.
   *
   * @param lbas First logical block of each transfer. @param memories Destination of each: all of its bytes. At most
   *   65,536 commands in all.
   * @example
   * ```ts
   * const machine = await QemuMachine.start({
   *   drives: [{ id: 'disk0', file: 'null-co://', options: { 'file.read-zeroes': true, 'file.size': 1048576 } }],
   *   devices: [{ driver: 'nvme', id: 'nvme0', drive: 'disk0', serial: '1' }],
   * });
   * try {
   *   const pci = await machine.open('nvme0');
   *   const nvme = await NvmeController.open(pci);
   *   const disk = await nvme.namespace(1);
   *   const pool = DmaPool.createManaged('buffers', pci.device, { size: 4096, align: 4096 });
   *   const blocks = [pool.alloc(), pool.alloc(), pool.alloc()];
   *   await disk.readDmaBulk([0, 64, 128], blocks);
   *   pool.freeBulk(blocks);
   *   await nvme.close();
   *   await pci.close();
   * } finally {
   *   await machine.close();
   * }
   * ```
   */
  readDmaBulk(lbas: readonly number[], memories: readonly DmaMemory[]): Promise<void> {
    return this.#transferBulk(NVM.read, lbas, memories, 0);
  }

  /**
   * Writes blocks from several pieces of DMA memory; see {@link NvmeNamespace.readDmaBulk}. The controller may write them
   * in any order.
   *
   * @param lbas First logical block of each transfer. @param memories Source of each. @param options Force Unit Access.
   */
  writeDmaBulk(lbas: readonly number[], memories: readonly DmaMemory[], options?: NvmeWriteOptions): Promise<void> {
    const fua = options === undefined ? false : readOptions('options', options, WRITE_OPTIONS).fua;
    return this.#transferBulk(NVM.write, lbas, memories, flagsOf(fua));
  }

  /** Flush (6.8): all data written so far is durable when it resolves. @param options Time limit. */
  async flush(options: NvmeCommandOptions = {}): Promise<void> {
    await this.#submit({ opcode: NVM.flush, nsid: this.nsid }, null, commandTimeout(options));
  }

  /**
   * Write Zeroes (6.17): makes blocks read as zeros, without data transfer.
   *
   * @param lba First logical block. @param blocks Number of blocks. @param options Permission to deallocate; time limit
   *   of each command of up to 65536 blocks.
   */
  async writeZeroes(lba: number, blocks: number, options: NvmeWriteZeroesOptions = {}): Promise<void> {
    const { deallocate = false, timeout } = readOptions('options', options, ZEROES_OPTIONS);
    checkTimeout(timeout);
    checkBoolean('deallocate', deallocate);
    checkInteger('lba', lba, 0, Number.MAX_SAFE_INTEGER);
    checkInteger('blocks', blocks, 1, Number.MAX_SAFE_INTEGER - lba);
    this.#checkSupport(this.#owner.identity.writeZeroes, 'Write Zeroes');
    // Sequentially: there may be very many commands.
    for (let done = 0; done < blocks; done += MAX_BLOCKS) {
      const length = Math.min(MAX_BLOCKS, blocks - done) * this.blockSize;
      const flags = deallocate ? IO_FLAG.deallocate : 0;
      await this.#blocksCommand(NVM.writeZeroes, lba + done, length, flags, null, timeout);
    }
  }

  /**
   * Deallocates blocks whose content is no longer needed (6.7). See {@link NvmeNamespace.deallocatedReads} for the
   * content that they return until they are written. The controller may also keep the old content.
   *
   * @param ranges 1 to 256 ranges. @param options Time limit.
   */
  async deallocate(ranges: readonly NvmeRange[], options: NvmeCommandOptions = {}): Promise<void> {
    const timeout = commandTimeout(options);
    if (!isArray(ranges)) throw new DmaArgumentError('ranges', ranges, 'an array');
    checkInteger('ranges.length', ranges.length, 1, DSM_MAX_RANGES);
    this.#checkSupport(this.#owner.identity.datasetManagement, 'Dataset Management');
    const list = new Uint8Array(ranges.length * DSM_RANGE_SIZE);
    const view = new DataView(list.buffer);
    for (const [i, range] of (ranges as readonly NvmeRange[]).entries()) {
      const { lba, blocks } = readOptions('range', range, RANGE);
      checkInteger('lba', lba, 0, Number.MAX_SAFE_INTEGER);
      checkInteger('blocks', blocks, 1, 0xffff_ffff);
      view.setUint32(i * DSM_RANGE_SIZE + 4, blocks, true);
      writeAddress64(view, i * DSM_RANGE_SIZE + 8, lba);
    }
    const { nsid } = this;
    const command = { opcode: NVM.datasetManagement, nsid, cdw10: ranges.length - 1, cdw11: DSM_DEALLOCATE };
    await this.#submit(command, new BouncedData(this.#owner.bounce, list, 'toDevice'), timeout);
  }

  #transferBuffer(opcode: number, lba: number, buffer: Uint8Array, flags: number): Promise<void> {
    checkBytes('buffer', buffer);
    const { length } = buffer;
    const { bounce } = this.#owner;
    const direction = opcode === NVM.write ? 'toDevice' : 'fromDevice';
    this.#checkRange(lba, length);
    if (length <= this.#maxBytes) {
      return this.#blocksCommand(opcode, lba, length, flags, new BouncedData(bounce, buffer, direction));
    }
    const parts: Transfer[] = [];
    this.#split(parts, opcode, lba, length, this.#maxBytes, flags, (offset, part) => {
      return new BouncedData(bounce, buffer.subarray(offset, offset + part), direction);
    });
    return this.#submitAll(parts);
  }

  #transferDma(opcode: number, lba: number, memory: DmaMemory, options: NvmeDmaOptions | undefined): Promise<void> {
    const { dma, size } = addressOf(memory);
    let offset = 0;
    let length = size;
    let flags = 0;
    if (options !== undefined) {
      const given = readOptions('options', options, DMA_OPTIONS);
      offset = given.offset ?? 0;
      checkInteger('offset', offset, 0, size - 1);
      length = given.length ?? size - offset;
      checkInteger('length', length, 1, size - offset);
      flags = flagsOf(given.fua);
    }
    const first = dma + offset;
    const maxBytes = this.#checkDma(lba, first, length);
    const { lists } = this.#owner;
    if (length <= maxBytes) {
      return this.#blocksCommand(opcode, lba, length, flags, new DirectData(lists, first, length));
    }
    const parts: Transfer[] = [];
    this.#split(parts, opcode, lba, length, maxBytes, flags, (from, part) => new DirectData(lists, first + from, part));
    return this.#submitAll(parts);
  }

  #transferBulk(opcode: number, lbas: readonly number[], memories: readonly DmaMemory[], flags: number): Promise<void> {
    const first = copyOf('lbas', lbas, 1, MAX_COMMANDS);
    const pieces = copyOf('memories', memories, first.length, first.length);
    const { lists } = this.#owner;
    const transfers: Transfer[] = [];
    for (let i = 0; i < first.length; i++) {
      const lba = first[i]!;
      const { dma, size } = addressOf(pieces[i]!);
      const maxBytes = this.#checkDma(lba, dma, size);
      if (size <= maxBytes) {
        transfers.push({ command: this.#command(opcode, lba, size, flags), data: new DirectData(lists, dma, size) });
      } else {
        this.#split(transfers, opcode, lba, size, maxBytes, flags, (from, part) => {
          return new DirectData(lists, dma + from, part);
        });
      }
    }
    return this.#submitAll(transfers);
  }

  /** Checks a transfer from or to DMA memory. Returns the most bytes of a command. */
  #checkDma(lba: number, dma: number, length: number): number {
    // Bits 1:0 of PRP1 must be 0 (4.3).
    if (dma % 4 !== 0) throw new DmaArgumentError('memory', dma, 'an address that is a multiple of 4');
    this.#checkRange(lba, length);
    // An unaligned transfer touches one more page.
    const most = dma % PAGE_SIZE === 0 ? MAX_TRANSFER : MAX_TRANSFER - Math.max(PAGE_SIZE, this.blockSize);
    return Math.min(most, this.#maxBytes);
  }

  #checkRange(lba: number, length: number): void {
    const { blockSize } = this;
    checkInteger('lba', lba, 0, Number.MAX_SAFE_INTEGER - length);
    if (length === 0 || length % blockSize !== 0) {
      throw new DmaArgumentError('length', length, `a positive multiple of the block size, ${String(blockSize)}`);
    }
  }

  /**
   * Appends the commands that transfer `length` bytes, of at most `maxBytes` each.
   * @throws `DmaArgumentError` if one call would have more than {@link MAX_COMMANDS}.
   */
  #split(
    into: Transfer[],
    opcode: number,
    lba: number,
    length: number,
    maxBytes: number,
    flags: number,
    dataOf: (offset: number, length: number) => CommandData,
  ): void {
    const most = (MAX_COMMANDS - into.length) * maxBytes;
    if (length > most) throw new DmaArgumentError('length', length, `at most ${String(most)} bytes for one call`);
    for (let offset = 0; offset < length; offset += maxBytes) {
      const part = Math.min(maxBytes, length - offset);
      const command = this.#command(opcode, lba + offset / this.blockSize, part, flags);
      into.push({ command, data: dataOf(offset, part) });
    }
  }

  /** A command for `length` bytes: SLBA in dwords 10 and 11, NLB (0's based) in bits 15:0 of dword 12. */
  #command(opcode: number, lba: number, length: number, flags: number): NvmeCommand {
    return {
      opcode,
      nsid: this.nsid,
      cdw10: lba % 2 ** 32,
      cdw11: lba / 2 ** 32,
      cdw12: flags + length / this.blockSize - 1,
    };
  }

  #blocksCommand(
    opcode: number,
    lba: number,
    length: number,
    flags: number,
    data: CommandData | null,
    timeout?: number,
  ): Promise<void> {
    return this.#submit(this.#command(opcode, lba, length, flags), data, timeout);
  }

  #submit(command: NvmeCommand, data: CommandData | null, timeout?: number): Promise<void> {
    return this.#format.isStale ? this.#rejectStale() : this.#owner.transfer(command, data, timeout);
  }

  #submitAll(transfers: readonly Transfer[]): Promise<void> {
    return this.#format.isStale ? this.#rejectStale() : this.#owner.transferAll(transfers);
  }

  #rejectStale(): Promise<never> {
    const message = `the format of namespace ${String(this.nsid)} may have changed since it was opened; open it again`;
    return Promise.reject(new NvmeError('ERR_DMAPOOL_NVME_STALE_NAMESPACE', this.#owner.address, message));
  }

  #checkSupport(supported: boolean, command: string): void {
    if (!supported)
      throw new NvmeError(
        'ERR_DMAPOOL_NVME_UNSUPPORTED',
        this.#owner.address,
        `the controller has no ${command} command`,
      );
  }
}

/** Reads and checks address and size, once. */
function addressOf(memory: DmaMemory): { readonly dma: number; readonly size: number } {
  checkObject('memory', memory);
  let dma: unknown;
  let size: unknown;
  try {
    ({ dma, size } = memory);
  } catch (error) {
    return reading('memory', memory, 'memory that the device can reach', () => {
      throw error;
    });
  }
  checkInteger('memory.dma', dma, 0, Number.MAX_SAFE_INTEGER);
  checkInteger('memory.size', size, 1, Number.MAX_SAFE_INTEGER - dma);
  return { dma, size };
}

function flagsOf(fua = false): number {
  checkBoolean('fua', fua);
  return fua ? IO_FLAG.forceUnitAccess : 0;
}

/** Copies an array of the caller, which may change it later. Checks the length first. */
function copyOf<T>(name: string, given: readonly T[], low: number, high: number): T[] {
  if (!isArray(given)) throw new DmaArgumentError(name, given, 'an array');
  const length = reading(name, given, 'an array', () => given.length);
  checkInteger(`${name}.length`, length, low, high);
  return reading(name, given, 'an array', () => {
    const copy: T[] = [];
    for (let i = 0; i < length; i++) copy.push(given[i]!);
    return copy;
  });
}
