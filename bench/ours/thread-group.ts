import { Worker } from 'node:worker_threads';

import type { SharedPoolHandle } from '../../src/shared/index.ts';
import type { Batch } from './pipeline.ts';

export interface SharedPools {
  /** In the order of the geometries. */
  readonly handles: readonly SharedPoolHandle[];
  readonly pipeline: SharedPoolHandle;
  readonly ring: SharedArrayBuffer;
}

/** Data passed to a thread of the group. */
export interface ThreadData {
  /** The shared pools; null for a thread with its own pools. */
  readonly shared: SharedPools | null;
  /** Maximum blocks that this thread holds at once, for each pool. */
  readonly shares: readonly number[];
  readonly barrier: SharedArrayBuffer;
}

/** A job of a thread. `complete`: see {@link Barrier.wait}. `counts`: false during warm-up. */
export type Job =
  | { readonly kind: 'warm-up' }
  | {
      readonly kind: 'rounds';
      readonly pool: number;
      /** Blocks to hold at once. */
      readonly blocks: number;
      readonly rounds: number;
      readonly complete: number;
      readonly counts: boolean;
    }
  | {
      readonly kind: 'pipeline';
      readonly half: 'give' | 'take';
      readonly batch: Batch;
      readonly calls: number;
      readonly complete: number;
      readonly counts: boolean;
    }
  | { readonly kind: 'garbage' }
  | { readonly kind: 'end' };

/** Start and end of a job, in milliseconds on a clock common to all threads. */
export interface Span {
  readonly start: number;
  readonly end: number;
  /** The thread waited for a CPU during the job or at the barrier; false if the system does not report it. */
  readonly disturbed: boolean;
}

/** Bytes of garbage of this thread: per pair of a pool, and per block of a pipeline; null if unknown. */
export interface Garbage {
  readonly pools: readonly (number | null)[];
  readonly pipeline: Readonly<Record<Batch, number | null>>;
}

export type Reply = Span | Garbage | null;

/** The coordinator's handle of a thread of `npm run bench -- --workers N`. Runs one job at a time. */
class Thread {
  readonly #worker: Worker;
  #settle: { resolve: (reply: Reply) => void; reject: (error: unknown) => void } | null = null;

  constructor(data: ThreadData, onFailure: (error: unknown) => void) {
    this.#worker = new Worker(new URL('./thread.js', import.meta.url), { workerData: data });
    // Each shared pool adds an exit listener.
    this.#worker.setMaxListeners(0);
    this.#worker.once('exit', () => {
      // After the last job this has no effect.
      this.fail(new Error('a thread of the benchmark ended early'));
    });
    this.#worker.on('message', (reply: Reply) => {
      const settle = this.#settle;
      this.#settle = null;
      settle?.resolve(reply);
    });
    this.#worker.on('error', onFailure);
  }

  do(job: Job): Promise<Reply> {
    return new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
      this.#worker.postMessage(job);
    });
  }

  fail(error: unknown): void {
    this.#settle?.reject(error);
    this.#settle = null;
  }

  async terminate(): Promise<void> {
    await this.#worker.terminate();
  }
}

/** The threads of the benchmark. If one fails, all jobs fail: the others would wait for it at a barrier for ever. */
export class ThreadGroup implements AsyncDisposable {
  readonly #threads: readonly Thread[];

  constructor(members: readonly ThreadData[]) {
    this.#threads = members.map(
      (data) =>
        new Thread(data, (error) => {
          for (const thread of this.#threads) thread.fail(error);
        }),
    );
  }

  get size(): number {
    return this.#threads.length;
  }

  /** Runs a job on a thread. Resolves to its reply. */
  do(member: number, job: Job): Promise<Reply> {
    return this.#threads[member]!.do(job);
  }

  /** Ends all threads after their cleanup. */
  async end(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.do({ kind: 'end' })));
    await this[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.terminate()));
  }
}
