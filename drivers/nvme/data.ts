/**
 * Data of a command while the controller uses it: in bounce buffers, copied from or to the caller's buffer, or in the
 * caller's own DMA memory, without a copy.
 */
import { type Device, DmaArgumentError, type DmaBlock, DmaPool } from 'dmapool';
import { PrpEntries, type PrpLists } from './prp.ts';
import { PAGE_SIZE } from './registers.ts';

/** Memory that the device can reach: a `DmaBlock`, or memory from `device.allocCoherent`. */
export interface DmaMemory {
  /** DMA address. */
  readonly dma: number;
  /** Size in bytes. */
  readonly size: number;
}

/** The data of one command. */
export interface CommandData {
  /** Data pointer, valid while mapped. */
  readonly prps: PrpEntries;
  /**
   * Allocates the memory of the command: all of it, or none.
   * @returns False if it must wait until other commands release memory.
   * @throws `DmaOutOfMemoryError`, errors of the coherent allocator; `DmaArgumentError` if the caller's buffer changed.
   */
  map(): boolean;
  /**
   * Releases all memory of the command. The controller no longer uses it.
   * @param transferred The controller transferred the data.
   * @returns An error if the data could not be copied to the caller; else null.
   */
  unmap(transferred: boolean): Error | null;
}

type DataPage = DmaBlock<'nvme data'>;

/** Bounce pages for callers' buffers that the device can't reach. */
export class BouncePages {
  readonly lists: PrpLists;
  readonly #pool: DmaPool<'nvme data'>;
  /** Unused arrays, kept for reuse. */
  readonly #spare: DataPage[][] = [];
  #left: number;

  /** @param limit Maximum number of pages in use; commands wait for more. */
  constructor(device: Device, lists: PrpLists, limit: number) {
    this.lists = lists;
    this.#left = limit;
    this.#pool = DmaPool.createManaged('nvme data', device, { size: PAGE_SIZE, align: PAGE_SIZE });
  }

  get pool(): DmaPool {
    return this.#pool;
  }

  /** Allocates pages. @returns Null if the command must wait for them. */
  take(count: number): DataPage[] | null {
    if (count > this.#left) return null;
    const pages = this.#spare.pop() ?? [];
    this.#left -= count;
    let taken = 0;
    try {
      for (; taken < count; taken++) pages[taken] = this.#pool.alloc();
    } catch (error) {
      this.release(pages, taken);
      this.#left += count - taken;
      throw error;
    }
    return pages;
  }

  release(pages: DataPage[], count: number): void {
    this.#left += count;
    this.#spare.push(pages);
    // In reverse order, so that LIFO allocation returns them to the next command in this order.
    for (let i = count - 1; i >= 0; i--) this.#pool.free(pages[i]!);
  }
}

/**
 * Data in a caller's buffer that the device can't reach. The caller may detach or resize the buffer at any time, for
 * example by `postMessage`. The length at construction counts, since the command was built from it.
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

  /** @returns An error if the buffer was detached or resized; else null. */
  #changed(): Error | null {
    const { length } = this.#buffer;
    if (length === this.#length) return null;
    const accepted = `${String(this.#length)}, the length at the call; do not change the buffer until the promise settles`;
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
      bounce.release(pages, count);
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
    this.#bounce.release(pages, count);
    return changed;
  }
}

/** Data in the caller's DMA memory. Nothing is copied. */
export class DirectData implements CommandData {
  readonly prps: PrpEntries = new PrpEntries();
  readonly #lists: PrpLists;
  readonly #dma: number;
  readonly #length: number;

  /** @param dma A multiple of 4 (4.3: offset of PRP1). */
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
