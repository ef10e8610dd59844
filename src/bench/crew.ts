import { Worker } from 'node:worker_threads';

import type { CrewData, Job, Reply } from './jobs.ts';

/** A thread of `dmapool bench --workers`, as the coordinator sees it: one job at a time. */
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
