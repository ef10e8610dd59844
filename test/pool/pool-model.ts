/** The specification of a pool, as simple as possible: arrays and sets only. */
export class PoolModel {
  readonly #perPage: number;
  readonly #maxPages: number;
  readonly #maxBlocks: number;
  /** Free blocks; the last one is allocated next. */
  #free: number[] = [];
  /** Blocks that were never allocated, in allocation order. */
  #fresh: number[] = [];
  readonly #out = new Set<number>();
  readonly #slots = new Set<number>();
  highWater = 0;
  allocations = 0;

  constructor(perPage: number, maxPages: number, maxBlocks: number) {
    this.#perPage = perPage;
    this.#maxPages = maxPages;
    this.#maxBlocks = maxBlocks;
  }

  get pages(): number {
    return this.#slots.size;
  }

  /** Whether `count` blocks are available, and how many pages must be opened (or tried) for them. */
  planTake(count: number, grow: boolean): { ok: boolean; pages: number } {
    const carved = this.#out.size + this.#free.length;
    const missing = count - this.#free.length;
    if (missing <= 0) return { ok: true, pages: 0 };
    if (carved + missing > this.#maxBlocks) return { ok: false, pages: 0 };
    const pages = Math.ceil((missing - this.#fresh.length) / this.#perPage);
    if (pages <= 0) return { ok: true, pages: 0 };
    if (!grow) return { ok: false, pages: 0 };
    return { ok: this.#slots.size + pages <= this.#maxPages, pages };
  }

  opened(pages: number): void {
    for (let i = 0; i < pages; i++) this.#openPage();
  }

  #openPage(): void {
    let slot = 0;
    while (this.#slots.has(slot)) slot++;
    this.#slots.add(slot);
    for (let n = 0; n < this.#perPage; n++) this.#fresh.push(slot * this.#perPage + n);
  }

  take(): number {
    if (this.#free.length === 0 && this.#fresh.length === 0) this.#openPage();
    const index = this.#free.pop() ?? this.#fresh.shift()!;
    this.#out.add(index);
    this.allocations++;
    this.highWater = Math.max(this.highWater, this.#out.size);
    return index;
  }

  give(index: number): void {
    this.#out.delete(index);
    this.#free.push(index);
  }

  anyFree(pick: number): number | undefined {
    const free = [...this.#free, ...this.#fresh];
    return free.length === 0 ? undefined : free[pick % free.length];
  }

  trim(): number {
    const used = new Set([...this.#out].map((index) => Math.floor(index / this.#perPage)));
    const idle = [...this.#slots].filter((slot) => !used.has(slot));
    const stays = (index: number): boolean => used.has(Math.floor(index / this.#perPage));
    this.#free = this.#free.filter(stays);
    this.#fresh = this.#fresh.filter(stays);
    for (const slot of idle) this.#slots.delete(slot);
    return idle.length;
  }
}
