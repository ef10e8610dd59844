/** Recordings as traces in the format of docs/traces.md. */
import { openPool } from '../dma-pool.ts';
import type { DmaPool } from '../pool/contract.ts';
import { PoolGeometry } from '../pool/geometry.ts';
import { openPages, pageStates } from './blocks.ts';
import { BLOCK_STATE } from './format.ts';
import type { RecordedOperation, RingEntry } from './ring.ts';

/** A recorded pool. Plain data, so that threads can post it. */
export interface RecordedPool {
  readonly device: string;
  readonly name: string;
  readonly size: number;
  readonly align: number;
  readonly boundary: number;
  /** True if the pool existed when the recording began. */
  readonly early: boolean;
}

/** State of a recorded pool at the end of the recording. Plain data. */
export interface PoolEnd {
  /** Indices of the allocated blocks. */
  readonly allocated: readonly number[];
  /** DMA addresses of the pages, by page number. */
  readonly pages: ReadonlyMap<number, number>;
  /** True if the pool was destroyed and returned its memory. */
  readonly gone: boolean;
}

/** The end of a pool that no longer exists. */
export const GONE: PoolEnd = { allocated: [], pages: new Map(), gone: true };

/** A pool of a trace. */
export interface TracePool extends RecordedPool {
  readonly end: PoolEnd;
}

export function describePool({ device, geometry, name }: DmaPool, early: boolean): RecordedPool {
  const { size, align, boundary } = geometry;
  return { device: device.name, name, size, align, boundary, early };
}

export function endOf(pool: DmaPool): PoolEnd {
  const inside = openPool(pool);
  const { backend, geometry } = inside;
  if (backend.gone) return GONE;
  const allocated: number[] = [];
  const pages = new Map<number, number>();
  for (const page of openPages(inside)) {
    const first = page * geometry.blocksPerPage;
    pages.set(page, backend.pages.dmaOf(first));
    for (const [n, byte] of pageStates(inside, page).entries()) {
      const kind = byte >> 6;
      if (kind === BLOCK_STATE.allocated || kind === BLOCK_STATE.transit) allocated.push(first + n);
    }
  }
  return { allocated, pages, gone: false };
}

/** Operations of one pool without those that contradict each other. */
interface Consistent {
  /** Allocations before the first operation in the ring. */
  readonly before: readonly RecordedOperation[];
  /** Frees to insert before an operation, by the operation. */
  readonly inserted: ReadonlyMap<RecordedOperation, RecordedOperation>;
  /** Operations to leave out. */
  readonly dropped: ReadonlySet<RecordedOperation>;
  /** Blocks allocated after the last operation. */
  readonly out: number;
}

/**
 * If a block's first operation is a free, its allocation was before the ring, and is added. If a block is allocated
 * twice without a free, it was reclaimed from a dead worker or the free was lost, and a free is inserted. Other frees
 * of a block that is not allocated are dropped.
 */
function makeConsistent(operations: readonly RecordedOperation[], { allocated }: PoolEnd, start: number): Consistent {
  const out = new Set<number>();
  const seen = new Set<number>();
  const before: RecordedOperation[] = [];
  const inserted = new Map<RecordedOperation, RecordedOperation>();
  const dropped = new Set<RecordedOperation>();
  const allocatedBefore = (index: number, worker: number): void => {
    before.push({ kind: 'alloc', worker, index, time: start, site: null });
  };
  for (const operation of operations) {
    const { index, kind, worker } = operation;
    if (kind === 'free' && !out.has(index)) {
      if (seen.has(index)) dropped.add(operation);
      else allocatedBefore(index, worker);
    } else if (kind === 'alloc' && out.has(index)) {
      inserted.set(operation, { ...operation, kind: 'free', site: null });
    }
    seen.add(index);
    if (kind === 'alloc') out.add(index);
    else out.delete(index);
  }
  for (const index of allocated) if (!seen.has(index)) allocatedBefore(index, 0);
  before.sort((a, b) => a.index - b.index);
  return { before, inserted, dropped, out: out.size };
}

/**
 * The text of a trace.
 *
 * @param entries Operations in order; `pool` is a position in `pools`.
 * @param lost Number of older operations that are not in `entries`.
 */
export function traceText(pools: readonly TracePool[], entries: readonly RingEntry[], lost: number): string {
  const start = entries[0]?.time ?? Date.now();
  const perPool: RingEntry[][] = pools.map(() => []);
  for (const entry of entries) perPool[entry.pool]?.push(entry);
  const consistent = pools.map(({ end }, n) => makeConsistent(perPool[n]!, end, start));
  const writer = new TraceWriter(pools, start);
  // Pools with earlier blocks first: their allocations come before all operations.
  for (const [n, { early }] of pools.entries()) if (early || consistent[n]!.before.length > 0) writer.create(n, start);
  for (const [n, { before }] of consistent.entries()) for (const operation of before) writer.write(n, operation);
  const remaining = perPool.map(({ length }) => length);
  for (const entry of entries) {
    const { pool, time } = entry;
    const known = consistent[pool];
    if (known === undefined) continue;
    writer.create(pool, time);
    const inserted = known.inserted.get(entry);
    if (inserted !== undefined) writer.write(pool, inserted);
    if (!known.dropped.has(entry)) writer.write(pool, entry);
    remaining[pool]!--;
    const isLast = remaining[pool] === 0 && known.out === 0 && known.before.length === 0;
    if (isLast && pools[pool]!.end.gone) writer.destroy(pool, time);
  }
  return writer.text(
    consistent.map(({ before }) => before.length),
    lost,
  );
}

