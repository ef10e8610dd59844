/** A namespace: what users read and write. NVM Express Base Specification 1.4, 6. */
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
import { PciError } from 'dmapool/pci';
import { BouncedData, type BouncePages, type CommandData, DirectData, type DmaMemory } from './data.ts';
import { NvmeError } from './errors.ts';
import type { NamespaceFormat } from './formats.ts';
import type { NvmeIdentity, NvmeNamespaceIdentity } from './identify.ts';
import { checkTimeout, commandTimeout, MAX_TRANSFER, type NvmeCommandOptions } from './options.ts';
import type { PrpLists } from './prp.ts';
import type { NvmeCommand } from './queue-pair.ts';
import { DSM_DEALLOCATE, DSM_MAX_RANGES, DSM_RANGE_SIZE, IO_FLAG, NVM, PAGE_SIZE } from './registers.ts';

/** Most blocks of one command: a count of 16 bits, from 1 up (6.9, 6.15, 6.17). */
const MAX_BLOCKS = 0x10000;

/** How to write. */
export interface NvmeWriteOptions {
  /** Force Unit Access: done when it lasts, past any volatile cache. Default false. */
  readonly fua?: boolean;
}

/** How to write zeroes. */
export interface NvmeWriteZeroesOptions extends NvmeCommandOptions {
  /** The controller may deallocate the blocks. Default false. */
  readonly deallocate?: boolean;
}

/** What part of DMA memory to transfer. */
export interface NvmeDmaOptions extends NvmeWriteOptions {
  /** First byte, a multiple of 4. Default 0. */
  readonly offset?: number;
  /** Bytes, a multiple of the block size. Default: all from the offset on. */
  readonly length?: number;
}

/** Blocks to be deallocated. */
export interface NvmeRange {
  /** First logical block. */
  readonly lba: number;
  /** How many, 1 to 2^32-1. */
  readonly blocks: number;
}

/** What a namespace needs of its controller. @internal */
export interface NamespaceOwner {
  readonly address: string;
  readonly identity: NvmeIdentity;
  /** Most bytes of one command. */
  readonly maxTransfer: number;
  readonly lists: PrpLists;
  readonly bounce: BouncePages;
  /** Submits an I/O command. */
  transfer(command: NvmeCommand, data: CommandData | null, timeout?: number): Promise<number>;
}

const WRITE_OPTIONS: OptionNames<NvmeWriteOptions> = { fua: true };
const ZEROES_OPTIONS: OptionNames<NvmeWriteZeroesOptions> = { deallocate: true, timeout: true };
const DMA_OPTIONS: OptionNames<NvmeDmaOptions> = { fua: true, offset: true, length: true };
const RANGE: OptionNames<NvmeRange> = { lba: true, blocks: true };

