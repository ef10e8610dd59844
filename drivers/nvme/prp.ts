/**
 * Physical Region Pages: the data pointer of a command (NVM Express Base Specification 1.4, 4.3).
 *
 *     1 page     PRP1 -> data, at any dword
 *     2 pages    PRP1 -> data   PRP2 -> page
 *     more       PRP1 -> data   PRP2 -> list: page, page, ... page
 *                                       list: page, ... (511 of them), -> list: page, ...
 *
 * A list must not cross a page boundary. If one page of entries is too small, its last entry points to the next list.
 * There are two pools, as in Linux: most commands need at most 32 entries, and sixteen such lists share a page.
 */
import { type Device, type DmaBlock, DmaPool, lower32Bits, upper32Bits } from 'dmapool';
import { PAGE_SIZE } from './registers.ts';

/** Entries per list: of a list that fills a page, and of a small one. */
const ENTRIES = PAGE_SIZE / 8;
const SMALL_SIZE = 256;
const SMALL_ENTRIES = SMALL_SIZE / 8;

type PrpList = DmaBlock<'prp list page'> | DmaBlock<'prp list 256'>;

/** PRP entries of a command, and the lists to free after it. */
export class PrpEntries {
  /** PRP1 and PRP2 of the command. */
  prp1 = 0;
  prp2 = 0;
  /** Its lists, in chain order; null if it needs none. */
  lists: PrpList[] | null = null;
}

/** Writes entry `index` of a list. */
function setEntry(list: PrpList, index: number, address: number): void {
  const words = list.u32;
  words[2 * index] = lower32Bits(address);
  words[2 * index + 1] = upper32Bits(address);
}

export class PrpLists {
  readonly #pages: DmaPool<'prp list page'>;
  readonly #small: DmaPool<'prp list 256'>;
  /** Page addresses, filled by the caller of {@link PrpLists.map}. Sized for the largest command. */
  readonly addresses: Float64Array;

  /** @param maxPages Maximum number of pages of a command's data. */
  constructor(device: Device, maxPages: number) {
    this.addresses = new Float64Array(maxPages);
    this.#pages = DmaPool.createManaged('prp list page', device, { size: PAGE_SIZE, align: PAGE_SIZE });
    this.#small = DmaPool.createManaged('prp list 256', device, { size: SMALL_SIZE, align: SMALL_SIZE });
  }

  /** The pools, for statistics. */
  get pools(): readonly DmaPool[] {
    return [this.#pages, this.#small];
  }

  /**
   * Describes data in the pages at `addresses[0..count)`. All addresses except the first are page-aligned. Allocates no
   * list if it throws.
   */
  map(count: number, into: PrpEntries): void {
    const { addresses } = this;
    into.prp1 = addresses[0]!;
    into.prp2 = count < 2 ? 0 : addresses[1]!;
    if (count <= 2) return;
    const lists = (into.lists ??= []);
    try {
      this.#chain(addresses, count, lists);
    } catch (error) {
      this.unmap(into);
      throw error;
    }
    into.prp2 = lists[0]!.dma;
  }

  #chain(addresses: Float64Array, count: number, lists: PrpList[]): void {
    let next = 1;
    if (count - next <= SMALL_ENTRIES) {
      const list = this.#small.alloc();
      lists.push(list);
      for (let entry = 0; next < count; entry++) setEntry(list, entry, addresses[next++]!);
      return;
    }
    let previous: PrpList | null = null;
    while (next < count) {
      const list = this.#pages.alloc();
      lists.push(list);
      if (previous !== null) setEntry(previous, ENTRIES - 1, list.dma);
      // The last entry of a full page holds a data page only if no entries remain.
      const entries = count - next <= ENTRIES ? count - next : ENTRIES - 1;
      for (let entry = 0; entry < entries; entry++) setEntry(list, entry, addresses[next++]!);
      previous = list;
    }
  }

  /** Frees a command's lists. */
  unmap({ lists }: PrpEntries): void {
    if (lists === null) return;
    // In reverse order, so that LIFO allocation returns them to the next command in this order.
    for (let i = lists.length - 1; i >= 0; i--) lists[i]!.free();
    lists.length = 0;
  }
}
