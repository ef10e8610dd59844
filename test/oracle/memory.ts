/** Coherent memory that numbers its pages, counts requests and refuses some on purpose, as `module/memory.c` does. */
import { type CoherentAllocator, type CoherentMemory, type CoherentRequest, HeapMemory } from 'dmapool';
import { LARGEST_PAGE } from './operation.ts';

interface Page {
  readonly memory: CoherentMemory;
  readonly owner: number;
}

/** A page's address is its number times the size of the largest page, so an address tells page and offset. */
export class CountedMemory implements CoherentAllocator {
  readonly name: string = 'counted';
  readonly pageSize: number = 4096;
  /** Whose the next page is. */
  owner = 0;
  /** So many requests are refused from now on. */
  refusals = 0;
  /** Requests so far, refused ones too. */
  requests = 0;
  /** Pages that are out, by number. */
  readonly #live = new Map<number, Page>();
  readonly #heap: HeapMemory = new HeapMemory({ limit: 2 ** 29 });
  #next = 0;

  /** Pages that are out; of one owner, if given. */
  live(owner?: number): number {
    if (owner === undefined) return this.#live.size;
    return [...this.#live.values()].filter((page) => page.owner === owner).length;
  }

  /** Begins anew, with page 0. */
  reset(): void {
    if (this.#live.size > 0) throw new Error(`${this.#live.size} pages were not given back`);
    this.#next = 0;
    this.requests = 0;
    this.refusals = 0;
  }

  allocCoherent(request: CoherentRequest): CoherentMemory | null {
    this.requests++;
    if (this.refusals > 0) {
      this.refusals--;
      return null;
    }
    if (request.size > LARGEST_PAGE) return null;
    const memory = this.#heap.allocCoherent(request);
    if (memory === null) throw new Error('the heap is too small for this stream');
    const number = this.#next++;
    this.#live.set(number, { memory, owner: this.owner });
    const { size, buffer, byteOffset } = memory;
    return { dma: number * LARGEST_PAGE, size, buffer, byteOffset };
  }

  freeCoherent({ dma }: CoherentMemory): void {
    const number = dma / LARGEST_PAGE;
    const page = this.#live.get(number);
    if (page === undefined) throw new Error(`page ${number} is given back twice`);
    this.#live.delete(number);
    this.#heap.freeCoherent(page.memory);
  }

  /** Whether these bytes are where the address says. */
  isAt(dma: number, bytes: Uint8Array): boolean {
    const page = this.#live.get(Math.floor(dma / LARGEST_PAGE));
    return page?.memory.buffer === bytes.buffer && bytes.byteOffset === page.memory.byteOffset + (dma % LARGEST_PAGE);
  }
}
