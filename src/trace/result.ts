/** What a replay found. */
import type { PoolsRow } from './expectations.ts';

/** One thing that does not hold. */
export interface ReplayMismatch {
  /** The snapshot's label; null for what went wrong at a call. */
  readonly snapshot: string | null;
  /** The device's name. */
  readonly device: string;
  /** The pool's name. */
  readonly pool: string;
  /**
   * What differs. In a snapshot: `name`, `size`, `active`, `pages` or `blocks`. At a call: `create`, `alloc`, `free` or
   * `destroy` if it failed; `align`, `boundary`, `contained`, `overlap`, `zero` or `kept` if a block broke that rule;
   * `place` if it was another block than the kernel's; `log` if the device logged an error.
   */
  readonly field: string;
  /** Our value; null where we have no such pool. At a call: what happened, and on which line of the trace. */
  readonly ours: string | number | null;
  /** The kernel's value; null at a call. */
  readonly kernel: string | number | null;
}

/**
 * How a row of ours stands to the kernel's:
 * `same`; `moment` when active and pages were equal at another moment of the snapshot; `fewer` when all is well with fewer pages;
 * `differs`; `alone` when the kernel's file has no such row, or there is no file.
 */
export type RowVerdict = 'same' | 'moment' | 'fewer' | 'differs' | 'alone';

/** One row of a `pools` file, ours and the kernel's at the same position. */
export interface ReplayRow {
  /** Ours when the snapshot began; null where the kernel has a row too many. The name is not cut. */
  readonly ours: PoolsRow | null;
  /** The kernel's; null where it has none at this position. */
  readonly kernel: PoolsRow | null;
  /** How the two compare. */
  readonly verdict: RowVerdict;
  /** Why we need fewer pages; empty if we do not. */
  readonly reasons: readonly string[];
}

/** One device at one snapshot. */
export interface ReplayFile {
  /** The device's name. */
  readonly device: string;
  /** Text of our device's `pools` attribute when the snapshot began; null if it had none. */
  readonly ours: string | null;
  /** Text of the kernel's file; null if there is none. */
  readonly kernel: string | null;
  /** The pools, newest first. */
  readonly rows: readonly ReplayRow[];
}

/** One snapshot. */
export interface ReplaySnapshot {
  /** Its name. */
  readonly label: string;
  /** False if only the expectations have a snapshot of this label. */
  readonly recorded: boolean;
  /** In ascending order of the devices' names. */
  readonly files: readonly ReplayFile[];
}

/** One pool of the trace, over its whole life. */
export interface ReplayPool {
  /** Its number in the trace. */
  readonly id: number;
  /** The device's name. */
  readonly device: string;
  /** The pool's name. */
  readonly name: string;
  /** As the driver asked. */
  readonly size: number;
  /** As the driver asked; 0 if it did not care. */
  readonly align: number;
  /** As the driver asked; 0 if it did not care. */
  readonly boundary: number;
  /** Bytes of a block, rounded; 0 if the pool could not be created. */
  readonly blockSize: number;
  /** Bytes of a page. */
  readonly allocation: number;
  /** Blocks cut from one page. */
  readonly blocksPerPage: number;
  /** The most blocks that were out at a time. */
  readonly maxActive: number;
  /** The most pages it ever had. */
  readonly pages: number;
  /** Blocks handed out. */
  readonly allocs: number;
  /** Blocks given back. */
  readonly frees: number;
  /** The most pages the kernel's pool had, as the trace recorded them. */
  readonly kernelPages: number;
  /** Why we need fewer pages; empty if we do not. */
  readonly reasons: readonly string[];
}

/** What a replay found. It went well if `failures` is 0 and `mismatches` is empty. */
export interface ReplayResult {
  /** The trace's name. */
  readonly trace: string;
  /** The kernel that was recorded, as its header has it; null if it does not say. */
  readonly kernel: string | null;
  /** Creates, allocs, frees and destroys. */
  readonly events: number;
  /** Pools created. */
  readonly creates: number;
  /** Blocks handed out. */
  readonly allocs: number;
  /** Blocks given back. */
  readonly frees: number;
  /** Pools destroyed. */
  readonly destroys: number;
  /**
   * Blocks whose page and offset were compared with the kernel's: all of a kernel from 6.4 on, except in a pool that
   * took a page although a block was free, from there on. None of older kernels, whose order is another.
   */
  readonly placed: number;
  /** Calls that failed, and blocks that broke a rule. Each is among the mismatches, up to a thousand. */
  readonly failures: number;
  /** What does not hold, at calls and in snapshots. */
  readonly mismatches: readonly ReplayMismatch[];
  /** Time of the pool calls alone in nanoseconds, for each timed replay, in order. */
  readonly runsNs: readonly number[];
  /** The best of them. */
  readonly elapsedNs: number;
  /** The median of them. */
  readonly medianNs: number;
  /** The snapshots, in order. */
  readonly snapshots: readonly ReplaySnapshot[];
  /** The pools, in order of creation. */
  readonly pools: readonly ReplayPool[];
  /** Worth knowing, and no failure. */
  readonly notes: readonly string[];
}
