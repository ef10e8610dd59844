/** Figures of a pool at one moment. All are counts from the pool's creation on, or of now. */
export interface PoolStatistics {
  /** Blocks handed out now. */
  readonly active: number;
  /** Blocks in all pages, free, handed out or in quarantine. */
  readonly blocks: number;
  /** Pages held from the memory source now. */
  readonly pages: number;
  /** Most blocks that were ever out at one time. */
  readonly highWater: number;
  /** Blocks handed out so far. */
  readonly allocations: number;
  /** Blocks given back so far; blocks taken back by `device.reclaim()` count as given back. */
  readonly frees: number;
  /** Allocations that got nothing, single or in bulk: no memory, the limit, or no new page allowed. */
  readonly failures: number;
  /** How often a block was found changed that had been free (debug mode only). */
  readonly corrupted: number;
  /** Blocks in quarantine now: written to while they were free (debug mode only). */
  readonly quarantined: number;
  /** Calls of `allocWait` that had to wait. */
  readonly waits: number;
  /** Of them, those that wait now. */
  readonly waiting: number;
}
