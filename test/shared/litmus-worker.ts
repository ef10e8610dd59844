/** Worker program of the litmus tests. */
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { loadAcquire32, storeRelease32 } from 'dmapool';
import { attachPool, type SharedPoolHandle } from 'dmapool/shared';
import { PoolLock } from '../../src/shared/lock.ts';

/** Number of slots of the ring of `acquire`, and of words per slot. */
export const SLOTS = 64;
export const SLOT = 16;

/** The task of a worker; every kind has its number of rounds. */
export type Litmus =
  | {
      readonly kind: 'receive';
      readonly handle: SharedPoolHandle;
      readonly ring: Float64Array<SharedArrayBuffer>;
      /** [0]: tickets written, [1]: tickets read. */
      readonly cursors: Int32Array<SharedArrayBuffer>;
      readonly rounds: number;
    }
  | {
      readonly kind: 'count';
      readonly header: Int32Array<SharedArrayBuffer>;
      readonly me: number;
      /** [0]: start flag; [1], [2]: written only under the lock. */
      readonly counters: Int32Array<SharedArrayBuffer>;
      readonly rounds: number;
    }
  | {
      readonly kind: 'acquire';
      /** Slots of {@link SLOT} words, the first one the sequence number; [SLOT - 1] of the first slot: acknowledged. */
      readonly words: Uint32Array<SharedArrayBuffer>;
      readonly rounds: number;
    };

/** Number of violations detected. */
function receive({ handle, ring, cursors, rounds }: Extract<Litmus, { kind: 'receive' }>): number {
  const shared = attachPool(handle);
  const { pool } = shared;
  let violations = 0;
  for (let round = 0; round < rounds; round++) {
    while (Atomics.load(cursors, 0) <= round) continue;
    const block = shared.accept(ring[round % ring.length]!);
    const { u32 } = block;
    for (let i = 0; i < 8; i++) if (u32[i] !== round + i) violations++;
    pool.free(block);
    Atomics.store(cursors, 1, round + 1);
  }
  pool.destroy();
  return violations;
}

function count({ header, me, counters, rounds }: Extract<Litmus, { kind: 'count' }>): number {
  const lock = new PoolLock(header, me, true);
  Atomics.add(counters, 0, 1);
  while (Atomics.load(counters, 0) < 3) continue;
  let violations = 0;
  for (let round = 0; round < rounds; round++) {
    lock.acquire();
    const before = counters[1]!;
    counters[1] = before + 1;
    if (counters[2] !== before) violations++;
    counters[2] = before + 1;
    lock.release();
  }
  return violations;
}

function acquire({ words, rounds }: Extract<Litmus, { kind: 'acquire' }>): number {
  let violations = 0;
  for (let round = 1; round <= rounds; round++) {
    const slot = (round % SLOTS) * SLOT;
    while (loadAcquire32(words, slot) !== round) continue;
    for (let i = 1; i <= 8; i++) if (words[slot + i] !== round * 8 + i) violations++;
    storeRelease32(words, SLOT - 1, round);
  }
  return violations;
}

function perform(task: Litmus): number {
  switch (task.kind) {
    case 'receive':
      return receive(task);
    case 'count':
      return count(task);
    case 'acquire':
      return acquire(task);
  }
}

// The tests import this file also for its types and numbers.
if (!isMainThread) parentPort?.postMessage(perform(workerData as Litmus));
