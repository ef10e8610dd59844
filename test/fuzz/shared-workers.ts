/** Starts workers, and ends their lives before the pools detect the exit. */
import { Worker } from 'node:worker_threads';
import { type Arena, breakArena, endLife, newLife, type WorkerOrders } from './shared-arena.ts';

const endings = new WeakMap<Worker, () => void>();

// Registered before any pool's listener: the claims of a life must be void before its blocks can be allocated again.
process.on('worker', (worker: Worker) => {
  worker.once('exit', () => endings.get(worker)?.());
});

/** A running worker. */
export interface Running {
  readonly worker: Worker;
  readonly ended: Promise<void>;
}

export function startWorker(arena: Arena, orders: Omit<WorkerOrders, 'arena' | 'life'> & { maker: number }): Running {
  const { maker, ...rest } = orders;
  const life = newLife(arena, maker);
  const workerData: WorkerOrders = { ...rest, arena, life };
  const worker = new Worker(new URL('shared-worker.js', import.meta.url), { workerData });
  endings.set(worker, () => {
    endLife(arena, life);
  });
  worker.on('error', (error: unknown) => {
    breakArena(arena, `a worker ended with ${String(error)}`);
  });
  const ended = new Promise<void>((resolve) => {
    worker.once('exit', () => {
      resolve();
    });
  });
  return { worker, ended };
}
