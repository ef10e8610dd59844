/** Result of a replay. */
import type { PoolsRow } from './expectations.ts';

/** One failure or difference. */
export interface ReplayMismatch {
  /** Label of the snapshot; null for a failure of a call. */
  readonly snapshot: string | null;
  /** The device's name. */
  readonly device: string;
  /** The pool's name. */
  readonly pool: string;
  /**
   * What differs. In a snapshot: `name`, `size`, `active`, `pages` or `blocks`. At a call: `create`, `alloc`, `free` or
   * `destroy` if it failed; `align`, `boundary`, `contained`, `overlap`, `zero` or `kept` if a block broke that rule;
   * `place` if its page or offset differs from the kernel's; `log` if the device logged an error.
   */
  readonly field: string;
  /** Our value; null if we have no such pool. At a call: the failure, and the line of the trace. */
  readonly ours: string | number | null;
  /** The kernel's value; null at a call. */
  readonly kernel: string | number | null;
}

/**
 * Comparison of a row of ours with the kernel's:
 * - `same`: equal;
 * - `moment`: active and pages are equal at another moment of the snapshot;
 * - `fewer`: equal except for fewer pages, for a known reason;
 * - `differs`;
 * - `alone`: the kernel's file has no such row, or there is no file.
 */
export type RowVerdict = 'same' | 'moment' | 'fewer' | 'differs' | 'alone';

/** One row of a `pools` file, ours and the kernel's at the same position. */
export interface ReplayRow {
  /** Ours when the snapshot began; null if only the kernel has this row. The name is not cut. */
  readonly ours: PoolsRow | null;
  /** The kernel's; null if only we have this row. */
  readonly kernel: PoolsRow | null;
  /** Result of the comparison. */
  readonly verdict: RowVerdict;
  /** Reasons for fewer pages than the kernel; empty if there are as many. */
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
  /** Bytes of a block, as requested by the driver. */
  readonly size: number;
  /** Alignment, as requested by the driver; 0 for none. */
  readonly align: number;
  /** Boundary, as requested by the driver; 0 for none. */
  readonly boundary: number;
  /** Bytes of a block, rounded; 0 if the pool could not be created. */
  readonly blockSize: number;
  /** Bytes of a page. */
  readonly allocation: number;
  /** Blocks cut from one page. */
  readonly blocksPerPage: number;
  /** Maximum number of allocated blocks. */
  readonly maxActive: number;
  /** Maximum number of pages. */
  readonly pages: number;
  /** Number of allocations. */
  readonly allocs: number;
  /** Number of frees. */
  readonly frees: number;
  /** Maximum number of the kernel's pages, according to the trace. */
  readonly kernelPages: number;
  /** Reasons for fewer pages than the kernel; empty if there are as many. */
  readonly reasons: readonly string[];
}

/** Result of a replay: a success if `failures` is 0 and `mismatches` is empty. */
export interface ReplayResult {
  /** The trace's name. */
  readonly trace: string;
  /** The recorded kernel, from the trace's header; null if the header has none. */
  readonly kernel: string | null;
  /** Creates, allocs, frees and destroys. */
  readonly events: number;
  /** Pools created. */
  readonly creates: number;
  /** Number of allocations. */
  readonly allocs: number;
  /** Number of frees. */
  readonly frees: number;
  /** Pools destroyed. */
  readonly destroys: number;
  /**
   * Number of blocks whose page and offset were compared with the kernel's. From 6.4 on: all, except those of a pool after
   * it took a page although a block was free. Before 6.4: none, since those kernels allocate in another order.
   */
  readonly placed: number;
  /** Number of failed calls and broken rules. The first thousand are among the mismatches. */
  readonly failures: number;
  /** Failures of calls, and differences in snapshots. */
  readonly mismatches: readonly ReplayMismatch[];
  /** Time of the pool calls in nanoseconds, of each timed replay, in order. */
  readonly runsNs: readonly number[];
  /** Their minimum. */
  readonly elapsedNs: number;
  /** Their median. */
  readonly medianNs: number;
  /** The snapshots, in order. */
  readonly snapshots: readonly ReplaySnapshot[];
  /** The pools, in order of creation. */
  readonly pools: readonly ReplayPool[];
  /** Remarks that are no failures. */
  readonly notes: readonly string[];
}
