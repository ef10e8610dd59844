/**
 * What the hot path does not do itself. The hot path is: take the top of a list, mark the block; check the mark, push.
 * Everything else goes through this interface, so that a pool of one thread and a pool shared by workers have the very
 * same hot path and differ only in what implements the interface.
 */
import type { Device } from '../device/device.ts';
import { DmaBlockError, type DmaError, DmaOutOfMemoryError, hex } from '../errors.ts';
import type { Bytes } from './contract.ts';
import { QUARANTINED } from './free-list.ts';
import type { PoolGeometry } from './geometry.ts';
import type { PoolPages } from './pages.ts';
import type { PoolStatistics } from './statistics.ts';
import type { WaitOptions } from './waiting.ts';

/** Why there is no block: a negative number in place of an index. */
export const NO_MEMORY = -1;
export const AT_LIMIT = -2;
export const NO_PAGE_ALLOWED = -3;
export type Refusal = typeof NO_MEMORY | typeof AT_LIMIT | typeof NO_PAGE_ALLOWED;

/** Whole-pool figures. */
export interface PoolCounts {
  /** Blocks that are allocated now. */
  readonly active: number;
  /** Blocks in all pages. */
  readonly blocks: number;
  /** Pages held from the memory source. */
  readonly pages: number;
}

/** All that a pool does off its hot path. */
export interface PoolBackend {
  // ---- called by the hot path

  /**
   * The list at hand is empty. Allocates a block all the same and returns its index, or returns a {@link Refusal}.
   * Throws when the pool is destroyed or the memory source throws; nothing is lost then.
   *
   * @param grow Whether a new page may be taken.
   */
  refill(grow: boolean): number;
  /** Makes sure that the next `count` allocations succeed, or returns why not: a {@link Refusal}. */
  prepare(count: number, grow: boolean): number;
  /** Frees a block whose word is not the plain mark, or that the list has no room for; or throws. */
  drain(index: number): void;
  /** The error for a block that can't be freed as things are now. Changes nothing. */
  badFree(index: number): DmaError;
  /** The error for a refusal of `count` blocks, by default 1. */
  refused(refusal: number, count?: number): DmaError;
  /** Where a block lies; throws if it is in no page. */
  dmaOf(index: number): number;
  /** A new view of a block's bytes; throws if the block is in no page. */
  bytesOf(index: number): Bytes;
  /** Fills a block with one byte value, without making a view of it. */
  fill(index: number, value: number): void;

  // ---- called by the pool

  /** Where blocks lie. */
  readonly pages: PoolPages;
  /** True once the pool is destroyed and its memory given back. */
  readonly gone: boolean;
  /** Throws if {@link gone}. */
  checkNotGone(): void;
  /** Waits for a block; `wrap` makes of its index what the caller gets. */
  wait<T>(wrap: (index: number) => T, options: WaitOptions): Promise<T>;
  /** Takes pages until `count` blocks can be allocated without a new one, or throws. */
  reserve(count: number): void;
  /** Gives back every page of which no block is allocated or in quarantine; returns how many. */
  trim(): number;
  /** Pages that {@link trim} would give back, of the first `most` pages. */
  idlePages(most: number): number;
  /** Refuses new allocations, reports blocks that are allocated, gives back what can be given back. */
  destroy(): void;
  /** What is known of a block's past, for messages; may be empty. Begins with a separator. */
  history(index: number): string;
  /** Who holds blocks, for messages. */
  holders(): string;
  /** The worker that owns a block, or that it is not allocated, for messages; empty if it is, and there is one worker. */
  ownerOf(index: number): string;
  /** The figures of the whole pool at this moment. */
  counts(): PoolCounts;
  statistics(): PoolStatistics;
}

/** The part of a backend that the hot path calls. */
export type SlowPath = Pick<
  PoolBackend,
  'refill' | 'prepare' | 'drain' | 'badFree' | 'refused' | 'dmaOf' | 'bytesOf' | 'fill' | 'ownerOf'
>;

/** What every backend is made of. */
export interface BackendOptions {
  readonly name: string;
  readonly device: Device;
  readonly geometry: PoolGeometry;
  readonly maxBlocks: number;
}

/** Device and pool, as every message begins. */
export function labelOf({ name, device }: Pick<BackendOptions, 'name' | 'device'>): string {
  return `${device.name}: pool ${name}`;
}

/** Where blocks lie, the same for every backend. */
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

/** The error for the free of a block that is not allocated; `history` is what is known of its past. */
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
 * The error for `count` blocks that could not be had.
 *
 * @param idle Which pools or workers have some, as a clause that begins with a separator; may be empty.
 */
export function refusalError(
  refusal: number,
  count: number,
  options: BackendOptions,
  counts: PoolCounts,
  idle: string,
): DmaOutOfMemoryError {
  const { device, geometry, maxBlocks } = options;
  const [code, why, advice] =
    refusal === AT_LIMIT
      ? ([
          'ERR_DMAPOOL_LIMIT',
          `exceed its limit of ${maxBlocks}`,
          'free some, raise maxBlocks, or use allocWait()',
        ] as const)
      : refusal === NO_PAGE_ALLOWED
        ? (['ERR_DMAPOOL_NO_FREE_BLOCK', 'need a new page, and grow is false', 'reserve() enough'] as const)
        : ([
            'ERR_DMAPOOL_NO_MEMORY',
            `need ${geometry.allocation} bytes of memory source ${device.memory.name} below ${hex(device.dmaMask)}`,
            'free some, raise its limit, or use allocWait()',
          ] as const);
  return new DmaOutOfMemoryError(
    code,
    `${labelOf(options)}: ${count === 1 ? 'a block' : `${count} blocks`} would ${why} ` +
      `(${counts.active} of ${counts.blocks} blocks on ${counts.pages} pages are out)${idle}; ${advice}`,
  );
}
