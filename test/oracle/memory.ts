/** Coherent memory that numbers its pages, counts requests and refuses some on purpose, as `module/memory.c` does. */
import { type CoherentAllocator, type CoherentMemory, type CoherentRequest, HeapMemory } from 'dmapool';
import { LARGEST_PAGE } from './operation.ts';

interface Page {
  readonly memory: CoherentMemory;
  readonly owner: number;
  /** In order of their first use; null until then, for a page that was only reserved. */
  number: number | null;
}

/** Addresses of reserved pages begin here; there is no other page up here. */
const RESERVED = 2 ** 51;

/** Its pages are numbered, and an address tells page and offset. */
export class CountedMemory implements CoherentAllocator {
  readonly name: string = 'counted';
  readonly pageSize: number = 4096;
  /** Whose the next page is. */
  owner = 0;
  /** So many requests are refused from now on. */
  refusals = 0;
  /** Requests so far, refused ones too. */
  requests = 0;
  /** Pages that were given and not given back, by address. */
  readonly #pages = new Map<number, Page>();
  readonly #heap: HeapMemory = new HeapMemory({ limit: 2 ** 30 });
  #next = 0;
  #reserving = false;
  #nextReserved = RESERVED;

  /** Pages that are in use; of one owner, if given. */
  live(owner?: number): number {
    let count = 0;
    for (const page of this.#pages.values()) {
      if (page.number !== null && (owner === undefined || page.owner === owner)) count++;
    }
    return count;
  }

  /** Begins anew, with page 0. */
  reset(): void {
    if (this.#pages.size > 0) throw new Error(`${this.#pages.size} pages were not given back`);
    this.#next = 0;
    this.requests = 0;
    this.refusals = 0;
  }

  /** The pages that `call` takes are neither counted nor refused, and have no number before their first use. */
  reserve<T>(call: () => T): T {
    this.#reserving = true;
    try {
      return call();
    } finally {
      this.#reserving = false;
    }
  }

  allocCoherent(request: CoherentRequest): CoherentMemory | null {
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
    if (page === undefined) throw new Error(`a page at ${dma} is given back twice`);
    this.#pages.delete(dma);
    this.#heap.freeCoherent(page.memory);
  }

  /** Counts a request; true if it is to be refused. */
  refuses(): boolean {
    this.requests++;
    if (this.refusals === 0) return false;
    this.refusals--;
    return true;
  }

  /** The number of the page at an address. The first use of a reserved page counts as the request for it. */
  numberAt(dma: number): number {
    const page = this.#pageAt(dma);
    if (page === undefined) return -1;
    if (page.number === null) {
      this.requests++;
      page.number = this.#next++;
    }
    return page.number;
  }

  /** Whether these bytes are where the address says. */
  isAt(dma: number, bytes: Uint8Array): boolean {
    const page = this.#pageAt(dma);
    return page?.memory.buffer === bytes.buffer && bytes.byteOffset === page.memory.byteOffset + (dma % LARGEST_PAGE);
  }

  #pageAt(dma: number): Page | undefined {
    return this.#pages.get(dma - (dma % LARGEST_PAGE));
  }
}
