import type { DmaError } from '../errors.ts';
import type { SharedPoolHandle } from '../shared/handle.ts';
import type { DeathReport } from '../shared/core.ts';
import type { WatchableWorker } from '../shared/threads.ts';
import type { PoolPages } from './pages.ts';
import type { SlowPath } from './backend.ts';
import type { PoolStatistics } from './statistics.ts';
import type { WaitOptions } from './waiting.ts';

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
