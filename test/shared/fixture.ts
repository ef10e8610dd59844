/** A shared pool of the main thread and workers on it. */
import type { TestContext } from 'node:test';
import { Device, DmaPool, type DmaPoolOptions, HeapMemory } from 'dmapool';
import { type SharedPoolHandle, type ShareOptions, sharePool } from 'dmapool/shared';
import { indicesOf } from '../support/pools.ts';
import { RecordingLog } from '../support/log.ts';
import { RemoteWorker } from './remote.ts';

export { until } from '../support/until.ts';

export interface Fixture {
  readonly memory: HeapMemory;
  readonly log: RecordingLog;
  readonly device: Device;
  readonly pool: DmaPool<'rx'>;
  readonly handle: SharedPoolHandle;
  readonly workers: RemoteWorker[];
}

export interface FixtureOptions extends Partial<DmaPoolOptions>, ShareOptions {
  readonly workers?: number;
}

/** Shares the pool and attaches `workers` workers, numbers 2 and up. The workers are ended after the test. */
export async function sharedPool(t: TestContext, options: FixtureOptions = {}): Promise<Fixture> {
  const { workers: count = 1, magazine, ...rest } = options;
  const memory = new HeapMemory();
  const log = new RecordingLog();
  const device = new Device({ name: 'nic', memory, log });
  const pool = DmaPool.create('rx', device, { size: 256, maxBlocks: 64, ...rest });
  const handle = sharePool(pool, magazine === undefined ? {} : { magazine }).handle;
  const workers: RemoteWorker[] = [];
  t.after(async () => {
    await Promise.all(workers.map((worker) => worker.kill()));
    pool.destroy();
    // Blocks that the test did not free have no owner now.
    for (const index of [...indicesOf(pool)]) pool.freeIndex(index);
    sharePool(pool).reclaim();
  });
  for (let i = 0; i < count; i++) workers.push(await attachedWorker(handle));
  return { memory, log, device, pool, handle, workers };
}

export async function attachedWorker(handle: SharedPoolHandle): Promise<RemoteWorker> {
  const remote = await RemoteWorker.start();
  await remote.call('attach', handle);
  return remote;
}

/** A pool that is not shared yet. */
export function makePool(maxBlocks = 64): { memory: HeapMemory; device: Device; pool: DmaPool<'rx'> } {
  const memory = new HeapMemory();
  const device = new Device({ name: 'nic', memory, log: new RecordingLog() });
  return { memory, device, pool: DmaPool.create('rx', device, { size: 256, maxBlocks }) };
}

export function range(begin: number, end: number): number[] {
  return Array.from({ length: end - begin }, (_, i) => begin + i);
}
