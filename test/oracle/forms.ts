/** The forms in which our pools are called. All of them must answer as the kernel does. */
import { type Device, type DmaBlock, DmaError, DmaOutOfMemoryError, DmaPool } from 'dmapool';
import * as kernel from 'dmapool/kernel';
import { sharePool } from 'dmapool/shared';
import type { CountedMemory } from './memory.ts';
import { ATOMIC, MOST_BLOCKS, ZERO } from './operation.ts';

/** What a pool is created with. */
export interface Asked {
  readonly size: number;
  readonly align: number;
  readonly boundary: number;
}

/** A pool in one form, with the blocks that are out in the order of their allocation. */
export abstract class TestedPool<B = unknown> {
  readonly blocks: B[] = [];
  readonly pool: DmaPool;

  constructor(pool: DmaPool) {
    this.pool = pool;
  }

  /** Takes so many blocks, or none and returns null. */
  abstract take(count: number, flags: number): B[] | null;
  /** Gives blocks back, in this order. */
  abstract give(blocks: readonly B[]): void;
  abstract dmaOf(block: B): number;
  abstract bytesOf(block: B): Uint8Array;

  destroy(): void {
    this.pool.destroy();
  }
}

/** Takes blocks one by one; if one is refused, all go back, the last one first. */
function takeSingly<B>(count: number, take: () => B | null, free: (block: B) => void): B[] | null {
  const taken: B[] = [];
  while (taken.length < count) {
    const block = take();
    if (block === null) {
      for (const each of taken.reverse()) free(each);
      return null;
    }
    taken.push(block);
  }
  return taken;
}

class ObjectPool extends TestedPool<DmaBlock> {
  take(count: number, flags: number): DmaBlock[] | null {
    const options = (flags & ZERO) === 0 ? undefined : { zero: true };
    // Both calls are tried: the one that throws, and the one that returns null.
    const take = (): DmaBlock | null =>
      (flags & ATOMIC) === 0 ? orNull(() => this.pool.alloc(options)) : this.pool.tryAlloc(options);
    return takeSingly(count, take, (block) => {
      this.pool.free(block);
    });
  }

  give(blocks: readonly DmaBlock[]): void {
    for (const block of blocks) this.pool.free(block);
  }

  dmaOf(block: DmaBlock): number {
    return block.dma;
  }

  bytesOf(block: DmaBlock): Uint8Array {
    return block.bytes;
  }
}

class ObjectBulkPool extends ObjectPool {
  override take(count: number, flags: number): DmaBlock[] | null {
    const blocks: DmaBlock[] = [];
    return orNull(() => {
      this.pool.allocBulk(blocks, count, { zero: (flags & ZERO) !== 0 });
      return blocks;
    });
  }

  override give(blocks: readonly DmaBlock[]): void {
    this.pool.freeBulk(blocks);
  }
}

class IndexPool extends TestedPool<number> {
  take(count: number, flags: number): number[] | null {
    const options = (flags & ZERO) === 0 ? undefined : { zero: true };
    const take = (): number | null => {
      if ((flags & ATOMIC) === 0) return orNull(() => this.pool.allocIndex(options));
      const index = this.pool.tryAllocIndex(options);
      return index === -1 ? null : index;
    };
    return takeSingly(count, take, (index) => {
      this.pool.freeIndex(index);
    });
  }

  give(indices: readonly number[]): void {
    for (const index of indices) this.pool.freeIndex(index);
  }

  dmaOf(index: number): number {
    return this.pool.dmaOf(index);
  }

  bytesOf(index: number): Uint8Array {
    return this.pool.bytesOf(index);
  }
}

class IndexBulkPool extends IndexPool {
  override take(count: number, flags: number): number[] | null {
    const indices = new Int32Array(count);
    return orNull(() => {
      this.pool.allocIndexBulk(indices, count, { zero: (flags & ZERO) !== 0 });
      return [...indices];
    });
  }

