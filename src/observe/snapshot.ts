/** {@link snapshot}: everything that can be seen of the pools of a process, as JSON. docs/snapshot.schema.json is its schema. */
import { threadId } from 'node:worker_threads';

import { type OptionNames, readOptions } from '../arguments.ts';
import type { Device } from '../device/device.ts';
import { openPool } from '../dma-pool.ts';
import { DmaArgumentError, DmaDestroyedError, hex } from '../errors.ts';
import type { CoherentAllocator } from '../memory/coherent.ts';
import type { DmaPool } from '../pool/contract.ts';
import { MAX_BLOCKS } from '../pool/hot-path.ts';
import { LocalBackend } from '../pool/local-backend.ts';
import type { PoolStatistics } from '../pool/statistics.ts';
import { SharedBackend } from '../shared/backend.ts';
import { ATTACHED, DEAD, LOST, MAX_WORKERS, NO_WORKER } from '../shared/layout.ts';
import { WAIT_BOUNDS } from '../shared/wait-times.ts';
import { Workers } from '../shared/workers.ts';
import { countByWorker, openSlots, pageStates } from './blocks.ts';
import { devices, idOf, pools, waitTimes } from './registry.ts';

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
  /** Size, alignment and boundary as given. */
  readonly size: number;
  readonly align: number;
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
  /** Its name and sysfs path. */
  readonly name: string;
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

/** What a snapshot has besides the figures. */
export interface SnapshotOptions {
  /** Whose pages and blocks: those of all pools, or of one. Default: none. */
  readonly blocks?: boolean | DmaPool;
}

const OPTIONS: OptionNames<SnapshotOptions> = { blocks: true };

/**
 * All devices, pools and memory sources of this thread that were made since `dmapool/observe` was imported. The figures of
 * a shared pool are those of the whole pool, whichever thread asks.
 *
 * @throws `DmaArgumentError` for wrong options.
 *
 * @example
 * ```ts
 * const device = new Device({ name: '0000:00:09.0' });
 * DmaPool.create('rx', device, { size: 2048 }).alloc();
 * const [seen] = snapshot().devices;
 * console.log(seen?.pools[0]?.active); // 1
 * ```
 */
export function snapshot(options: SnapshotOptions = {}): Snapshot {
  const { blocks = false } = readOptions('options', options, OPTIONS);
  if (typeof blocks !== 'boolean') openPool(blocks);
  const byDevice = new Map<Device, DmaPool[]>();
  for (const device of devices()) byDevice.set(device, []);
  for (const pool of pools()) {
    const of = byDevice.get(pool.device);
    // A device from before the import.
    if (of === undefined) byDevice.set(pool.device, [pool]);
    else of.push(pool);
  }
  const sources = new Set([...byDevice.keys()].map((device) => device.memory));
  return {
    format: 'dmapool-snapshot',
    version: 1,
    time: Date.now(),
    process: {
      pid: process.pid,
      title: process.argv[1] ?? process.title,
      node: process.versions.node,
      uptime: Math.round(performance.now()),
      thread: threadId,
    },
    sources: [...sources].map(sourceSnapshot),
    devices: [...byDevice].map(([device, of]) => deviceSnapshot(device, of, blocks)),
  };
}

function sourceSnapshot(source: CoherentAllocator): SourceSnapshot {
  const figures = source as Readonly<
    Partial<Record<'bytesCommitted' | 'bytesInUse' | 'bytesMapped' | 'limit' | 'mappings' | 'faults', unknown>>
  >;
  const figure = (name: keyof typeof figures): number | null => {
    try {
      const value = figures[name];
      return typeof value === 'number' && value >= 0 ? value : null;
    } catch {
      // The source is the user's code.
      return null;
    }
  };
  return {
    id: idOf(source),
    thread: threadId,
    name: source.name,
    pageSize: source.pageSize,
    committed: figure('bytesCommitted') ?? figure('bytesMapped'),
    inUse: figure('bytesInUse'),
    limit: figure('limit'),
    mappings: figure('mappings'),
    faults: figure('faults'),
  };
}

