/**
 * One pool in two threads, for every runtime: shared, attached, a block there and back, a wait across threads, a death,
 * and the end. Prints what it saw as JSON; a check that fails ends it with an error. It must end by itself.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
// Not by the package's name: Deno does not look for a package that a file is itself part of.
import { Device, DmaError, DmaPool, HeapMemory, type SharedPoolHandle } from '../../src/index.ts';

/** What the program prints. */
export interface RuntimeFindings {
  /** Milliseconds until a block that the worker freed came to who waited here. */
  readonly waited: number;
  /** The worker's end was noticed without `watch`. */
  readonly watchedByItself: boolean;
}

type Message = { readonly ticket: number } | { readonly hogged: number };

async function creator(): Promise<RuntimeFindings> {
  const lines: string[] = [];
  const write = (line: string): void => {
    lines.push(line);
  };
  const memory = new HeapMemory();
  const device = new Device({ name: 'nic', memory, log: { error: write, warn: write, info: write } });
  const pool = DmaPool.create('rx', device, { size: 256, maxBlocks: 64 });
  const block = pool.alloc();
  block.u32[0] = 42;
  const worker = new Worker(new URL(import.meta.url), { workerData: pool.share() });
  const thread = worker.threadId;
  const answer = async (): Promise<Message> => ((await once(worker, 'message')) as [Message])[0];

  worker.postMessage(pool.transfer(block));
  assert.throws(
    () => {
      pool.free(block);
    },
    (error) => error instanceof DmaError && error.code === 'ERR_DMAPOOL_NOT_OWNER',
  );
  const back = await answer();
  assert.ok('ticket' in back);
  assert.equal(pool.accept(back.ticket), block);
  assert.equal(block.u32[0], 43);
  pool.free(block);

  worker.postMessage('hog');
  const hogged = await answer();
  // The rest is at hand here.
  assert.ok('hogged' in hogged && hogged.hogged >= 56);
  for (let index = 0; index >= 0; index = pool.tryAllocIndex());
  const begin = performance.now();
  worker.postMessage('free one');
  await pool.allocWait({ timeout: 5000 });
  const waited = performance.now() - begin;

  const exit = once(worker, 'exit');
  await worker.terminate();
  await exit;
  await new Promise((resolve) => setTimeout(resolve, 50));
  const watchedByItself = lines.some((line) => line.includes('died'));
  if (!watchedByItself) pool.workerEnded(thread);
  assert.equal(pool.reclaim(), hogged.hogged - 1);
  for (const index of [...pool.indices()]) pool.freeIndex(index);
  assert.equal(pool.counts().active, 0);
  pool.destroy();
  assert.equal(memory.bytesInUse, 0);
  return { waited, watchedByItself };
}

function attached(handle: SharedPoolHandle): void {
  const pool = DmaPool.attach(handle);
  const held: number[] = [];
  parentPort?.on('message', (message: number | 'hog' | 'free one') => {
    if (message === 'hog') {
      for (let index = pool.tryAllocIndex(); index >= 0; index = pool.tryAllocIndex()) held.push(index);
      parentPort?.postMessage({ hogged: held.length } satisfies Message);
    } else if (message === 'free one') {
      pool.freeIndex(held.pop()!);
    } else {
      const block = pool.accept(message);
      block.u32[0]!++;
      parentPort?.postMessage({ ticket: pool.transfer(block) } satisfies Message);
    }
  });
}

if (isMainThread) console.log(JSON.stringify(await creator()));
else attached(workerData as SharedPoolHandle);
