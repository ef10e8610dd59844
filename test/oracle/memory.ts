/** Coherent memory that numbers its pages, counts requests and refuses some. `module/memory.c` does the same. */
import { type CoherentAllocator, type CoherentMemory, type CoherentRequest, HeapMemory } from 'dmapool';
import { LARGEST_PAGE } from './operation.ts';

interface Page {
  readonly memory: CoherentMemory;
  readonly owner: number;
  /** Pages are numbered in order of their first use. null: a reserved page without a use so far. */
  number: number | null;
}

/** The address of the first reserved page, above all other pages. */
const RESERVED = 2 ** 51;

/** A coherent allocator whose addresses encode page number and offset. */
export class CountedMemory implements CoherentAllocator {
  readonly name: string = 'counted';
  readonly pageSize: number = 4096;
  /** The slot whose pool gets the next page. */
  owner = 0;
  /** Number of following requests to refuse. */
  refusals = 0;
  /** Runs at the next request, before it is served. */
  onRequest: (() => void) | null = null;
  /** Requests since the reset, including refused ones. */
  requests = 0;
  /** Allocated pages by address. */
  readonly #pages = new Map<number, Page>();
  readonly #heap: HeapMemory = new HeapMemory({ limit: 2 ** 30 });
  #next = 0;
  #reserving = false;
  #nextReserved = RESERVED;

  /** Returns the number of allocated pages with a number; of one owner, if given. */
  live(owner?: number): number {
    let count = 0;
    for (const page of this.#pages.values()) {
      if (page.number !== null && (owner === undefined || page.owner === owner)) count++;
    }
    return count;
  }

  /** Restarts at page 0. Throws if a page is allocated. */
  reset(): void {
    if (this.#pages.size > 0) throw new Error(`${this.#pages.size} pages were not freed`);
    this.#next = 0;
    this.requests = 0;
    this.refusals = 0;
    this.onRequest = null;
  }

  /** Runs `call`. The pages that it allocates are reserved: not counted, not refused, and numbered at their first use. */
  reserve<T>(call: () => T): T {
    this.#reserving = true;
    try {
      return call();
    } finally {
      this.#reserving = false;
    }
  }

  allocCoherent(request: CoherentRequest): CoherentMemory | null {
    const { onRequest } = this;
    this.onRequest = null;
    onRequest?.();
    if (!this.#reserving && this.refuses()) return null;
    if (request.size > LARGEST_PAGE) return null;
    const memory = this.#heap.allocCoherent(request);
    if (memory === null) throw new Error('the heap is too small for this stream');
    const { size, buffer, byteOffset } = memory;
    let dma: number;
    if (this.#reserving) {
      dma = this.#nextReserved;
      this.#nextReserved += LARGEST_PAGE;
    } else {
      dma = this.#next * LARGEST_PAGE;
    }
    this.#pages.set(dma, { memory, owner: this.owner, number: this.#reserving ? null : this.#next++ });
    return { dma, size, buffer, byteOffset };
  }

  freeCoherent({ dma }: CoherentMemory): void {
    const page = this.#pages.get(dma);
    if (page === undefined) throw new Error(`the page at ${dma} is not allocated`);
    this.#pages.delete(dma);
    this.#heap.freeCoherent(page.memory);
  }

  /** Counts a request. Returns whether to refuse it. */
  refuses(): boolean {
    this.requests++;
    if (this.refusals === 0) return false;
    this.refusals--;
    return true;
  }

  /** Returns the number of the page at an address. The first call for a reserved page counts as its request. */
  numberAt(dma: number): number {
    const page = this.#pageAt(dma);
    if (page === undefined) return -1;
    if (page.number === null) {
      this.requests++;
      page.number = this.#next++;
    }
    return page.number;
  }

  /** Returns whether these bytes are at this address. */
  isAt(dma: number, bytes: Uint8Array): boolean {
    const page = this.#pageAt(dma);
    return page?.memory.buffer === bytes.buffer && bytes.byteOffset === page.memory.byteOffset + (dma % LARGEST_PAGE);
  }

  #pageAt(dma: number): Page | undefined {
    return this.#pages.get(dma - (dma % LARGEST_PAGE));
  }
}
