import { Worker } from 'node:worker_threads';

import type { SharedPoolHandle } from '../../src/shared/index.ts';
import type { Batch } from './pipeline.ts';

export interface SharedPools {
  /** In the order of the geometries. */
  readonly handles: readonly SharedPoolHandle[];
  readonly pipeline: SharedPoolHandle;
  readonly ring: SharedArrayBuffer;
}

/** What a thread of the crew is made with. */
export interface CrewData {
  /** The shared pools; null for a thread that has pools of its own. */
  readonly shared: SharedPools | null;
  /** The most blocks that this thread holds at once, of each pool. */
  readonly shares: readonly number[];
  readonly meeting: SharedArrayBuffer;
}

/** What the coordinator has a thread do. `complete`: see {@link Meeting}. `counts`: this is no warming up. */
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

/** When a job began and ended, in milliseconds on a clock that all threads share. */
export interface Span {
  readonly start: number;
  readonly end: number;
  /** The thread waited for a processor, here or at the meeting; false also where the system does not say. */
  readonly disturbed: boolean;
}

/** Bytes of garbage of this thread for each pair of a pool, and for each block of a pipeline; null: not known. */
export interface Garbage {
  readonly pools: readonly (number | null)[];
  readonly pipeline: Readonly<Record<Batch, number | null>>;
}

export type Reply = Span | Garbage | null;

/** A thread of `npm run bench -- --workers N`, as the coordinator sees it: one job at a time. */
class Thread {
  readonly #worker: Worker;
  #settle: { resolve: (reply: Reply) => void; reject: (error: unknown) => void } | null = null;

  constructor(data: CrewData, onFailure: (error: unknown) => void) {
    this.#worker = new Worker(new URL('./thread.js', import.meta.url), { workerData: data });
    // Each shared pool listens for its end.
    this.#worker.setMaxListeners(0);
    this.#worker.once('exit', () => {
      // After its last job this is nobody's loss.
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

/** The threads of the benchmark. If one fails, all that is under way fails: nobody waits for it at a meeting. */
export class Crew implements AsyncDisposable {
  readonly #threads: readonly Thread[];

  constructor(members: readonly CrewData[]) {
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

  /** Has a thread do a job; resolves with its answer. */
  do(member: number, job: Job): Promise<Reply> {
    return this.#threads[member]!.do(job);
  }

  /** Has all threads end in good order. */
  async end(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.do({ kind: 'end' })));
    await this[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.terminate()));
  }
}
