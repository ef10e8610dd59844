/** Figures of a pool at one moment. All are counts from the pool's creation on, or of now. */
export interface PoolStatistics {
  /** Blocks that are allocated now, those in transit between workers included. */
  readonly active: number;
  /** Blocks in all pages: free, allocated or in quarantine. */
  readonly blocks: number;
  /** Pages held from the memory source now. */
  readonly pages: number;
  /** Most blocks that were ever allocated at one time. */
  readonly highWater: number;
  /** Allocations so far. */
  readonly allocations: number;
  /** Frees so far; blocks taken back by `device.reclaim()` count as freed. */
  readonly frees: number;
  /** Allocations that failed, single or in bulk: no memory, the limit, or no new page allowed. */
  readonly failures: number;
  /** How often a block was found changed that had been free (debug mode only). */
  readonly corrupted: number;
  /** Blocks in quarantine now: written to while they were free (debug mode only). */
  readonly quarantined: number;
  /** Calls of `allocWait` that had to wait. */
  readonly waits: number;
  /** Of them, those that wait now. */
  readonly waiting: number;
  /** Blocks that a worker transferred and no other one has accepted yet; 0 in a pool that is not shared. */
  readonly inTransit: number;
}