  override give(indices: readonly number[]): void {
    this.pool.freeIndexBulk(Int32Array.from(indices));
  }
}

class KernelPool extends ObjectPool {
  override take(count: number, flags: number): DmaBlock[] | null {
    const gfp = ((flags & ATOMIC) === 0 ? kernel.GFP_KERNEL : kernel.GFP_ATOMIC) | kernel.__GFP_NOWARN;
    const alloc = (flags & ZERO) === 0 ? kernel.dma_pool_alloc : kernel.dma_pool_zalloc;
    const free = (block: DmaBlock): void => {
      kernel.dma_pool_free(this.pool, block, block.dma);
    };
    return takeSingly(count, () => alloc(this.pool, gfp), free);
  }

  override give(blocks: readonly DmaBlock[]): void {
    for (const block of blocks) kernel.dma_pool_free(this.pool, block, block.dma);
  }

  override destroy(): void {
    kernel.dma_pool_destroy(this.pool);
  }
}

/**
 * A shared pool with one worker, whose magazine never overflows: then its order is the pool's. All its pages are taken
 * when it is shared, so a page is counted when its first block comes out, and refused by `grow: false`.
 */
class SharedPool extends ObjectPool {
  readonly #memory: CountedMemory;

  constructor(pool: DmaPool) {
    const memory = pool.device.memory as CountedMemory;
    super(memory.reserve(() => sharePool(pool, { magazine: 65_536 }).pool));
    this.#memory = memory;
  }

  override take(count: number, flags: number): DmaBlock[] | null {
    const zero = (flags & ZERO) !== 0;
    const take = (): DmaBlock | null => {
      const grow = this.#memory.refusals === 0;
      const block = this.pool.tryAlloc({ zero, grow });
      if (block !== null) this.#memory.numberAt(block.dma);
      else if (!grow) this.#memory.refuses();
      return block;
    };
    return takeSingly(count, take, (block) => {
      this.pool.free(block);
    });
  }
}

/** What the call returns; null if it finds no memory. */
function orNull<T>(call: () => T): T | null {
  try {
    return call();
  } catch (error) {
    if (error instanceof DmaOutOfMemoryError) return null;
    throw error;
  }
}

/** Creates a pool; null if the arguments are refused. */
export type Create = (name: string, device: Device, asked: Asked) => TestedPool | null;

/** A form: whether its log has the kernel's own words, and how a pool is created. */
export interface Form {
  readonly create: Create;
  readonly wordsOfLinux: boolean;
}

function ours(wrap: (pool: DmaPool) => TestedPool, options: { debug?: boolean; maxBlocks?: number } = {}): Form {
  const create: Create = (name, device, asked) => {
    try {
      return wrap(DmaPool.create(name, device, { ...asked, ...options }));
    } catch (error) {
      if (error instanceof DmaError) return null;
      throw error;
    }
  };
  return { create, wordsOfLinux: false };
}

/** Every second pool takes objects, every other one indices. */
let bulkPools = 0;

export const FORMS = {
  object: ours((pool) => new ObjectPool(pool)),
  index: ours((pool) => new IndexPool(pool)),
  bulk: ours((pool) => (bulkPools++ % 2 === 0 ? new ObjectBulkPool(pool) : new IndexBulkPool(pool))),
  debug: ours((pool) => new ObjectPool(pool), { debug: true }),
  kernel: {
    create: (name, device, { size, align, boundary }) => {
      const pool = kernel.dma_pool_create(name, device, size, align, boundary);
      return pool === null ? null : new KernelPool(pool);
    },
    wordsOfLinux: true,
  },
  shared: ours((pool) => new SharedPool(pool), { maxBlocks: MOST_BLOCKS }),
} as const satisfies Record<string, Form>;

export type FormName = keyof typeof FORMS;

export const FORM_NAMES: readonly FormName[] = Object.keys(FORMS) as FormName[];
