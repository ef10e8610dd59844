/**
 * What the hot path does not do itself. The hot path is: take the top of a list, mark the block; check the mark, push.
 * Everything else goes through this interface, so that a pool of one thread and a pool shared by workers have the very
 * same hot path and differ only in who implements it.
 */
import { DmaArgumentError, type DmaError } from '../errors.ts';
import type { DeathReport } from '../shared/core.ts';
import type { SharedPoolHandle } from '../shared/handle.ts';
import type { WatchableWorker } from '../shared/threads.ts';
import type { PoolPages } from './pages.ts';
import type { PoolStatistics } from './statistics.ts';
import type { WaitOptions } from './waiting.ts';

/**
 * May the call wait for the system, that is, take a new page from the memory source?
 * - `kernel` (GFP_KERNEL): yes; the default.
 * - `atomic` (in GFP_ATOMIC's place): no; only a block that is free already will do.
 */
export type Gfp = 'kernel' | 'atomic';

/** Throws unless `gfp` is one. */
export function checkGfp(gfp: unknown): void {
  if (gfp !== 'kernel' && gfp !== 'atomic') throw new DmaArgumentError('gfp', gfp, "'kernel' or 'atomic'");
}

/** Why there is no block: a negative number in place of an index. */
export const NO_MEMORY = -1;
export const AT_LIMIT = -2;
export const NO_PAGE_ALLOWED = -3;
export type Refusal = typeof NO_MEMORY | typeof AT_LIMIT | typeof NO_PAGE_ALLOWED;

/** Whole-pool figures. */
export interface PoolCounts {
  /** Blocks handed out now. */
  readonly active: number;
  /** Blocks in all pages. */
  readonly blocks: number;
  /** Pages held from the memory source. */
  readonly pages: number;
}

/** The slow side of a pool. */
export interface SlowPath {
  /**
   * The list at hand is empty. Takes a block all the same and returns its index, or returns a {@link Refusal}.
   * Throws when the pool is destroyed or the memory source throws; nothing is lost then.
   */
  refill(gfp: Gfp): number;

  /** Makes sure that the next `count` takes succeed, or returns why not: a {@link Refusal}. */
  prepare(count: number, gfp: Gfp): number;

  /** A block came back whose word is not the plain mark, or the list is full. Frees it some other way, or throws. */
  drain(index: number): void;

  /** The error for a block that can't be freed as things are now. Changes nothing. */
  badFree(index: number): Error;

  /** The error for a refusal of `count` blocks, by default 1. */
  refused(refusal: number, count?: number): Error;

  /** Where a block lies; throws if it is in no page. */
  dmaOf(index: number): number;

  /** A fresh view of a block's bytes; throws if the block is in no page. */
  bytesOf(index: number): Uint8Array<ArrayBuffer | SharedArrayBuffer>;

  /** Fills a block with one byte value, without making a view of it. */
  fill(index: number, value: number): void;

  /** The figures of the whole pool at this moment. */
  account(): PoolCounts;
}

/** All that a pool does off its hot path. One thread's pool and a shared pool each implement it. */
export interface PoolStore extends SlowPath {
  /** Where blocks lie. */
  readonly pages: PoolPages;
  /** True once the pool is destroyed and its memory given back. */
  readonly gone: boolean;
  /** Throws if {@link gone}. */
  checkNotGone(): void;
  /** The error for a block that can't be freed as things are now. */
  badFree(index: number): DmaError;
  /** Waits for a block; `wrap` makes of its index what the caller gets. */
  wait<T>(wrap: (index: number) => T, options: WaitOptions): Promise<T>;
  /** Opens pages until `count` blocks can be had without one, or throws. */
  reserve(count: number): void;
  /** Gives back every page of which no block is out or in quarantine; returns how many. */
  trim(): number;
  /** Refuses new allocations, reports blocks that are out, gives back what can be given back. */
  destroy(): void;
  /** What is known of a block's past, for messages; may be empty. Begins with a separator. */
  history(index: number): string;
  /** Who holds blocks, for messages. */
  holders(): string;
  statistics(): PoolStatistics;
  /** What only a shared pool can do; null in one that is not. */
  readonly sharing: Sharing | null;
}

/** What only a shared pool can do. */
export interface Sharing {
  /** Number of this worker in the pool, from 1 up. */
  readonly worker: number;
  /** Number of the thread it runs in. */
  readonly thread: number;
  /** A handle for workers of this one. */
  handle(): SharedPoolHandle;
  transfer(index: number): number;
  accept(ticket: number): number;
  acceptAll(tickets: Float64Array, into: Int32Array, count: number): void;
  watch(worker: WatchableWorker): void;
  onDeath(listener: (report: DeathReport) => void): () => void;
  workerEnded(thread: number): readonly DeathReport[];
  reclaim(): number;
}
