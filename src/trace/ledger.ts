import type { TraceCreate } from './events.ts';
import type { KernelPages } from './moments.ts';
import { kernelBlocksPerPage } from './pages.ts';

/** Counts of one pool during a replay: ours from the successful calls, the kernel's from the trace. */
export class Ledger implements KernelPages {
  readonly device: string;
  readonly name: string;
  /** Blocks per page in the recorded kernel. */
  readonly kernelPerPage: number;
  /** Our pages by address, in order of allocation. */
  readonly #pageNumbers = new Map<number, number>();
  active = 0;
  peak = 0;
  allocs = 0;
  frees = 0;
  recorded = 0;
  raced = 0;
  /** Maximum number of our pages. */
  pages = 0;
  destroyed = false;
  /** Number of allocated blocks in the trace; ours may have failed where the kernel did not. */
  #kernelActive = 0;

  constructor(pool: TraceCreate, skips: boolean) {
    this.device = pool.device;
    this.name = pool.name;
    this.kernelPerPage = kernelBlocksPerPage(pool, skips);
  }

  /** Counts an allocation of the trace from this page. */
  kernelAlloc(page: number): void {
    if (page >= this.recorded) {
      if (this.#kernelActive < this.recorded * this.kernelPerPage) this.raced++;
      this.recorded = page + 1;
    }
    this.#kernelActive++;
  }

  /** Counts a free of the trace. */
  kernelFree(): void {
    this.#kernelActive--;
  }

  /** Counts an allocation by our pool. */
  alloc(): void {
    this.allocs++;
    this.active++;
    this.peak = Math.max(this.peak, this.active);
  }

  /** Number of our page at this address, in the order of their first allocations. */
  pageNumber(dma: number): number {
    const known = this.#pageNumbers.get(dma);
    if (known !== undefined) return known;
    this.#pageNumbers.set(dma, this.#pageNumbers.size);
    return this.#pageNumbers.size - 1;
  }

  /** Number of our pages with allocations so far. */
  get pageCount(): number {
    return this.#pageNumbers.size;
  }

  /** Counts a free by our pool. */
  free(): void {
    this.frees++;
    this.active--;
  }
}
