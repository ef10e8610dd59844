/** Starts and ends the workers that run hammer.ts on one pool. */
import assert from 'node:assert/strict';
import { Worker } from 'node:worker_threads';
import type { SharedPoolHandle } from 'dmapool/shared';
import type { HammerMessage, HammerOptions } from './hammer.ts';

/** Maximum number of lives in one test. */
const MOST_LIVES = 16_384;

/** A worker that runs hammer.ts. */
export interface Hammer {
  readonly life: number;
  readonly worker: Worker;
  readonly thread: number;
  /** Resolves when the worker has attached and begun. */
  readonly running: Promise<void>;
  /** Number of turns, when the worker ended by itself. */
  readonly done: Promise<number>;
}

export class Hammers {
  readonly #handle: SharedPoolHandle;
  readonly #mail: BigInt64Array<SharedArrayBuffer>;
  readonly #lives: Int32Array<SharedArrayBuffer> = new Int32Array(new SharedArrayBuffer(MOST_LIVES * 4));
  readonly violations: string[] = [];
  #next = 1;

  constructor(handle: SharedPoolHandle, places: number) {
    this.#handle = handle;
    this.#mail = new BigInt64Array(new SharedArrayBuffer(places * 8));
  }

  start(): Hammer {
    const life = this.#next++;
    assert.ok(life < MOST_LIVES);
    Atomics.store(this.#lives, life, 1);
    const options: HammerOptions = { handle: this.#handle, life, mail: this.#mail, lives: this.#lives };
    const worker = new Worker(new URL('./hammer.js', import.meta.url), { workerData: options });
    const thread = worker.threadId;
    let began: () => void;
    let ended: (turns: number) => void;
    const running = new Promise<void>((resolve) => (began = resolve));
    const done = new Promise<number>((resolve) => (ended = resolve));
    worker.on('message', (message: HammerMessage) => {
      if ('running' in message) began();
      else if ('done' in message) ended(message.done);
      else this.violations.push(message.violation);
    });
    worker.on('error', (error) => {
      this.violations.push(String(error));
    });
    worker.on('exit', () => {
      began();
      ended(0);
    });
    return { life, worker, thread, running, done };
  }

  /** Kills a worker at any point of its program. The pool has handled the exit when this resolves. */
  async kill(hammer: Hammer): Promise<void> {
    await hammer.worker.terminate();
    await new Promise((resolve) => setImmediate(resolve));
    Atomics.store(this.#lives, hammer.life, 0);
  }

  /** Makes all workers free what they hold and leave. */
  async finish(hammers: readonly Hammer[]): Promise<void> {
    Atomics.store(this.#lives, 0, 1);
    await Promise.all(hammers.map((hammer) => within(20_000, 'a worker ends', hammer.done)));
  }

  /** Allows new workers to start after {@link finish}. */
  again(): void {
    Atomics.store(this.#lives, 0, 0);
    this.#mail.fill(0n);
  }
}

/** Rejects with the name of the step when the promise is not settled in time. */
export async function within<T>(milliseconds: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`${what}: not in ${String(milliseconds)} ms`));
    }, milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
