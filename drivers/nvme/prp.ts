/**
 * Physical Region Pages: how a command says where its data lies (NVM Express Base Specification 1.4, 4.3).
 *
 *     1 page     PRP1 -> data, from any dword on
 *     2 pages    PRP1 -> data   PRP2 -> page
 *     more       PRP1 -> data   PRP2 -> list: page, page, ... page
 *                                       list: page, ... (511 of them), -> list: page, ...
 *
 * A list must not cross a page, and where one page of entries is not enough its last entry leads to the next list. So
 * lists come from two pools, as in Linux: most commands need 32 entries at most, and sixteen such lists share a page.
 */
import { type Device, type DmaBlock, DmaPool, lower32Bits, upper32Bits } from 'dmapool';
import { PAGE_SIZE } from './registers.ts';

/** Entries of a list that is a page, and of a small one. */
const ENTRIES = PAGE_SIZE / 8;
const SMALL_SIZE = 256;
const SMALL_ENTRIES = SMALL_SIZE / 8;

type PrpList = DmaBlock<'prp list page'> | DmaBlock<'prp list 256'>;

/** What a command needs to know, and what is to be given back when it is over. */
export class PrpEntries {
  /** The command's two entries. */
  prp1 = 0;
  prp2 = 0;
  /** Its lists, in the order of the chain. */
  readonly lists: PrpList[] = [];
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
  /** Where callers put the addresses of pages for {@link PrpLists.map}, as many as a command can have. */
  readonly addresses: Float64Array;

  /** @param maxPages Most pages that a command's data lies in. */
  constructor(device: Device, maxPages: number) {
    this.addresses = new Float64Array(maxPages);
    this.#pages = DmaPool.createManaged('prp list page', device, { size: PAGE_SIZE, align: PAGE_SIZE });
    this.#small = DmaPool.createManaged('prp list 256', device, { size: SMALL_SIZE, align: SMALL_SIZE });
  }

  /** The pools, for figures. */
  get pools(): readonly DmaPool[] {
    return [this.#pages, this.#small];
  }

  /**
   * Describes data that lies in the pages at `addresses[0..count)`. All but the first address are those of whole pages.
   * Takes no list at all when it throws.
   */
  map(count: number, into: PrpEntries): void {
    const { addresses } = this;
    into.prp1 = addresses[0]!;
    into.prp2 = count < 2 ? 0 : addresses[1]!;
    if (count <= 2) return;
    try {
      this.#chain(addresses, count, into.lists);
    } catch (error) {
      this.unmap(into);
      throw error;
    }
    into.prp2 = into.lists[0]!.dma;
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
      // The last entry of a full list is a page only if nothing comes after it.
      const entries = count - next <= ENTRIES ? count - next : ENTRIES - 1;
      for (let entry = 0; entry < entries; entry++) setEntry(list, entry, addresses[next++]!);
      previous = list;
    }
  }

  /** Gives a command's lists back. */
  unmap(entries: PrpEntries): void {
    // Backwards, so that the next command finds them in the order of this one.
    for (let i = entries.lists.length - 1; i >= 0; i--) entries.lists[i]!.free();
    entries.lists.length = 0;
  }
}
