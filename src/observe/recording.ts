/**
 * The recording of a whole process, for `dmapool record`: all pools of all threads into one ring, in one order, including
 * pools that are created and threads that start while it lasts. A process has at most one.
 *
 * A new thread receives the recording as environment data, before its program runs. It first subscribes to the main
 * thread's messages and then checks that the ring is active, so that it can't miss the end.
 */
import { getEnvironmentData, setEnvironmentData, threadId } from 'node:worker_threads';

import type { DmaPool } from '../pool/contract.ts';
import { idOf, onPool, pools, sharedName } from './registry.ts';
import { OperationRing } from './ring.ts';
import { attachTap, detachTap } from './tap.ts';
import { describePool, endOf, GONE, type PoolEnd, type RecordedPool } from './trace-text.ts';

/** A recording, as threads receive it. */
export interface RecordingHandle {
  readonly buffer: SharedArrayBuffer;
  readonly limit: number;
  /** The only pool to record, in all threads that share it; null: all. */
  readonly only: { readonly thread: number; readonly pool: number; readonly shared: string | null } | null;
}

/** A pool that a thread records. A shared pool has one for each of its threads. */
export interface PoolInRecording extends RecordedPool {
  /** Its number in the ring. */
  readonly number: number;
  /** Name of a shared pool in all threads; null otherwise. */
  readonly shared: string | null;
}

const ENVIRONMENT_KEY = 'dmapool:recording';

/** The part of one thread. */
class ThreadRecording {
  readonly #handle: RecordingHandle;
  readonly #ring: OperationRing;
  readonly #announce: (pool: PoolInRecording) => void;
  readonly #pools: { readonly number: number; readonly early: boolean; readonly pool: WeakRef<DmaPool> }[] = [];
  readonly #unsubscribe: () => void;

  constructor(handle: RecordingHandle, ring: OperationRing, announce: (pool: PoolInRecording) => void) {
    this.#handle = handle;
    this.#ring = ring;
    this.#announce = announce;
    for (const pool of pools()) this.#add(pool, true);
    this.#unsubscribe = onPool((pool) => {
      this.#add(pool, false);
    });
  }

  #add(pool: DmaPool, early: boolean): void {
    const shared = sharedName(pool);
    // A pool that became shared stays the same pool.
    let entry = this.#pools.find((each) => each.pool.deref() === pool);
    if (entry === undefined) {
      if (!this.#includes(pool, shared)) return;
      entry = { number: this.#ring.nextPool(), early, pool: new WeakRef(pool) };
      this.#pools.push(entry);
      attachTap(pool, this.#ring, entry.number);
    }
    this.#announce({ ...describePool(pool, entry.early), number: entry.number, shared });
  }

  #includes(pool: DmaPool, shared: string | null): boolean {
    const { only } = this.#handle;
    if (only === null) return true;
    return (only.thread === threadId && only.pool === idOf(pool)) || (shared !== null && shared === only.shared);
  }

  /** Ends it. Returns the state of each pool, by its number in the ring. */
  end(): Map<number, PoolEnd> {
    this.#unsubscribe();
    const ends = new Map<number, PoolEnd>();
    for (const { number, pool } of this.#pools) {
      const found = pool.deref();
      if (found !== undefined) detachTap(found, this.#ring);
      ends.set(number, found === undefined ? GONE : endOf(found));
    }
    return ends;
  }
}

let current: ThreadRecording | null = null;

/** Starts this thread's part. `announce` receives each pool before its first recorded operation. */
export function beginRecording(
  handle: RecordingHandle,
  announce: (pool: PoolInRecording) => void,
  ring: OperationRing = new OperationRing(handle.limit, handle.buffer),
): void {
  endRecording();
  // A blocked thread may receive the begin after the end.
  if (!ring.active) return;
  setEnvironmentData(ENVIRONMENT_KEY, handle);
  current = new ThreadRecording(handle, ring, announce);
}

/** Ends this thread's part, if there is one. Returns the state of each pool, by its number in the ring. */
export function endRecording(): Map<number, PoolEnd> {
  setEnvironmentData(ENVIRONMENT_KEY, undefined);
  const ends = current?.end() ?? new Map<number, PoolEnd>();
  current = null;
  return ends;
}

/** Starts this thread's part of a recording that was active when the thread was created. */
export function joinRecording(announce: (pool: PoolInRecording) => void): void {
  const handle = getEnvironmentData(ENVIRONMENT_KEY) as unknown as RecordingHandle | undefined;
  if (handle === undefined || current !== null) return;
  beginRecording(handle, announce);
}
