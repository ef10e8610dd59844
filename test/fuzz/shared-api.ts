/** The calls of target `shared` to the public API. */
import { type Device, DmaPool, type DmaPoolOptions } from 'dmapool';
import { attachPool, type SharedPoolHandle, sharePool } from 'dmapool/shared';
import { tryAllocIndexBulk } from '../support/pools.ts';

/** A handle to post to a worker. */
export type Handle = SharedPoolHandle;

/** A shared pool of its creator or of an attached worker. */
export type Shared = DmaPool;

export function createShared(
  name: string,
  device: Device,
  options: DmaPoolOptions,
  magazine: number | undefined,
): { pool: Shared; handle: Handle } {
  const pool = DmaPool.create(name, device, options);
  return { pool, handle: sharePool(pool, magazine === undefined ? {} : { magazine }).handle };
}

export function attach(handle: Handle, device: Device): Shared {
  return attachPool(handle, { device }).pool;
}

/** Attaches with an invalid argument, which must throw. */
export function attachBadly(handle: Handle, how: number): void {
  const bad: (() => unknown)[] = [
    () => attachPool(handle, { device: { name: 'no device' } as unknown as Device }).pool,
    () => attachPool({ ...handle, debug: undefined } as unknown as Handle).pool,
    () => attachPool({ ...handle, name: Symbol('name') } as unknown as Handle).pool,
    () => attachPool({ ...handle, maxBlocks: handle.maxBlocks + 1 }).pool,
    () => attachPool({ ...handle, pages: handle.pages.subarray(1) }).pool,
    () => attachPool(handle, null as unknown as object).pool,
  ];
  bad[how % bad.length]!();
}

/** Returns a handle for the workers that this thread starts. */
export function shareOn(pool: Shared): Handle {
  return sharePool(pool).handle;
}

export function allocIndex(pool: Shared): number {
  return pool.tryAllocIndex();
}

export function allocIndices(pool: Shared, into: Int32Array, count: number): boolean {
  return tryAllocIndexBulk(pool, into, count);
}

export async function waitForIndex(pool: Shared, timeout: number): Promise<number> {
  return (await pool.allocWait({ timeout })).index;
}

/** Reports the exit of a thread. A false report must not corrupt the pool. */
export function reportExit(pool: Shared, thread: number): void {
  sharePool(pool).reportWorkerExit(thread);
}

/** Fills the table of watched threads. */
export function watchMany(pool: Shared, count: number): void {
  for (let n = 0; n < count; n++) sharePool(pool).watchWorker({ threadId: 1_000_000 + n, once: () => undefined });
}