/**
 * A namespace of a controller: logical blocks, from 0 up. Transfers of more than the controller takes at once are cut, and
 * their parts run side by side; when one fails, the others are awaited first. Whether a block exists is the controller's
 * to say (`LBA Out of Range`).
 *
 * Whatever may change its format (Format NVM, Namespace Management, Namespace Attachment by `NvmeController.admin`) makes it
 * stale: each command fails with `ERR_DMAPOOL_NVME_STALE_NAMESPACE`, for its block size may be another one. Open it anew.
 *
 * Buffers must be left alone until the promise is settled. One that was detached (by `postMessage`, say) or resized before
 * its command was submitted, or before what was read could be copied into it, is a `DmaArgumentError`.
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
  /** Bytes of a logical block. */
  readonly blockSize: number;
  /** Logical blocks. */
  readonly blocks: number;
  /** What deallocated blocks read as. */
  readonly deallocatedReads: 'zeros' | 'ones' | 'unknown';
  readonly #owner: NamespaceOwner;
  readonly #format: NamespaceFormat;
  /** Bytes of one command: whole blocks. */
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
    // Of what begins inside a page less than MAX_TRANSFER is moved at once, and it must be a block at least.
    if (blocks === 0 || identity.blockSize > MAX_TRANSFER / 2) {
      const most = String(Math.min(owner.maxTransfer, MAX_TRANSFER / 2));
      const message = `namespace ${String(nsid)} has blocks of ${String(identity.blockSize)} bytes; at most ${most} can be`;
      throw new NvmeError('ERR_DMAPOOL_NVME_UNSUPPORTED', owner.address, message);
    }
    if (identity.metadataSize !== 0) {
      const message = `namespace ${String(nsid)} has metadata, which this driver does not know`;
      throw new NvmeError('ERR_DMAPOOL_NVME_UNSUPPORTED', owner.address, message);
    }
    this.#maxBytes = blocks * identity.blockSize;
  }

  /** Bytes in all. */
  get size(): number {
    return this.blocks * this.blockSize;
  }

  /**
   * Reads blocks (6.9) into a buffer.
   *
   * @param lba First logical block. @param buffer Whole blocks, at least one; its content is undefined after an error.
   */
  read(lba: number, buffer: Uint8Array): Promise<void> {
    return this.#transferBuffer(NVM.read, lba, buffer, 0);
  }

  /**
   * Writes blocks (6.15) from a buffer.
   *
   * @param lba First logical block. @param buffer Whole blocks, at least one.
   * @param options Whether it must last at once.
   */
  write(lba: number, buffer: Uint8Array, options: NvmeWriteOptions = {}): Promise<void> {
    return this.#transferBuffer(NVM.write, lba, buffer, flagsOf(readOptions('options', options, WRITE_OPTIONS).fua));
  }

  /**
   * Reads blocks into DMA memory of the controller's device, without a copy: a block of a `DmaPool` on `pci.device`, or what
   * `pci.device.allocCoherent` gave.
   *
   * @param lba First logical block. @param memory Where the data goes. @param options Which part of the memory.
   */
  readDma(lba: number, memory: DmaMemory, options: NvmeDmaOptions = {}): Promise<void> {
    return this.#transferDma(NVM.read, lba, memory, options);
  }

  /** Writes blocks from DMA memory, without a copy; see {@link NvmeNamespace.readDma}. */
  writeDma(lba: number, memory: DmaMemory, options: NvmeDmaOptions = {}): Promise<void> {
    return this.#transferDma(NVM.write, lba, memory, options);
  }

  /** What was written lasts from now on, also without power (6.8). @param options How long it may take. */
  async flush(options: NvmeCommandOptions = {}): Promise<void> {
    await this.#submit({ opcode: NVM.flush, nsid: this.nsid }, null, commandTimeout(options));
  }

  /**
   * Makes blocks read as zeros (6.17). No data is transferred.
   *
   * @param lba First logical block. @param blocks How many. @param options Whether they may be deallocated, and how long each
   *   command of up to 65536 blocks may take.
   */
  async writeZeroes(lba: number, blocks: number, options: NvmeWriteZeroesOptions = {}): Promise<void> {
    const { deallocate = false, timeout } = readOptions('options', options, ZEROES_OPTIONS);
    checkTimeout(timeout);
    checkBoolean('deallocate', deallocate);
    checkInteger('lba', lba, 0, Number.MAX_SAFE_INTEGER);
    checkInteger('blocks', blocks, 1, Number.MAX_SAFE_INTEGER - lba);
    this.#checkSupport(this.#owner.identity.writeZeroes, 'Write Zeroes');
    // One after the other: there may be very many.
    for (let done = 0; done < blocks; done += MAX_BLOCKS) {
      const count = Math.min(MAX_BLOCKS, blocks - done);
      await this.#blocksCommand(NVM.writeZeroes, lba + done, count, deallocate ? IO_FLAG.deallocate : 0, null, timeout);
    }
  }

  /**
   * Tells the controller that the content of blocks is not needed any more (6.7). What they read as until they are written
   * says {@link NvmeNamespace.deallocatedReads}; a controller may also leave them as they are.
   *
   * @param ranges 1 to 256. @param options How long it may take.
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
    return this.#cut(opcode, lba, buffer.length, this.#maxBytes, flags, (offset, length) => {
      const part = length === buffer.length ? buffer : buffer.subarray(offset, offset + length);
      return new BouncedData(this.#owner.bounce, part, opcode === NVM.write ? 'toDevice' : 'fromDevice');
    });
  }

  #transferDma(opcode: number, lba: number, memory: DmaMemory, options: NvmeDmaOptions): Promise<void> {
    checkObject('memory', memory);
    const given = readOptions('options', options, DMA_OPTIONS);
    const { dma, size } = reading('memory', memory, 'memory that the device reaches', () => {
      return { dma: memory.dma, size: memory.size };
    });
    checkInteger('memory.dma', dma, 0, Number.MAX_SAFE_INTEGER);
    checkInteger('memory.size', size, 1, Number.MAX_SAFE_INTEGER - dma);
    const { offset = 0 } = given;
    checkInteger('offset', offset, 0, size - 1);
    const { length = size - offset } = given;
    checkInteger('length', length, 1, size - offset);
    const first = dma + offset;
    // Bits 1:0 of an entry must be 0 (4.3).
    if (first % 4 !== 0) throw new DmaArgumentError('memory', first, 'an address that is a multiple of 4');
    // What begins inside a page lies in one page more.
    const most = first % PAGE_SIZE === 0 ? MAX_TRANSFER : MAX_TRANSFER - Math.max(PAGE_SIZE, this.blockSize);
    return this.#cut(opcode, lba, length, Math.min(most, this.#maxBytes), flagsOf(given.fua), (from, part) => {
      return new DirectData(this.#owner.lists, first + from, part);
    });
  }

  /** Transfers `length` bytes, in commands of at most `maxBytes`. */
  #cut(
    opcode: number,
    lba: number,
    length: number,
    maxBytes: number,
    flags: number,
    dataOf: (offset: number, length: number) => CommandData,
  ): Promise<void> {
    const { blockSize } = this;
    checkInteger('lba', lba, 0, Number.MAX_SAFE_INTEGER - length);
    if (length === 0 || length % blockSize !== 0) {
      throw new DmaArgumentError('length', length, `a multiple of the block size, ${String(blockSize)}, from it up`);
    }
    if (length <= maxBytes) return this.#blocksCommand(opcode, lba, length / blockSize, flags, dataOf(0, length));
    const parts: Promise<void>[] = [];
    for (let offset = 0; offset < length; offset += maxBytes) {
      const part = Math.min(maxBytes, length - offset);
      const data = dataOf(offset, part);
      parts.push(this.#blocksCommand(opcode, lba + offset / blockSize, part / blockSize, flags, data));
    }
    return all(parts);
  }

  /** A command on `count` blocks from `lba` on: dwords 10 and 11 are the first one, bits 15:0 of 12 their number less 1. */
  async #blocksCommand(
    opcode: number,
    lba: number,
    count: number,
    flags: number,
    data: CommandData | null,
    timeout?: number,
  ): Promise<void> {
    const command: NvmeCommand = {
      opcode,
      nsid: this.nsid,
      cdw10: lba % 2 ** 32,
      cdw11: lba / 2 ** 32,
      cdw12: flags + count - 1,
    };
    await this.#submit(command, data, timeout);
  }

  #submit(command: NvmeCommand, data: CommandData | null, timeout?: number): Promise<number> {
    if (!this.#format.isStale) return this.#owner.transfer(command, data, timeout);
    const message = `the format of namespace ${String(this.nsid)} may have changed since it was opened; open it anew`;
    return Promise.reject(new NvmeError('ERR_DMAPOOL_NVME_STALE_NAMESPACE', this.#owner.address, message));
  }

  #checkSupport(supported: boolean, command: string): void {
    if (!supported)
      throw new NvmeError('ERR_DMAPOOL_NVME_UNSUPPORTED', this.#owner.address, `it has no ${command} command`);
  }
}

function flagsOf(fua = false): number {
  checkBoolean('fua', fua);
  return fua ? IO_FLAG.forceUnitAccess : 0;
}

/**
 * Waits for all, and only then tells of the first that failed: the user's memory is not touched any more. If one failed
 * because nothing stopped the controller, that is told, for the controller may still use the memory.
 */
async function all(parts: readonly Promise<void>[]): Promise<void> {
  const outcomes = await Promise.allSettled(parts);
  const reasons = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason as unknown] : []));
  if (reasons.length > 0) throw reasons.find(isDmaActive) ?? reasons[0];
}

function isDmaActive(error: unknown): boolean {
  return error instanceof PciError && error.code === 'ERR_DMAPOOL_PCI_DMA_ACTIVE';
}
