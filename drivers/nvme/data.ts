/**
 * Where a command's data lies while the controller has it: in memory of the driver, copied from or to the user's buffer,
 * or in DMA memory of the user's, not copied at all.
 */
import { type Device, DmaArgumentError, type DmaBlock, DmaPool } from 'dmapool';
import { PrpEntries, type PrpLists } from './prp.ts';
import { PAGE_SIZE } from './registers.ts';

/** Memory that the device reaches: a `DmaBlock`, or what `device.allocCoherent` gave. */
export interface DmaMemory {
  /** Address for the device. */
  readonly dma: number;
  /** Bytes. */
  readonly size: number;
}

/** The data of one command. */
export interface CommandData {
  /** Where it lies, once it is mapped. */
  readonly prps: PrpEntries;
  /**
   * Takes the memory that is needed: all of it, or none.
   * @returns false when it has to wait for other commands to give theirs back.
   * @throws `DmaOutOfMemoryError`, or what the memory source throws; `DmaArgumentError` when the user's buffer changed.
   */
  map(): boolean;
  /**
   * Gives it back, always all of it. The controller does not touch it any more.
   * @param transferred The data arrived.
   * @returns Why the user does not have the data all the same; null when nothing stood in the way.
   */
  unmap(transferred: boolean): Error | null;
}

type DataPage = DmaBlock<'nvme data'>;

/** Pages for the data of users whose buffers the device does not reach. */
export class BouncePages {
  readonly lists: PrpLists;
  readonly #pool: DmaPool<'nvme data'>;
  /** Arrays for pages, to be used again. */
  readonly #spare: DataPage[][] = [];
  #left: number;

  /** @param limit Most pages in use at a time: commands wait for more. */
  constructor(device: Device, lists: PrpLists, limit: number) {
    this.lists = lists;
    this.#left = limit;
    this.#pool = DmaPool.createManaged('nvme data', device, { size: PAGE_SIZE, align: PAGE_SIZE });
  }

  get pool(): DmaPool {
    return this.#pool;
  }

  /** Takes pages, or null when they have to be waited for. */
  take(count: number): DataPage[] | null {
    if (count > this.#left) return null;
    const pages = this.#spare.pop() ?? [];
    this.#left -= count;
    let taken = 0;
    try {
      for (; taken < count; taken++) pages[taken] = this.#pool.alloc();
    } catch (error) {
      this.giveBack(pages, taken);
      this.#left += count - taken;
      throw error;
    }
    return pages;
  }

  giveBack(pages: DataPage[], count: number): void {
    this.#left += count;
    this.#spare.push(pages);
    // Backwards, so that the next command finds them in the order of this one.
    for (let i = count - 1; i >= 0; i--) this.#pool.free(pages[i]!);
  }
}

/**
 * Data in a buffer of the user's that the device does not reach. The buffer may be detached or resized at any time (a
 * `postMessage` does it); what the command says of its length was said when it was asked for, so that is what counts.
 */
export class BouncedData implements CommandData {
  readonly prps: PrpEntries = new PrpEntries();
  readonly #bounce: BouncePages;
  readonly #buffer: Uint8Array;
  readonly #length: number;
  readonly #count: number;
  readonly #toDevice: boolean;
  readonly #fromDevice: boolean;
  #pages: DataPage[] | null = null;

  constructor(bounce: BouncePages, buffer: Uint8Array, direction: 'toDevice' | 'fromDevice' | 'both') {
    this.#bounce = bounce;
    this.#buffer = buffer;
    this.#length = buffer.length;
    this.#count = Math.ceil(buffer.length / PAGE_SIZE);
    this.#toDevice = direction !== 'fromDevice';
    this.#fromDevice = direction !== 'toDevice';
  }

  /** What is wrong with the buffer by now; null if it is as it was. */
  #changed(): Error | null {
    const { length } = this.#buffer;
    if (length === this.#length) return null;
    const accepted = `${String(this.#length)}, as when the command was asked for; leave it alone until the promise is settled`;
    return new DmaArgumentError('buffer.length', length, accepted);
  }

  map(): boolean {
    const changed = this.#changed();
    if (changed !== null) throw changed;
    const bounce = this.#bounce;
    const buffer = this.#buffer;
    const count = this.#count;
    const pages = bounce.take(count);
    if (pages === null) return false;
    try {
      const { addresses } = bounce.lists;
      for (let i = 0; i < count; i++) addresses[i] = pages[i]!.dma;
      bounce.lists.map(count, this.prps);
    } catch (error) {
      bounce.giveBack(pages, count);
      throw error;
    }
    this.#pages = pages;
    if (this.#toDevice) {
      for (let i = 0; i < count; i++) pages[i]!.bytes.set(buffer.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE));
    }
    return true;
  }

  unmap(transferred: boolean): Error | null {
    const pages = this.#pages!;
    const buffer = this.#buffer;
    const count = this.#count;
    this.#pages = null;
    const isRead = transferred && this.#fromDevice;
    const changed = isRead ? this.#changed() : null;
    if (isRead && changed === null) {
      for (let i = 0; i < count; i++) {
        const at = i * PAGE_SIZE;
        const { bytes } = pages[i]!;
        buffer.set(buffer.length - at >= PAGE_SIZE ? bytes : bytes.subarray(0, buffer.length - at), at);
      }
    }
    this.#bounce.lists.unmap(this.prps);
    this.#bounce.giveBack(pages, count);
    return changed;
  }
}

/** Data in memory of the user's that the device reaches: nothing is copied. */
export class DirectData implements CommandData {
  readonly prps: PrpEntries = new PrpEntries();
  readonly #lists: PrpLists;
  readonly #dma: number;
  readonly #length: number;

  /** @param dma A multiple of 4 (4.3: the offset of PRP1). */
  constructor(lists: PrpLists, dma: number, length: number) {
    this.#lists = lists;
    this.#dma = dma;
    this.#length = length;
  }

  map(): boolean {
    const { addresses } = this.#lists;
    const end = this.#dma + this.#length;
    let count = 0;
    for (let dma = this.#dma; dma < end; dma += PAGE_SIZE - (dma % PAGE_SIZE)) addresses[count++] = dma;
    this.#lists.map(count, this.prps);
    return true;
  }

  unmap(): null {
    this.#lists.unmap(this.prps);
    return null;
  }
}
