/** {@link snapshot}: the devices, pools and memory sources of a thread. */
import { threadId } from 'node:worker_threads';

import { type OptionNames, readOptions } from '../arguments.ts';
import type { Device } from '../device/device.ts';
import { openPool } from '../dma-pool.ts';
import { DmaArgumentError, DmaDestroyedError } from '../errors.ts';
import type { CoherentAllocator } from '../memory/coherent.ts';
import type { DmaPool } from '../pool/contract.ts';
import { MAX_BLOCKS } from '../pool/hot-path.ts';
import { LocalBackend } from '../pool/local-backend.ts';
import type { PoolStatistics } from '../pool/statistics.ts';
import { SharedBackend } from '../shared/backend.ts';
import { ATTACHED, DEAD, LOST, MAX_WORKERS, NO_WORKER } from '../shared/layout.ts';
import { WAIT_BOUNDS } from '../shared/wait-times.ts';
import { Workers } from '../shared/workers.ts';
import { countByWorker, openPages, pageStates } from './blocks.ts';
import type { DeviceSnapshot, PoolSnapshot, Snapshot, SourceSnapshot, WorkerSnapshot } from './format.ts';
import { devices, idOf, pools, sharedName, waitTimes } from './registry.ts';

/** Options of {@link snapshot}. */
export interface SnapshotOptions {
  /** Include the pages and blocks of all pools (true) or of one pool. Default false. */
  readonly blocks?: boolean | DmaPool;
}

const OPTIONS: OptionNames<SnapshotOptions> = { blocks: true };

/**
 * All devices, pools and memory sources that this thread created since it imported `dmapool/observe`. The figures of a
 * shared pool are those of the whole pool, in every thread.
 *
 * @param options Selects the pools whose blocks are included.
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
    // The device was created before the import.
    if (of === undefined) byDevice.set(pool.device, [pool]);
    else of.push(pool);
  }
  const sources = new Set([...byDevice.keys()].map((device) => device.memory));
  return {
    format: 'dmapool-snapshot',
    version: 2,
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
      // The source is user code.
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

/** @param blocks Include the pages and blocks. */
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
    shared: sharedName(pool),
    state: isOpen(backend) ? 'open' : 'destroyed',
    ...statistics,
    waitTimes: { bounds: WAIT_BOUNDS, counts: [...counts], sum },
    workers: workersOf(pool, statistics),
    map: blocks
      ? openPages(inside).map((page) => ({
          page,
          dma: backend.pages.dmaOf(page * geometry.blocksPerPage),
          blocks: Buffer.from(pageStates(inside, page).buffer).toString('base64'),
        }))
      : null,
  };
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

/** The pool of this thread with this number. @throws {@link DmaArgumentError} if there is none. */
export function poolById(id: number): DmaPool {
  const found = pools().find((pool) => idOf(pool) === id);
  if (found === undefined) throw new DmaArgumentError('pool', id, 'the id of a pool in the snapshot');
  return found;
}
