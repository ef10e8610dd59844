/**
 * What snapshots and the other answers about a process are made of. Plain data, for JSON; docs/snapshot.schema.json is
 * the schema of a snapshot. The page in the browser is compiled with this module, so it imports nothing of Node's.
 */
import type { PoolStatistics } from '../pool/statistics.ts';

/**
 * What a byte of a page's `blocks` says: `state * 64 + worker`. The worker is 0 in a pool of one thread, and for blocks
 * that no worker has.
 */
export const BLOCK_STATE = {
  /** Free: in the depot, or, with a worker, in its magazine. */
  free: 0,
  /** Allocated, by this worker. */
  allocated: 1,
  /** In transit from this worker to another one. */
  transit: 2,
  /** In quarantine (worker 0), or beyond the pool's limit (worker 1): never allocated. */
  unusable: 3,
} as const;

/** One block, as a view shows it. */
export interface BlockSnapshot {
  /** Its number in the pool. */
  readonly index: number;
  /** Its DMA address, in bytes. */
  readonly dma: number;
  /** What it is: `free`, `magazine`, `allocated`, `in transit`, `quarantined` or `beyond the limit`. */
  readonly state: 'free' | 'magazine' | 'allocated' | 'in transit' | 'quarantined' | 'beyond the limit';
  /** The worker that has it; 0 in a pool of one thread, and for no worker. */
  readonly worker: number;
  /** That worker's thread; null where there is none. */
  readonly thread: number | null;
  /** Where it was allocated last (debug mode), or null. */
  readonly site: string | null;
  /** Milliseconds since it was allocated (debug mode), or null. */
  readonly age: number | null;
}

/** Blocks of one worker from one place in the program. */
export interface Holder {
  /** The worker; 0 in a pool of one thread. */
  readonly worker: number;
  /** Its thread; null in a pool of one thread. */
  readonly thread: number | null;
  /** Where they were allocated, in debug mode with sites; else null. */
  readonly site: string | null;
  /** How many blocks, those in transit from the worker included. */
  readonly count: number;
  /** Of them, those in transit. */
  readonly inTransit: number;
  /** Milliseconds since the oldest of them was allocated, in debug mode; else null. */
  readonly oldest: number | null;
  /** The same of the newest. */
  readonly newest: number | null;
  /** The first of them, by index: 8 at most. */
  readonly blocks: readonly number[];
}

/** A memory source. Figures that a source does not tell are null. */
export interface SourceSnapshot {
  /** Number of the source in its thread. */
  readonly id: number;
  /** The thread that has it. */
  readonly thread: number;
  /** Kind of memory: `heap`, `hugetlb`, `vfio`, `qemu`. */
  readonly name: string;
  /** Bytes of a page. */
  readonly pageSize: number;
  /** Bytes taken from the system. */
  readonly committed: number | null;
  /** Bytes handed out. */
  readonly inUse: number | null;
  /** The most bytes that it may take. */
  readonly limit: number | null;
  /** Mappings that it has in an IOMMU. */
  readonly mappings: number | null;
  /** Accesses of devices that the IOMMU stopped. */
  readonly faults: number | null;
}

/** Calls of `allocWait` that had to wait and ended since `dmapool/observe` was imported, by how long they waited. */
export interface WaitHistogram {
  /** Upper bounds of the buckets, in milliseconds, ascending. */
  readonly bounds: readonly number[];
  /** Waits in each bucket; one more than bounds: the last is for longer ones. */
  readonly counts: readonly number[];
  /** Milliseconds of all of them together. */
  readonly sum: number;
}

/** A worker of a shared pool; in a pool of one thread that thread, as worker 0. */
export interface WorkerSnapshot {
  /** Its number in the pool. */
  readonly worker: number;
  /** Number of its thread. */
  readonly thread: number;
  /** `dead`: it ended and is not recovered yet; `lost`: what it holds waits for `reclaim()`. */
  readonly state: 'attached' | 'attaching' | 'dead' | 'lost';
  /** Blocks that it holds. */
  readonly held: number;
  /** Free blocks that it keeps for itself. */
  readonly cached: number;
  /** Blocks in transit from it. */
  readonly inTransit: number;
  /** Allocations so far; of another thread as of its last slow call. */
  readonly allocations: number;
}

/** A page of a pool. */
export interface PageSnapshot {
  /** Its slot: it holds the blocks `slot * blocksPerPage` and up. */
  readonly slot: number;
  /** Its DMA address. */
  readonly dma: number;
  /** A byte for each block, in base64: `state * 64 + worker`, see `BLOCK_STATE`. */
  readonly blocks: string;
}

/** A pool. */
export interface PoolSnapshot extends PoolStatistics {
  /** Number of the pool in its thread. */
  readonly id: number;
  /** Its name. */
  readonly name: string;
  /** Size as given. */
  readonly size: number;
  /** Alignment as given. */
  readonly align: number;
  /** Boundary as given. */
  readonly boundary: number;
  /** Bytes of a block. */
  readonly blockSize: number;
  /** Bytes of a page. */
  readonly pageBytes: number;
  /** Blocks of a page. */
  readonly blocksPerPage: number;
  /** Most blocks that may be allocated; null for no limit. */
  readonly maxBlocks: number | null;
  /** NUMA node that its pages should come from; -1: none in particular. */
  readonly node: number;
  /** True in debug mode. */
  readonly debug: boolean;
  /** Identifies a shared pool in all threads of the process; null if it is not shared. */
  readonly shared: string | null;
  /** `destroyed`: it gives no more blocks, and waits for those that are allocated. */
  readonly state: 'open' | 'destroyed';
  /** Waits by their time. */
  readonly waitTimes: WaitHistogram;
  /** Its workers. */
  readonly workers: readonly WorkerSnapshot[];
  /** Its pages, if they were asked for; else null. */
  readonly map: readonly PageSnapshot[] | null;
}

/** A device, with its pools in order of creation. */
export interface DeviceSnapshot {
  /** Number of the device in its thread. */
  readonly id: number;
  /** The thread that has it. */
  readonly thread: number;
  /** Its name. */
  readonly name: string;
  /** Its sysfs path. */
  readonly path: string;
  /** The highest address that it reaches. */
  readonly dmaMask: number;
  /** Its NUMA node; -1: none in particular. */
  readonly numaNode: number;
  /** The `id` of its memory source. */
  readonly source: number;
  /** Bytes of memory that it has. */
  readonly bytes: number;
  /** Names of its attributes. */
  readonly attributes: readonly string[];
  /** Its pools. */
  readonly pools: readonly PoolSnapshot[];
}

/** What {@link snapshot} returns: plain data for JSON. A later version may add members; other changes raise `version`. */
export interface Snapshot {
  /** Always `dmapool-snapshot`. */
  readonly format: 'dmapool-snapshot';
  /** Version of the format. */
  readonly version: 1;
  /** When it was taken, in milliseconds since 1970. */
  readonly time: number;
  /** The process. */
  readonly process: {
    readonly pid: number;
    /** What it runs: the script's path, or the command. */
    readonly title: string;
    /** Version of Node. */
    readonly node: string;
    /** Milliseconds since it started. */
    readonly uptime: number;
    /** The thread that took the snapshot; 0 is the main thread. */
    readonly thread: number;
  };
  /** Memory sources of the devices. */
  readonly sources: readonly SourceSnapshot[];
  /** Devices, oldest first. */
  readonly devices: readonly DeviceSnapshot[];
}
