/** The forms of calls to our pools. Each must give the kernel's answers. */
import { type Device, type DmaBlock, DmaError, DmaOutOfMemoryError, DmaPool } from 'dmapool';
import * as kernel from 'dmapool/kernel';
import { sharePool } from 'dmapool/shared';
import type { CountedMemory } from './memory.ts';
import { ATOMIC, MAX_BLOCKS, NO_GROW, ZERO } from './operation.ts';

/** The arguments of a pool. */
export interface PoolArguments {
  readonly size: number;
  readonly align: number;
  readonly boundary: number;
}

/** A pool in one form. */
export abstract class TestedPool<B = unknown> {
  /** Its allocated blocks, in the order of their allocation. */
  readonly blocks: B[] = [];
  readonly pool: DmaPool;

  constructor(pool: DmaPool) {
    this.pool = pool;
  }

  /** Allocates `count` blocks, or none and returns null. */
  abstract alloc(count: number, flags: number): B[] | null;
  /** Frees blocks in the given order. */
  abstract free(blocks: readonly B[]): void;
  abstract dmaOf(block: B): number;
  abstract bytesOf(block: B): Uint8Array;

  destroy(): void {
    this.pool.destroy();
  }
}

/** Allocates blocks one by one. If an allocation fails, frees them in reverse order, which restores the free list. */
function allocSingly<B>(count: number, alloc: () => B | null, free: (block: B) => void): B[] | null {
  const blocks: B[] = [];
  while (blocks.length < count) {
    const block = alloc();
    if (block === null) {
      for (const each of blocks.reverse()) free(each);
      return null;
    }
    blocks.push(block);
  }
  return blocks;
}

function allocOptions(flags: number): { zero: boolean; grow: boolean } {
  return { zero: (flags & ZERO) !== 0, grow: (flags & NO_GROW) === 0 };
}

class ObjectPool extends TestedPool<DmaBlock> {
  alloc(count: number, flags: number): DmaBlock[] | null {
    const options = (flags & (ZERO | NO_GROW)) === 0 ? undefined : allocOptions(flags);
    // Covers both calls: the one that throws, and the one that returns null.
    const alloc = (): DmaBlock | null =>
      (flags & ATOMIC) === 0 ? orNull(() => this.pool.alloc(options)) : this.pool.tryAlloc(options);
    return allocSingly(count, alloc, (block) => {
      this.pool.free(block);
    });
  }

  free(blocks: readonly DmaBlock[]): void {
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
  override alloc(count: number, flags: number): DmaBlock[] | null {
    const blocks: DmaBlock[] = [];
    return orNull(() => {
      this.pool.allocBulk(blocks, count, { zero: (flags & ZERO) !== 0 });
      return blocks;
    });
  }

  override free(blocks: readonly DmaBlock[]): void {
    this.pool.freeBulk(blocks);
  }
}

class IndexPool extends TestedPool<number> {
  alloc(count: number, flags: number): number[] | null {
    const options = (flags & ZERO) === 0 ? undefined : { zero: true };
    const alloc = (): number | null => {
      if ((flags & ATOMIC) === 0) return orNull(() => this.pool.allocIndex(options));
      const index = this.pool.tryAllocIndex(options);
      return index === -1 ? null : index;
    };
    return allocSingly(count, alloc, (index) => {
      this.pool.freeIndex(index);
    });
  }

  free(indices: readonly number[]): void {
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
  override alloc(count: number, flags: number): number[] | null {
    const indices = new Int32Array(count);
    return orNull(() => {
      this.pool.allocIndexBulk(indices, count, { zero: (flags & ZERO) !== 0 });
      return [...indices];
    });
  }

  override free(indices: readonly number[]): void {
    this.pool.freeIndexBulk(Int32Array.from(indices));
  }
}

class KernelPool extends ObjectPool {
  override alloc(count: number, flags: number): DmaBlock[] | null {
    const gfp = ((flags & ATOMIC) === 0 ? kernel.GFP_KERNEL : kernel.GFP_ATOMIC) | kernel.__GFP_NOWARN;
    const call = (flags & ZERO) === 0 ? kernel.dma_pool_alloc : kernel.dma_pool_zalloc;
    const free = (block: DmaBlock): void => {
      kernel.dma_pool_free(this.pool, block, block.dma);
    };
    return allocSingly(count, () => call(this.pool, gfp), free);
  }

  override free(blocks: readonly DmaBlock[]): void {
    for (const block of blocks) kernel.dma_pool_free(this.pool, block, block.dma);
  }

  override destroy(): void {
    kernel.dma_pool_destroy(this.pool);
  }
}

/**
 * A shared pool with one worker. Its magazine has room for all blocks, so their order is LIFO as in the kernel.
 * `sharePool` takes all pages at once. So a page counts from its first allocation, and `grow: false` stands for a refused
 * page.
 */
class SharedPool extends ObjectPool {
  readonly #memory: CountedMemory;

  constructor(pool: DmaPool) {
    const memory = pool.device.memory as CountedMemory;
    super(memory.reserve(() => sharePool(pool, { magazine: 65_536 }).pool));
    this.#memory = memory;
  }

  override alloc(count: number, flags: number): DmaBlock[] | null {
    const zero = (flags & ZERO) !== 0;
    const alloc = (): DmaBlock | null => {
      const grow = this.#memory.refusals === 0;
      const block = this.pool.tryAlloc({ zero, grow });
      if (block !== null) this.#memory.numberAt(block.dma);
      else if (!grow) this.#memory.refuses();
      return block;
    };
    return allocSingly(count, alloc, (block) => {
      this.pool.free(block);
    });
  }
}

/** Returns the result of the call; null if it throws `DmaOutOfMemoryError`. */
function orNull<T>(call: () => T): T | null {
  try {
    return call();
  } catch (error) {
    if (error instanceof DmaOutOfMemoryError) return null;
    throw error;
  }
}

/** Creates a pool. Returns null for invalid arguments. */
export type Create = (name: string, device: Device, pool: PoolArguments) => TestedPool | null;

/** A form of calls. */
export interface Form {
  readonly create: Create;
  /** Whether the messages of its log are those of the kernel. */
  readonly hasKernelLog: boolean;
}

function ours(wrap: (pool: DmaPool) => TestedPool, options: { debug?: boolean; maxBlocks?: number } = {}): Form {
  const create: Create = (name, device, geometry) => {
    try {
      return wrap(DmaPool.create(name, device, { ...geometry, ...options }));
    } catch (error) {
      if (error instanceof DmaError) return null;
      throw error;
    }
  };
  return { create, hasKernelLog: false };
}

/** Pools of the bulk form so far: even ones use objects, odd ones indices. */
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
    hasKernelLog: true,
  },
  shared: ours((pool) => new SharedPool(pool), { maxBlocks: MAX_BLOCKS }),
} as const satisfies Record<string, Form>;

export type FormName = keyof typeof FORMS;

export const FORM_NAMES: readonly FormName[] = Object.keys(FORMS) as FormName[];
