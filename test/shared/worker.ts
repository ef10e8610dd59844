/** Worker program of the tests of shared pools. Executes the requests of remote-thread.ts on its pool. */
import { parentPort, threadId } from 'node:worker_threads';
import { Device, DmaError, type DmaPool, type PoolStatistics } from 'dmapool';
import { attachPool, type SharedPoolHandle, sharePool } from 'dmapool/shared';
import { H_LOCK } from '../../src/shared/layout.ts';
import { RecordingLog } from '../support/log.ts';
import { RemoteThread, type Request, type Response } from './remote-thread.ts';

const log = new RecordingLog();
let device = new Device({ name: 'none' });
let pool: DmaPool;
let handle: SharedPoolHandle;
let inner: RemoteThread | null = null;

export const operations = {
  attach(given: SharedPoolHandle): { worker: number; thread: number } {
    handle = given;
    device = new Device({ name: given.device.name, log });
    pool = attachPool(given, { device }).pool;
    return { worker: sharePool(pool).worker, thread: threadId };
  },
  /** Allocates until `count` blocks or the first refusal. */
  alloc(count: number): number[] {
    const taken: number[] = [];
    for (let i = 0; i < count; i++) {
      const index = pool.tryAllocIndex();
      if (index < 0) break;
      taken.push(index);
    }
    return taken;
  },
  /** Allocates one block, or throws the error. */
  allocOne(): number {
    return pool.alloc().index;
  },
  allocBulk(count: number): number[] {
    const taken = new Int32Array(count);
    pool.allocIndexBulk(taken);
    return [...taken];
  },
  free(indices: number[]): void {
    for (const index of indices) pool.freeIndex(index);
  },
  freeObject(dma: number): void {
    const block = pool.blockAt(dma);
    if (block === null) throw new Error('this worker holds no block');
    pool.free(block);
  },
  async wait(timeout?: number): Promise<number> {
    return (await pool.allocWait(timeout === undefined ? {} : { timeout })).index;
  },
  async waitUntilAborted(after: number): Promise<string> {
    try {
      await pool.allocWait({ signal: AbortSignal.timeout(after) });
      return 'got a block';
    } catch (error) {
      return (error as Error).name;
    }
  },
  transfer(indices: number[]): number[] {
    return indices.map((index) => sharePool(pool).transferIndex(index));
  },
  accept(tickets: number[]): number[] {
    return tickets.map((ticket) => sharePool(pool).accept(ticket).index);
  },
  transferBulk(indices: number[]): number[] {
    const tickets = new Float64Array(indices.length);
    sharePool(pool).transferIndexBulk(Int32Array.from(indices), tickets);
    return [...tickets];
  },
  acceptBulk(tickets: number[]): number[] {
    const into = new Int32Array(tickets.length);
    sharePool(pool).acceptIndexBulk(Float64Array.from(tickets), into);
    return [...into];
  },
  recall(): number[] {
    return sharePool(pool).recallIndex();
  },
  write(index: number, value: number): void {
    blockOf(index).u32[0] = value;
  },
  read(index: number): number {
    return blockOf(index).u32[0]!;
  },
  dmaOf(index: number): number {
    return pool.dmaOf(index);
  },
  statistics(): PoolStatistics {
    return pool.statistics();
  },
  attribute(): string {
    return device.readAttribute('pools') ?? '';
  },
  logged(): string {
    return log.text;
  },
  destroy(): void {
    pool.destroy();
  },
  share(): SharedPoolHandle {
    return sharePool(pool).handle;
  },
  /** The state that a kill in the middle of a slow call leaves. */
  takeLock(): void {
    while (Atomics.compareExchange(new Int32Array(handle.control), H_LOCK, 0, sharePool(pool).worker) !== 0) continue;
  },
  workerEnded(thread: number): number {
    return sharePool(pool).reportWorkerExit(thread).length;
  },
  reclaim(): number {
    return sharePool(pool).reclaim();
  },
  /** Starts a child worker that attaches through this one. */
  async makeInner(): Promise<{ worker: number; thread: number }> {
    inner = await RemoteThread.start();
    return inner.request('attach', [sharePool(pool).handle]) as Promise<{ worker: number; thread: number }>;
  },
  async killInner(): Promise<void> {
    await inner?.kill();
  },
  /** Allocates and frees one block per turn of the event loop until a call is refused; returns the number of turns. */
  async turnUntilRefused(most: number): Promise<number> {
    let turns = 0;
    for (let index = pool.tryAllocIndex(); index >= 0 && turns < most; turns++) {
      pool.freeIndex(index);
      await new Promise((resolve) => setImmediate(resolve));
      index = pool.tryAllocIndex();
    }
    return turns;
  },
  async callInner(name: string, args: unknown[]): Promise<unknown> {
    if (inner === null) throw new Error('there is no inner worker');
    return inner.request(name, args);
  },
};

export type Operations = typeof operations;

function blockOf(index: number): NonNullable<ReturnType<typeof pool.blockAt>> {
  const block = pool.blockAt(pool.dmaOf(index));
  if (block === null) throw new Error(`block ${String(index)} is not allocated here`);
  return block;
}

async function answer({ id, name, args }: Request): Promise<Response> {
  try {
    const table: Readonly<Record<string, (...args: never[]) => unknown>> = operations;
    return { id, value: await table[name]!(...(args as never[])) };
  } catch (error) {
    const code = error instanceof DmaError ? error.code : 'none';
    return { id, error: { code, message: error instanceof Error ? error.message : String(error) } };
  }
}

parentPort?.on('message', (request: Request) => {
  void answer(request).then((response) => {
    parentPort?.postMessage(response);
  });
});
