/** The calls that the target of shared pools makes: the one place that knows how they are written. */
import { type Device, DmaPool, type DmaPoolOptions, type SharedPoolHandle } from 'dmapool';

/** What travels to a worker. */
export type Handle = SharedPoolHandle;

/** A shared pool as its creator, or a worker that attached, has it. */
export type Shared = DmaPool;

export function createShared(
  name: string,
  device: Device,
  options: DmaPoolOptions,
  magazine: number | undefined,
): { pool: Shared; handle: Handle } {
  const pool = DmaPool.create(name, device, options);
  return { pool, handle: pool.share(magazine === undefined ? {} : { magazine }) };
}

export function attach(handle: Handle, device: Device): Shared {
  return DmaPool.attach(handle, { device });
}

/** An attach that must be refused. */
export function attachBadly(handle: Handle, how: number): void {
  const bad: (() => unknown)[] = [
    () => DmaPool.attach(handle, { device: { name: 'no device' } as unknown as Device }),
    () => DmaPool.attach({ ...handle, debug: undefined } as unknown as Handle),
    () => DmaPool.attach({ ...handle, name: Symbol('name') } as unknown as Handle),
    () => DmaPool.attach({ ...handle, maxBlocks: handle.maxBlocks + 1 }),
    () => DmaPool.attach({ ...handle, pages: handle.pages.subarray(1) }),
    () => DmaPool.attach(handle, null as unknown as object),
  ];
  bad[how % bad.length]!();
}

/** A handle for workers of the worker that has `pool`. */
export function shareOn(pool: Shared): Handle {
  return pool.share();
}

export function allocIndex(pool: Shared): number {
  return pool.tryAllocIndex();
}

export function allocIndices(pool: Shared, into: Int32Array, count: number): boolean {
  return pool.tryAllocIndexBulk(into, count);
}

export async function waitForIndex(pool: Shared, timeout: number): Promise<number> {
  return (await pool.allocWait({ timeout })).index;
}

/** Says that a thread ended; for one that lives this is wrong, and must harm nobody. */
export function sayEnded(pool: Shared, thread: number): void {
  pool.workerEnded(thread);
}

/** Fills the table of threads that are watched. */
export function watchMany(pool: Shared, count: number): void {
  for (let n = 0; n < count; n++) pool.watch({ threadId: 1_000_000 + n, once: () => undefined });
}
