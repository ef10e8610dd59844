import type { TraceCreate } from './events.ts';
import type { KernelPages } from './moments.ts';
import { kernelBlocksPerPage } from './pages.ts';

/** The books of one pool during a replay: ours from the calls that went well, the kernel's from the trace. */
export class Ledger implements KernelPages {
  readonly device: string;
  readonly name: string;
  /** Blocks that the recorded kernel cut from a page. */
  readonly kernelPerPage: number;
  /** Our pages by their addresses, in the order in which they were taken. */
  readonly #pageNumbers = new Map<number, number>();
  active = 0;
  peak = 0;
  allocs = 0;
  frees = 0;
  recorded = 0;
  raced = 0;
  /** The most pages ours had. */
  pages = 0;
  destroyed = false;
  /** Blocks that are out by the trace: the kernel never failed where ours may. */
  #kernelActive = 0;

  constructor(pool: TraceCreate, skips: boolean) {
    this.device = pool.device;
    this.name = pool.name;
    this.kernelPerPage = kernelBlocksPerPage(pool, skips);
  }

  /** The trace hands out a block of that page. */
  kernelAlloc(page: number): void {
    if (page >= this.recorded) {
      if (this.#kernelActive < this.recorded * this.kernelPerPage) this.raced++;
      this.recorded = page + 1;
    }
    this.#kernelActive++;
  }

  /** The trace takes a block back. */
  kernelFree(): void {
    this.#kernelActive--;
  }

  /** Ours handed out a block. */
  alloc(): void {
    this.allocs++;
    this.active++;
    this.peak = Math.max(this.peak, this.active);
  }

  /** The number of our page at that address, in the order in which their first blocks came out. */
  pageNumber(dma: number): number {
    const known = this.#pageNumbers.get(dma);
    if (known !== undefined) return known;
    this.#pageNumbers.set(dma, this.#pageNumbers.size);
    return this.#pageNumbers.size - 1;
  }

  /** Pages that ours has taken. */
  get pageCount(): number {
    return this.#pageNumbers.size;
  }

  /** Ours took a block back. */
  free(): void {
    this.frees++;
    this.active--;
  }
}
