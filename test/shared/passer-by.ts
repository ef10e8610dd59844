/** A worker that attaches to whatever pool it is told of, uses it for a moment, and leaves. */
import { parentPort } from 'node:worker_threads';
import { DmaError } from 'dmapool';
import { attachPool, type SharedPoolHandle } from 'dmapool/shared';

export interface Visit {
  readonly handle: SharedPoolHandle;
  /** Allocations and frees there. */
  readonly pairs: number;
}

/** `left`: used and left; otherwise the code of the error that ended the visit. */
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
    // Anything else is this worker's uncaught error.
    if (error instanceof DmaError) return error.code;
    throw error;
  }
}

parentPort!.on('message', (told: Visit) => {
  parentPort!.postMessage(visit(told));
});