function deviceSnapshot(device: Device, of: readonly DmaPool[], blocks: SnapshotOptions['blocks']): DeviceSnapshot {
  return {
    id: idOf(device),
    thread: threadId,
    name: device.name,
    path: device.path,
    dmaMask: device.dmaMask,
    numaNode: device.numaNode,
    source: idOf(device.memory),
    bytes: device.bytesAllocated,
    attributes: device.attributeNames(),
    pools: of.map((pool) => poolSnapshot(pool, blocks === true || blocks === pool)),
  };
}

/** One pool, with its pages and blocks if `blocks` says so. */
export function poolSnapshot(pool: DmaPool, blocks: boolean): PoolSnapshot {
  const inside = openPool(pool);
  const { backend, geometry, maxBlocks, modes, name, node } = inside;
  const statistics = backend.statistics();
  const { counts, sum } = waitTimes(pool);
  return {
    id: idOf(pool),
    name,
    size: geometry.size,
    align: geometry.align,
    boundary: geometry.boundary,
    blockSize: geometry.blockSize,
    pageBytes: geometry.allocation,
    blocksPerPage: geometry.blocksPerPage,
    maxBlocks: maxBlocks === MAX_BLOCKS ? null : maxBlocks,
    node,
    debug: modes.debug !== null,
    shared: backend instanceof SharedBackend ? sharedName(pool) : null,
    state: isOpen(backend) ? 'open' : 'destroyed',
    ...statistics,
    waitTimes: { bounds: WAIT_BOUNDS, counts: [...counts], sum },
    workers: workersOf(pool, statistics),
    map: blocks
      ? openSlots(inside).map((slot) => ({
          slot,
          dma: backend.pages.dmaOf(slot * geometry.blocksPerPage),
          blocks: Buffer.from(pageStates(inside, slot).buffer).toString('base64'),
        }))
      : null,
  };
}

/** Its first page is no other pool's of that device. */
function sharedName(pool: DmaPool): string {
  return `${pool.device.path} ${pool.name} ${hex(openPool(pool).backend.pages.dmaOf(0))}`;
}

function isOpen(backend: object): boolean {
  if (backend instanceof SharedBackend) return !backend.destroyed;
  if (!(backend instanceof LocalBackend)) return true;
  try {
    backend.checkOpen();
    return true;
  } catch (error) {
    if (error instanceof DmaDestroyedError) return false;
    throw error;
  }
}

function workersOf(pool: DmaPool, { active, allocations }: PoolStatistics): WorkerSnapshot[] {
  const { backend, list } = openPool(pool);
  if (!(backend instanceof SharedBackend)) {
    const cached = Math.max(0, list.owned - list.out);
    return [{ worker: 0, thread: threadId, state: 'attached', held: active, cached, inTransit: 0, allocations }];
  }
  const workers = new Workers(backend.control.header);
  const counts = countByWorker(backend);
  const found: WorkerSnapshot[] = [];
  for (let worker = 1; worker <= MAX_WORKERS; worker++) {
    const state = workers.stateOf(worker);
    if (state === NO_WORKER) continue;
    const { held, cached, transit } = counts[worker]!;
    found.push({
      worker,
      thread: workers.threadOf(worker),
      state: STATES.get(state) ?? 'attaching',
      held,
      cached,
      inTransit: transit,
      allocations: worker === backend.worker ? list.allocations : workers.allocationsOf(worker),
    });
  }
  return found;
}

const STATES: ReadonlyMap<number, WorkerSnapshot['state']> = new Map([
  [ATTACHED, 'attached'],
  [DEAD, 'dead'],
  [LOST, 'lost'],
]);

/** The pool of this thread with that number. @throws {@link DmaArgumentError} if there is none. */
export function poolById(id: number): DmaPool {
  const found = pools().find((pool) => idOf(pool) === id);
  if (found === undefined) throw new DmaArgumentError('pool', id, 'the id of a pool in the snapshot');
  return found;
}
