/**
 * Figures of a pool at one moment. Counters count from the creation of the pool.
 *
 *     active = allocations - frees
 */
export interface PoolStatistics {
  /** Blocks that are allocated now, including those in transit between workers. */
  readonly active: number;
  /** Blocks in all pages: free, allocated or in quarantine. */
  readonly blocks: number;
  /** Pages held from the memory source now. */
  readonly pages: number;
  /** Largest number of blocks allocated at one time. */
  readonly highWater: number;
  /** Successful allocations. */
  readonly allocations: number;
  /** Frees. Blocks that `device.reclaim()` takes back count as freed. */
  readonly frees: number;
  /** Failed allocations, single or bulk: no memory, the limit, or no free block with `grow: false`. */
  readonly failures: number;
  /** Blocks found modified after their free (debug mode only). */
  readonly corrupted: number;
  /** Blocks in quarantine now: written to while free (debug mode only). */
  readonly quarantined: number;
  /** Calls of `allocWait` that had to wait. */
  readonly waits: number;
  /** Calls of `allocWait` that wait now. */
  readonly waiting: number;
  /** Blocks that a worker transferred and no worker accepted yet; 0 if the pool is not shared. */
  readonly inTransit: number;
}
