/**
 * The other thread of the sharing checks: its program, and the proxy for this thread. The adapters node-threads.ts and
 * web-workers.ts create threads and transport messages.
 */
import { Device, DmaError, type DmaPool } from '../../../src/index.ts';
import { attachPool, type SharedPoolHandle, sharePool } from '../../../src/shared/index.ts';
import { tryAllocIndexBulk } from '../../support/pools.ts';

/** A request to the other thread: the name of an operation below, and its arguments. */
export interface Request {
  readonly id: number;
  readonly name: keyof Operations;
  readonly args: readonly unknown[];
}

/** The answer. */
export interface Response {
  readonly id: number;
  readonly value?: unknown;
  readonly error?: { readonly code: DmaError['code'] | null; readonly message: string };
}

type Operations = ReturnType<typeof operations>;

function operations() {
  let pool: DmaPool;
  const held: number[] = [];
  return {
    attach(handle: SharedPoolHandle): { worker: number; thread: number; name: string } {
      const device = new Device({ ...handle.device, log: { error: ignore, warn: ignore, info: ignore } });
      pool = attachPool(handle, { device }).pool;
      return { worker: sharePool(pool).worker, thread: sharePool(pool).thread, name: pool.name };
    },
    /** Allocates `count` blocks and writes `word` into each. */
    take(count: number, word: number): number[] {
      const taken = Array.from({ length: count }, () => pool.alloc());
      for (const { u32, index } of taken) {
        u32[0] = word;
        held.push(index);
      }
      return taken.map(({ index }) => index);
    },
    /** Allocates all blocks. */
    hog(): number {
      for (let index = pool.tryAllocIndex(); index >= 0; index = pool.tryAllocIndex()) held.push(index);
      return held.length;
    },
    freeOne(): number {
      const index = held.pop()!;
      pool.freeIndex(index);
      return index;
    },
    freeAll(): void {
      for (const index of held.splice(0)) pool.freeIndex(index);
    },
    freeIndex(index: number): void {
      pool.freeIndex(index);
    },
    /** Accepts a block, adds one to its first word, and transfers it back. */
    increment(ticket: number): number {
      const block = sharePool(pool).accept(ticket);
      block.u32[0]!++;
      return sharePool(pool).transfer(block);
    },
    async waitForOne(timeout: number): Promise<number> {
      const block = await pool.allocWait({ timeout });
      held.push(block.index);
      return block.u32[0]!;
    },
    hammer(rounds: number, stamp: number): void {
      hammer(pool, rounds, stamp);
    },
    leave(): void {
      pool.destroy();
    },
  };
}

function ignore(): void {
  // The sharing thread checks the log of the worker's device.
}

/** Allocates and frees repeatedly; throws if another thread writes to an allocated block. */
export function hammer(pool: DmaPool, rounds: number, stamp: number): void {
  const indices = new Int32Array(16);
  for (let round = 0; round < rounds; round++) {
    const count = 1 + (round % indices.length);
    if (!tryAllocIndexBulk(pool, indices, count)) continue;
    for (let i = 0; i < count; i++) pool.bytesOf(indices[i]!).fill(stamp);
    for (let i = 0; i < count; i++) {
      if (!pool.bytesOf(indices[i]!).every((byte) => byte === stamp)) throw new Error('one block, two owners');
    }
    pool.freeIndexBulk(indices, count);
  }
}

/** The program of the other thread: answers each request. */
export function servePeer(): (request: Request, answer: (response: Response) => void) => Promise<void> {
  const known = operations() as Record<string, (...args: readonly never[]) => unknown>;
  return async ({ id, name, args }, answer) => {
    try {
      answer({ id, value: await known[name]!(...(args as never[])) });
    } catch (error) {
      answer({ id, error: { code: error instanceof DmaError ? error.code : null, message: String(error) } });
    }
  };
}

/** The interface of an adapter. */
export interface Connection {
  send(message: Request): void;
  /** Terminates the thread at any point of its program; resolves when the thread has ended. */
  terminate(): Promise<void>;
}

/** Starts a thread that serves requests; calls `receive` with each answer, and `fail` on an error of the thread. */
export type Connect = (receive: (response: Response) => void, fail: (error: Error) => void) => Connection;

/** The proxy in this thread. */
export class Peer {
  readonly #connection: Connection;
  readonly #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  #next = 0;

  constructor(connect: Connect) {
    this.#connection = connect(
      ({ id, value, error }) => {
        const asked = this.#waiting.get(id);
        this.#waiting.delete(id);
        if (error === undefined) asked?.resolve(value);
        else asked?.reject(Object.assign(new Error(error.message), { code: error.code }));
      },
      (error) => {
        for (const { reject } of this.#waiting.values()) reject(error);
      },
    );
  }

  call<Name extends keyof Operations>(
    name: Name,
    ...args: Parameters<Operations[Name]>
  ): Promise<Awaited<ReturnType<Operations[Name]>>> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
      this.#connection.send({ id, name, args });
    });
  }

  terminate(): Promise<void> {
    return this.#connection.terminate();
  }
}
