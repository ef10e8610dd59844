/**
 * The interface between the hot path and the slow path of a pool. The hot path pops the list and sets the mark, or
 * checks the mark and pushes. {@link PoolBackend} does everything else. So a pool of one thread and a shared pool have
 * the same hot path, and differ only in the implementation of this interface.
 */
import type { Device } from '../device/device.ts';
import { DmaBlockError, type DmaError, DmaOutOfMemoryError, hex } from '../errors.ts';
import type { Bytes } from './contract.ts';
import { QUARANTINED } from './free-list.ts';
import type { PoolGeometry } from './geometry.ts';
import type { PoolPages } from './pages.ts';
import { AT_LIMIT, NO_PAGE_ALLOWED } from './refusal.ts';
import type { PoolStatistics } from './statistics.ts';
import type { WaitOptions } from './waiting.ts';

/** Figures of a whole pool. */
export interface PoolCounts {
  /** Blocks that are allocated now. */
  readonly active: number;
  /** Blocks in all pages. */
  readonly blocks: number;
  /** Pages held from the memory source. */
  readonly pages: number;
}

/** The slow path of a pool. */
export interface PoolBackend {
  // ---- called by the hot path

  /**
   * Allocates a block when the list is empty or held. Returns its index or a refusal (`refusal.ts`). Throws after the pool is
   * destroyed, and if the memory source throws; then nothing is lost.
   *
   * @param grow Whether the call may take a new page.
   */
  refill(grow: boolean): number;
  /** Ensures that the next `count` allocations succeed. Returns 0 or a refusal. */
  prepare(count: number, grow: boolean): number;
  /** Frees a block that the hot path can't free: the list is held or full, or the word differs from the mark. */
  drain(index: number): void;
  /** The error for a block that can't be freed in its current state. Changes nothing. */
  badFree(index: number): DmaError;
  /** The error for a refusal of `count` blocks. Default 1. */
  refused(refusal: number, count?: number): DmaError;
  /** DMA address of a block. Throws if the block is in no page. */
  dmaOf(index: number): number;
  /** A new view of a block's bytes. Throws if the block is in no page. */
  bytesOf(index: number): Bytes;
  /** Fills a block with one byte value, without a view of the block. */
  fill(index: number, value: number): void;

  // ---- called by the pool

  /** Positions of blocks. */
  readonly pages: PoolPages;
  /** True after the pool is destroyed and has returned all memory. */
  readonly gone: boolean;
  /** Throws if {@link gone}. */
  checkNotGone(): void;
  /** Waits for a block. `wrap` converts its index to the caller's result. */
  wait<T>(wrap: (index: number) => T, options: WaitOptions): Promise<T>;
  /** Takes pages until `count` blocks can be allocated without a new page. Throws on refusal. */
  reserve(count: number): void;
  /** Releases every page without allocated or quarantined blocks to the memory source. Returns their number. */
  trim(): number;
  /** Number of pages that {@link trim} would return, among the first `most` pages. */
  idlePages(most: number): number;
  /** Ends the pool: rejects further allocations, reports allocated blocks, and returns idle pages. */
  destroy(): void;
  /** History of a block, for messages. Empty or begins with a separator. */
  history(index: number): string;
  /** Lists allocated blocks and their owners, for messages. */
  holders(): string;
  /**
   * The worker that owns a block, or `not allocated`, for messages. Empty for an allocated block of a pool of one
   * thread.
   */
  ownerOf(index: number): string;
  /** Current figures of the whole pool. */
  counts(): PoolCounts;
  statistics(): PoolStatistics;
}

/** The part of a backend that the hot path calls. */
export type SlowPath = Pick<
  PoolBackend,
  'refill' | 'prepare' | 'drain' | 'badFree' | 'refused' | 'dmaOf' | 'bytesOf' | 'fill' | 'ownerOf'
>;

/** Options of every backend. */
export interface BackendOptions {
  readonly name: string;
  readonly device: Device;
  readonly geometry: PoolGeometry;
  readonly maxBlocks: number;
}

/** Device and pool: the prefix of all messages. */
export function labelOf({ name, device }: Pick<BackendOptions, 'name' | 'device'>): string {
  return `${device.name}: pool ${name}`;
}

/** Positions of blocks, common to all backends. */
export abstract class BackendBase {
  readonly pages: PoolPages;

  constructor(pages: PoolPages) {
    this.pages = pages;
  }

  dmaOf(index: number): number {
    const dma = this.pages.dmaOf(index);
    if (dma < 0) throw this.pages.noSuchBlock(index);
    return dma;
  }

  bytesOf(index: number): Bytes {
    return this.pages.bytesOf(index);
  }

  fill(index: number, value: number): void {
    this.pages.fill(index, value);
  }
}

/** The error for the free of a block that is not allocated. `history` is empty or begins with a separator. */
export function notAllocated(
  pages: PoolPages,
  index: number,
  word: number | undefined,
  history: string,
): DmaBlockError {
  const state = word === QUARANTINED ? 'in quarantine' : 'not allocated';
  return new DmaBlockError('ERR_DMAPOOL_NOT_ALLOCATED', `${pages.describe(index)} is ${state}${history}`);
}

/**
 * The error for a refusal of `count` blocks.
 *
 * @param idle Pools or workers that have idle memory. Empty or begins with a separator.
 */
export function refusalError(
  refusal: number,
  count: number,
  options: BackendOptions,
  counts: PoolCounts,
  idle: string,
): DmaOutOfMemoryError {
  const { device, geometry, maxBlocks } = options;
  const [code, why] =
    refusal === AT_LIMIT
      ? (['ERR_DMAPOOL_LIMIT', `exceed maxBlocks ${maxBlocks}`] as const)
      : refusal === NO_PAGE_ALLOWED
        ? (['ERR_DMAPOOL_NO_FREE_BLOCK', 'need a page, and grow is false'] as const)
        : ([
            'ERR_DMAPOOL_NO_MEMORY',
            `need ${geometry.allocation} bytes of ${device.memory.name} below ${hex(device.dmaMask)}`,
          ] as const);
  return new DmaOutOfMemoryError(
    code,
    `${labelOf(options)}: ${count === 1 ? 'a block' : `${count} blocks`} would ${why} ` +
      `(${counts.active} of ${counts.blocks} blocks on ${counts.pages} pages out)${idle}; free some, or use allocWait()`,
  );
}
