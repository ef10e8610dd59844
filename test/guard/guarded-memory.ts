/**
 * A coherent allocator that tracks which bytes a device owns: pages between `allocCoherent` and `freeCoherent`, and in the
 * pages of pools the allocated blocks. It calls watchers before memory is freed.
 *
 *     HeapMemory <-- GuardedMemory <-- Device <-- DmaPool      page freed  --> watchers
 *                         ^------------------------ free       block freed --> watchers
 */
import {
  type CoherentAllocator,
  type CoherentMemory,
  type CoherentRequest,
  DmaPool,
  type DmaTarget,
  HeapMemory,
} from 'dmapool';

/** Called before `size` bytes at `dma` are freed: a page, or a block of a pool. */
export type GiveBackWatcher = (dma: number, size: number, what: string) => void;

interface Range {
  readonly memory: CoherentMemory;
  readonly device: DmaTarget;
  /** The pool that allocated the page; null for other memory. */
  readonly pool: DmaPool | null;
}

/** Methods of a pool that may allocate pages. */
const ALLOCS = ['alloc', 'tryAlloc', 'allocIndex', 'tryAllocIndex', 'allocBulk', 'allocIndexBulk', 'reserve'] as const;

export class GuardedMemory implements CoherentAllocator {
  readonly name: string = 'guarded';
  readonly pageSize: number;
  readonly watchers = new Set<GiveBackWatcher>();
  /** Called before each allocation; false makes it return null. */
  onAlloc: (request: CoherentRequest) => boolean = () => true;
  readonly #heap: HeapMemory;
  /** Keyed by the page number of the DMA address. */
  readonly #pages = new Map<number, Range>();
  readonly #live = new Set<CoherentMemory>();
  /** The pool whose method is running. */
  #pool: DmaPool | null = null;

  constructor(heap: HeapMemory = new HeapMemory()) {
    this.#heap = heap;
    this.pageSize = heap.pageSize;
    guards.add(this);
    watchPools();
  }

  /** Requested bytes of live allocations. */
  get bytesAllocated(): number {
    let bytes = 0;
    for (const { size } of this.#live) bytes += size;
    return bytes;
  }

  allocCoherent(request: CoherentRequest): CoherentMemory | null {
    const memory = this.onAlloc(request) ? this.#heap.allocCoherent(request) : null;
    if (memory === null) return null;
    const range = { memory, device: request.device, pool: this.#pool };
    const { dma, size } = memory;
    this.#live.add(memory);
    for (let page = dma; page < dma + size; page += this.pageSize) this.#pages.set(page / this.pageSize, range);
    return memory;
  }

  freeCoherent(memory: CoherentMemory, device?: DmaTarget): void {
    if (this.#live.delete(memory)) {
      const { dma, size } = memory;
      for (const watcher of this.watchers) watcher(dma, size, 'memory');
      for (let page = dma; page < dma + size; page += this.pageSize) this.#pages.delete(page / this.pageSize);
    }
    this.#heap.freeCoherent(memory, device);
  }

  onceAvailable(listener: () => void): () => void {
    return this.#heap.onceAvailable(listener);
  }

  /**
   * Returns why the device does not own all `length` bytes at `dma`, or null if it does: they must be in one allocation, and
   * in a pool's page in allocated blocks.
   *
   * @param device The device that must own them; null for any.
   */
  whyNot(dma: number, length: number, device: DmaTarget | null): string | null {
    const range = this.#pages.get(Math.floor(dma / this.pageSize));
    if (range === undefined) return 'memory that is not allocated';
    const { memory, pool } = range;
    if (device !== null && range.device !== device) return `memory of ${range.device.name}`;
    if (dma + length > memory.dma + memory.size) return 'more than one allocation';
    if (pool === null) return null;
    const { blockSize } = pool.geometry;
    for (let at = dma; at < dma + length; at += blockSize) {
      if (pool.indexAt(at) < 0) return `a free block of pool ${pool.name}`;
    }
    return pool.indexAt(dma + length - 1) < 0 ? `a free block of pool ${pool.name}` : null;
  }

  /** Overwrites the first and last of `length` bytes at `dma`, as a device would. */
  scribble(dma: number, length: number, value: number): void {
    const range = this.#pages.get(Math.floor(dma / this.pageSize));
    if (range === undefined) return;
    const { buffer, byteOffset, dma: start } = range.memory;
    const bytes = new Uint8Array(buffer, byteOffset + dma - start, length);
    bytes[0] = value;
    bytes[length - 1] = value;
  }

  /** Runs a method of a pool, and records the pages that it allocates as the pool's. @internal */
  inPool<T>(pool: DmaPool, call: () => T): T {
    const before = this.#pool;
    this.#pool = pool;
    try {
      return call();
    } finally {
      this.#pool = before;
    }
  }

  /** @internal */
  blockFreed(pool: DmaPool, dma: number): void {
    for (const watcher of this.watchers) watcher(dma, pool.geometry.blockSize, `a block of pool ${pool.name}`);
  }
}

const guards = new WeakSet<CoherentAllocator>();
let isWatching = false;

/** Wraps the methods of every pool on guarded memory that is created from now on. */
function watchPools(): void {
  if (isWatching) return;
  isWatching = true;
  for (const name of ['create', 'createManaged'] as const) {
    const original = DmaPool[name].bind(DmaPool);
    DmaPool[name] = <const N extends string>(...args: Parameters<typeof DmaPool.create<N>>): DmaPool<N> => {
      const pool = original(...args);
      const { memory } = pool.device;
      if (memory instanceof GuardedMemory) watchPool(pool, memory);
      return pool;
    };
  }
}

type Method = (...args: unknown[]) => unknown;

function watchPool(pool: DmaPool, memory: GuardedMemory): void {
  const methods = pool as unknown as Record<string, Method>;
  const wrap = (name: string, wrapper: (call: () => unknown, args: readonly unknown[]) => unknown): void => {
    const original = methods[name]!;
    Object.defineProperty(pool, name, {
      configurable: true,
      value: (...args: unknown[]) => wrapper(() => original.apply(pool, args), args),
    });
  };
  for (const name of ALLOCS) wrap(name, (call) => memory.inPool(pool, call));
  const freed = (index: unknown): void => {
    let dma: number;
    try {
      dma = pool.dmaOf(index as number);
    } catch {
      // Not a block of this pool: the free will throw.
      return;
    }
    memory.blockFreed(pool, dma);
  };
  wrap('free', (call, [block]) => {
    freed((block as { readonly index?: number } | undefined)?.index);
    return call();
  });
  wrap('freeIndex', (call, [index]) => {
    freed(index);
    return call();
  });
  wrap('freeIndexBulk', (call, [from, count]) => {
    for (const index of (from as Int32Array).subarray(0, count as number | undefined)) freed(index);
    return call();
  });
}
