/** A worker that attaches to each pool it receives, uses the pool for a moment, and leaves. */
import { parentPort } from 'node:worker_threads';
import { DmaError } from 'dmapool';
import { attachPool, type SharedPoolHandle } from 'dmapool/shared';

export interface Visit {
  readonly handle: SharedPoolHandle;
  /** Number of allocations and frees per visit. */
  readonly pairs: number;
}

/** `left`: used the pool and left; otherwise the code of the error that ended the visit. */
export type Outcome = 'left' | DmaError['code'];

function visit({ handle, pairs }: Visit): Outcome {
  try {
    const pool = attachPool(handle).pool;
    try {
      for (let i = 0; i < pairs; i++) pool.freeIndex(pool.allocIndex());
    } finally {
      pool.destroy();
    }
    return 'left';
  } catch (error) {
    // Any other error is uncaught in this worker.
    if (error instanceof DmaError) return error.code;
    throw error;
  }
}

parentPort!.on('message', (told: Visit) => {
  parentPort!.postMessage(visit(told));
});
