/** Runs worker.ts in a worker: requests by name, and answers. `remote.ts` gives them types. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

/** A request: the name of an operation of worker.ts, and its arguments. */
export interface Request {
  readonly id: number;
  readonly name: string;
  readonly args: readonly unknown[];
}

/** The answer to a request. */
export interface Response {
  readonly id: number;
  readonly value?: unknown;
  readonly error?: { readonly code: string; readonly message: string };
}

/** An error of the worker. */
export class RemoteError extends Error {
  override readonly name = 'RemoteError';
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** Timeout for an answer, in milliseconds. A hang fails with the name of the request. */
const PATIENCE = 20_000;

export class RemoteThread {
  readonly worker: Worker;
  readonly #asked = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  #next = 0;

  protected constructor() {
    this.worker = new Worker(new URL('./worker.js', import.meta.url));
    this.worker.on('message', ({ id, value, error }: Response) => {
      const asked = this.#asked.get(id);
      this.#asked.delete(id);
      if (error === undefined) asked?.resolve(value);
      else asked?.reject(new RemoteError(error.code, error.message));
    });
    this.worker.on('exit', () => {
      for (const asked of this.#asked.values()) asked.reject(new RemoteError('ended', 'the worker ended'));
      this.#asked.clear();
    });
  }

  static async start(): Promise<RemoteThread> {
    const remote = new this();
    await once(remote.worker, 'online');
    return remote;
  }

  request(name: string, args: readonly unknown[]): Promise<unknown> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new RemoteError('hang', `${name} was not answered in ${String(PATIENCE)} ms`));
      }, PATIENCE);
      const settled = (): void => {
        clearTimeout(timer);
      };
      this.#asked.set(id, {
        resolve: (value) => {
          settled();
          resolve(value);
        },
        reject: (error) => {
          settled();
          reject(error);
        },
      });
      this.worker.postMessage({ id, name, args } satisfies Request);
    });
  }

  /** Terminates the worker and waits until the pool has handled the exit. */
  async kill(): Promise<void> {
    await this.worker.terminate();
    await new Promise((resolve) => setImmediate(resolve));
  }
}
