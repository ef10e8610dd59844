/**
 * Types of snapshots and other results, as plain data for JSON. docs/snapshot.schema.json is the schema of a snapshot. The
 * browser page uses this module, so it must not import `node:` modules.
 */
import type { PoolStatistics } from '../pool/statistics.ts';

/**
 * States in a byte of a page's `blocks`: `byte = state * 64 + worker`. The worker is 0 in a pool of one thread and for
 * blocks without a worker.
 */
export const BLOCK_STATE = {
  /** Free: in the depot (worker 0) or in the worker's magazine. */
  free: 0,
  /** Allocated by the worker. */
  allocated: 1,
  /** In transit from the worker. */
  transit: 2,
  /** Never allocated: in quarantine (worker 0) or beyond the pool's limit (worker 1). */
  unusable: 3,
} as const;

/** One block. */
export interface BlockSnapshot {
  /** Index in the pool. */
  readonly index: number;
  /** DMA address. */
  readonly dma: number;
  /** State. `magazine`: free, in a worker's magazine. */
  readonly state: 'free' | 'magazine' | 'allocated' | 'in transit' | 'quarantined' | 'beyond the limit';
  /** Worker that has it; 0 in a pool of one thread, and if no worker has it. */
  readonly worker: number;
  /** The worker's thread, or null. */
  readonly thread: number | null;
  /** Site of the last allocation (debug mode), or null. */
  readonly site: string | null;
  /** Milliseconds since the allocation (debug mode), or null. */
  readonly age: number | null;
}

/** Allocated blocks of one worker and one allocation site. */
export interface Holder {
  /** The worker; 0 in a pool of one thread. */
  readonly worker: number;
  /** The worker's thread; null in a pool of one thread. */
  readonly thread: number | null;
  /** Allocation site in debug mode with sites; null otherwise. */
  readonly site: string | null;
  /** Number of blocks, including those in transit from the worker. */
  readonly count: number;
  /** Number of these blocks that are in transit. */
  readonly inTransit: number;
  /** Milliseconds since the oldest allocation, in debug mode; null otherwise. */
  readonly oldest: number | null;
  /** Milliseconds since the newest allocation, in debug mode; null otherwise. */
  readonly newest: number | null;
  /** Indices of the first blocks, at most 8. */
  readonly blocks: readonly number[];
}

/** A memory source. Figures that the source does not have are null. */
export interface SourceSnapshot {
  /** Number of the source in its thread. */
  readonly id: number;
  /** Its thread. */
  readonly thread: number;
  /** Kind of memory: `heap`, `hugetlb`, `vfio`, `qemu`. */
  readonly name: string;
  /** Page size in bytes. */
  readonly pageSize: number;
  /** Bytes taken from the system. */
  readonly committed: number | null;
  /** Bytes allocated to devices. */
  readonly inUse: number | null;
  /** Limit in bytes. */
  readonly limit: number | null;
  /** Mappings in the IOMMU. */
  readonly mappings: number | null;
  /** Device accesses that the IOMMU blocked. */
  readonly faults: number | null;
}

/** Durations of the waits of `allocWait` that ended since `dmapool/observe` was imported. */
export interface WaitHistogram {
  /** Upper bounds of the buckets, in milliseconds, ascending. */
  readonly bounds: readonly number[];
  /** Waits in each bucket. Has one element more than `bounds`; the last counts longer waits. */
  readonly counts: readonly number[];
  /** Sum of the durations, in milliseconds. */
  readonly sum: number;
}

/** A worker of a shared pool. A pool of one thread has one, with number 0. */
export interface WorkerSnapshot {
  /** Number in the pool. */
  readonly worker: number;
  /** Its thread. */
  readonly thread: number;
  /** `dead`: it exited and is not recovered yet. `lost`: its allocated blocks wait for `reclaim()`. */
  readonly state: 'attached' | 'attaching' | 'dead' | 'lost';
  /** Blocks that it has allocated. */
  readonly held: number;
  /** Free blocks in its magazine. */
  readonly cached: number;
  /** Blocks in transit from it. */
  readonly inTransit: number;
  /** Allocations so far. For another thread, as of its last call on the slow path. */
  readonly allocations: number;
}

/** A page of a pool. */
export interface PageSnapshot {
  /** Number of the page. Its first block is `page * blocksPerPage`. */
  readonly page: number;
  /** DMA address. */
  readonly dma: number;
  /** A byte for each block, in base64: see `BLOCK_STATE`. */
  readonly blocks: string;
}

/** A pool. */
export interface PoolSnapshot extends PoolStatistics {
  /** Number of the pool in its thread. */
  readonly id: number;
  /** Name. */
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
  /** Limit of allocated blocks; null without a limit. */
  readonly maxBlocks: number | null;
  /** Preferred NUMA node of its pages; -1: any. */
  readonly node: number;
  /** True in debug mode. */
  readonly debug: boolean;
  /** Identifies a shared pool in all threads of the process; null if it is not shared. */
  readonly shared: string | null;
  /** `destroyed`: allocations fail, and the pool waits for the frees of allocated blocks. */
  readonly state: 'open' | 'destroyed';
  /** Durations of ended waits. */
  readonly waitTimes: WaitHistogram;
  /** Its workers. */
  readonly workers: readonly WorkerSnapshot[];
  /** Its pages if requested; null otherwise. */
  readonly map: readonly PageSnapshot[] | null;
}

/** A device, with its pools in order of creation. */
export interface DeviceSnapshot {
  /** Number of the device in its thread. */
  readonly id: number;
  /** Its thread. */
  readonly thread: number;
  /** Name. */
  readonly name: string;
  /** Path in sysfs. */
  readonly path: string;
  /** DMA mask: the highest address that the device can access. */
  readonly dmaMask: number;
  /** NUMA node; -1: unknown. */
  readonly numaNode: number;
  /** The `id` of its memory source. */
  readonly source: number;
  /** Bytes of coherent memory allocated for it. */
  readonly bytes: number;
  /** Names of its attributes. */
  readonly attributes: readonly string[];
  /** Its pools. */
  readonly pools: readonly PoolSnapshot[];
}

/** Result of `snapshot()`, as plain data for JSON. New members may be added; any other change raises `version`. */
export interface Snapshot {
  /** Always `dmapool-snapshot`. */
  readonly format: 'dmapool-snapshot';
  /** Version of the format. */
  readonly version: 2;
  /** Time of the snapshot, in milliseconds since 1970. */
  readonly time: number;
  /** The process. */
  readonly process: {
    readonly pid: number;
    /** Path of the script, or the command. */
    readonly title: string;
    /** Version of Node. */
    readonly node: string;
    /** Milliseconds since the start. */
    readonly uptime: number;
    /** The thread that took the snapshot; 0 is the main thread. */
    readonly thread: number;
  };
  /** Memory sources of the devices. */
  readonly sources: readonly SourceSnapshot[];
  /** Devices, oldest first. */
  readonly devices: readonly DeviceSnapshot[];
}