class TraceWriter {
  readonly #pools: readonly TracePool[];
  readonly #books: readonly PageBook[];
  readonly #start: number;
  readonly #lines: string[] = [];
  /** Positions of the created pools, in order. A pool's number in the trace is its place here. */
  readonly #created: number[] = [];
  readonly #numbers = new Map<number, number>();
  readonly #sites = new Map<string, number>();
  readonly #counts = { alloc: 0, free: 0, destroy: 0 };

  constructor(pools: readonly TracePool[], start: number) {
    this.#pools = pools;
    this.#books = pools.map((pool) => new PageBook(pool));
    this.#start = start;
  }

  /** Adds the line of a pool's creation, once. */
  create(pool: number, time: number): void {
    if (this.#numbers.has(pool)) return;
    const number = this.#created.length;
    this.#numbers.set(pool, number);
    this.#created.push(pool);
    const { device, name } = this.#pools[pool]!;
    const { geometry } = this.#books[pool]!;
    const { size, align, boundary, blockSize, allocation, effectiveBoundary } = geometry;
    const fields = [size, align, boundary, blockSize, allocation, effectiveBoundary];
    this.#line(time, 0, 'create', number, plain(device).replaceAll('/', '_'), plain(name), ...fields);
  }

  write(pool: number, operation: RecordedOperation): void {
    const { kind, site, time, worker } = operation;
    this.#counts[kind]++;
    const { block, dma, inUse, offset, page } = this.#books[pool]!.add(operation);
    const place = [page, offset, dma, inUse];
    const fields = kind === 'free' ? [block, ...place, 0] : ['K', block, ...place, 0, 0, 0];
    const number = this.#numbers.get(pool)!;
    this.#line(time, worker, kind, number, ...fields, ...(site === null ? [] : [this.#siteNumber(site)]));
  }

  destroy(pool: number, time: number): void {
    this.#counts.destroy++;
    this.#line(time, 0, 'destroy', this.#numbers.get(pool)!);
  }

  #line(time: number, worker: number, ...fields: readonly (string | number)[]): void {
    const nanoseconds = Math.max(0, Math.round((time - this.#start) * 1e6));
    this.#lines.push([nanoseconds, worker, ...fields].join('\t'));
  }

  #siteNumber(site: string): number {
    let number = this.#sites.get(site);
    if (number === undefined) this.#sites.set(site, (number = this.#sites.size + 1));
    return number;
  }

  text(before: readonly number[], lost: number): string {
    const { alloc, free, destroy } = this.#counts;
    const header = [
      '#dma_pool-trace v1',
      '#scenario\trecorded by dmapool/observe',
      `#loss\t${lost} older operations`,
      // For each pool, the number of its first allocations that were made before the recording.
      `#before\t${this.#created.map((pool) => before[pool]!).join(' ')}`,
      `#counts\tcreate=${this.#created.length} alloc=${alloc} free=${free} destroy=${destroy}`,
      ...[...this.#sites].map(([site, number]) => `#site ${number}\t${plain(site)}`),
    ];
    return `${[...header, ...this.#lines].join('\n')}\n`;
  }
}

/** Text for a field of a line, which has no control characters. */
function plain(text: string): string {
  return text.replace(/\p{Cc}/gu, '_').slice(0, 1024);
}

/** Numbers blocks and pages by first appearance, as the format requires. */
class PageBook {
  readonly geometry: PoolGeometry;
  readonly #end: PoolEnd;
  readonly #blocks = new Map<number, number>();
  readonly #pages = new Map<number, number>();
  readonly #inUse = new Map<number, number>();

  constructor({ size, align, boundary, end }: TracePool) {
    this.geometry = new PoolGeometry({ size, align, boundary });
    this.#end = end;
  }

  add({ index, kind }: RecordedOperation): {
    readonly block: number;
    readonly page: number;
    readonly offset: number;
    readonly dma: string;
    readonly inUse: number;
  } {
    const { blocksPerPage } = this.geometry;
    const number = Math.floor(index / blocksPerPage);
    const offset = this.geometry.offsetOf(index - number * blocksPerPage);
    const inUse = (this.#inUse.get(number) ?? 0) + (kind === 'alloc' ? 1 : -1);
    this.#inUse.set(number, inUse);
    // 0 if the page was returned to the memory source.
    const base = this.#end.pages.get(number);
    const dma = (base === undefined ? 0 : base + offset).toString(16);
    return { block: numberOf(this.#blocks, index), page: numberOf(this.#pages, number), offset, dma, inUse };
  }
}

function numberOf(numbers: Map<number, number>, key: number): number {
  const known = numbers.get(key) ?? numbers.size;
  numbers.set(key, known);
  return known;
}
