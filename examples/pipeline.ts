/**
 * A pipeline of workers on one pool. One worker hangs and is killed in the middle; no job and no block is lost.
 *
 *     main: fill --ticket--> worker: scramble --ticket--> main --ticket--> worker: sum --ticket--> main: check, free
 *
 * A ticket is a number; the blocks are never copied. When a worker ends, each of its blocks is in one of two places.
 * A block that it has not accepted yet still belongs to the main thread: `recall` takes it back, and the job goes on. A
 * block that it had is returned by `reclaim`, and its job starts again.
 */
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { Device, type DmaBlock, DmaPool } from 'dmapool';
import { attachPool, type SharedPool, type SharedPoolHandle, sharePool, type WorkerExit } from 'dmapool/shared';

const JOBS = 2000;
const BLOCKS = 64;
const SIZE = 4096;
const KEY = 0x5a;

type Step = 'scramble' | 'sum';

interface Start {
  readonly handle: SharedPoolHandle;
  readonly step: Step;
  /** The job in which the worker hangs; -1: none. */
  readonly hangsIn: number;
}

interface Message {
  readonly job: number;
  /** Negative: the worker hangs in this job. */
  readonly ticket: number;
}

function sumOf(bytes: Uint8Array): number {
  let sum = 0;
  for (const byte of bytes) sum = (sum * 31 + byte) >>> 0;
  return sum;
}

function work({ handle, step, hangsIn }: Start): void {
  const shared = attachPool(handle);
  const post = (message: Message): void => {
    parentPort!.postMessage(message);
  };
  parentPort!.on('message', ({ job, ticket }: Message) => {
    const block = shared.accept(ticket);
    if (job === hangsIn) {
      post({ job, ticket: -1 });
      for (;;); // it has the block, and can be killed only
    }
    if (step === 'sum') block.u32[0] = sumOf(block.bytes);
    else for (let i = 0; i < SIZE; i++) block.bytes[i] = block.bytes[i]! ^ KEY;
    post({ job, ticket: shared.transfer(block) });
  });
}

/** One step of the pipeline, and the worker that runs it. */
class Stage {
  readonly step: Step;
  /** Tickets of the jobs that the worker has not finished. */
  readonly tickets = new Map<number, number>();
  readonly #shared: SharedPool;
  readonly #done: (job: number, block: DmaBlock) => void;
  worker: Worker;

  constructor(step: Step, hangsIn: number, shared: SharedPool, done: (job: number, block: DmaBlock) => void) {
    this.step = step;
    this.#shared = shared;
    this.#done = done;
    this.worker = this.#start(hangsIn);
  }

  #start(hangsIn: number): Worker {
    const start: Start = { handle: this.#shared.handle, step: this.step, hangsIn };
    const worker = new Worker(new URL(import.meta.url), { workerData: start });
    worker.on('message', ({ job, ticket }: Message) => {
      if (worker !== this.worker) return; // it was killed, and the job started again
      if (ticket < 0) {
        void worker.terminate();
        return;
      }
      this.tickets.delete(job);
      this.#done(job, this.#shared.accept(ticket));
    });
    return worker;
  }

  send(job: number, block: DmaBlock): void {
    const ticket = this.#shared.transfer(block);
    this.tickets.set(job, ticket);
    this.worker.postMessage({ job, ticket } satisfies Message);
  }

  /** Replaces the worker. Sends what it has not accepted to the new one; returns the jobs whose blocks it had. */
  restart(): number[] {
    this.worker = this.#start(-1);
    const lost: number[] = [];
    for (const [job, ticket] of this.tickets) {
      const [block] = this.#shared.recall([ticket]);
      if (block === undefined) lost.push(job);
      else this.send(job, block);
    }
    for (const job of lost) this.tickets.delete(job);
    return lost;
  }
}

async function main(): Promise<void> {
  const pool: DmaPool = DmaPool.create('job', new Device({ name: 'pipeline' }), { size: SIZE, maxBlocks: BLOCKS });
  const shared = sharePool(pool);
  const todo = Array.from({ length: JOBS }, (_, job) => JOBS - 1 - job);
  let finished = 0;
  let wrong = 0;
  const sum = new Stage('sum', JOBS / 2, shared, (job, block) => {
    if (block.u32[0] !== sumOf(new Uint8Array(SIZE).fill((job % 251) ^ KEY))) wrong++;
    pool.free(block);
    finished++;
  });
  const scramble = new Stage('scramble', -1, shared, (job, block) => {
    sum.send(job, block);
  });

  const cancel = shared.onWorkerExit(({ worker, out }: WorkerExit) => {
    const lost = sum.restart();
    todo.push(...lost);
    console.log(`worker ${worker} was killed: ${sum.tickets.size} jobs recalled, ${lost.length} started again`);
    // Before this call, a driver stops the device that may still write to the blocks.
    console.log(`${shared.reclaim()} of its ${out.length} blocks reclaimed`);
  });

  while (finished < JOBS) {
    if (todo.length === 0) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      continue;
    }
    const block = await pool.allocWait(); // back-pressure: waits while all 64 blocks are in use
    const job = todo.pop()!;
    block.bytes.fill(job % 251);
    scramble.send(job, block);
  }
  cancel();
  console.log(`${finished} jobs finished, ${wrong} wrong, ${pool.statistics().active} blocks allocated`);
  await Promise.all([sum.worker.terminate(), scramble.worker.terminate()]);
  pool.destroy();
}

if (isMainThread) await main();
else work(workerData as Start);
