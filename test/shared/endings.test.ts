/**
 * Thread exits that the runtime or the user reports: late reports, false reports, many reports, and errors during a
 * report.
 */
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Device, DmaPool, HeapMemory } from 'dmapool';
import { attachPool, sharePool, type SharedPoolHandle, type WorkerExit } from 'dmapool/shared';
import { H_LOCK, NO_WORKER, slotAt, W_STATE } from '../../src/shared/layout.ts';
import { rejectsCode, throwsCode } from '../support/errors.ts';
import { RecordingLog } from '../support/log.ts';
import { attachedWorker, range, sharedPool, until } from './fixture.ts';
import { refusedWith, RemoteWorker } from './remote.ts';

/** The part of Worker that a pool uses. */
class FakeWorker extends EventEmitter {
  threadId: number;

  constructor(threadId: number) {
    super();
    this.threadId = threadId;
  }

  exit(): void {
    this.threadId = -1;
    this.emit('exit');
  }
}

/** The uncaught errors until the end of the test. */
function uncaughtErrors(t: TestContext): readonly unknown[] {
  const uncaught: unknown[] = [];
  const onUncaught = (error: unknown): void => {
    uncaught.push(error);
  };
  process.on('uncaughtException', onUncaught);
  t.after(() => process.off('uncaughtException', onUncaught));
  return uncaught;
}

/** Numbers that no real thread of this process has. */
const FAKE_THREADS = 1_000_000;

test('an exit is handled later when a living worker holds the lock; no listener throws or is skipped', async (t) => {
  const { pool, handle, workers } = await sharedPool(t, { workers: 2, magazine: 4 });
  const [a, b] = workers;
  await a!.call('alloc', 3);
  const lost: number[] = [];
  sharePool(pool).onWorkerExit(({ out }) => {
    lost.push(out.length);
  });
  const header = new Int32Array(handle.control);
  const uncaught = uncaughtErrors(t);
  await b!.call('takeLock');
  let heard = false;
  a!.worker.once('exit', () => {
    heard = true;
  });
  await a!.kill();
  await sleep(300);
  assert.deepEqual(uncaught, []);
  assert.ok(heard, 'a listener of the user was skipped');
  assert.deepEqual(lost, []);
  Atomics.store(header, H_LOCK, 0);
  await until('the exit is handled', () => lost.length > 0);
  assert.deepEqual(lost, [3]);
  assert.equal(sharePool(pool).reclaim(), 3);
});

test('reclaim handles an exit that is still pending, and reports it', async (t) => {
  const { pool, handle, workers } = await sharedPool(t, { workers: 2, magazine: 4 });
  const [a, b] = workers;
  await a!.call('alloc', 3);
  const waiting = a!.call('wait').catch(() => undefined);
  const reports: WorkerExit[] = [];
  sharePool(pool).onWorkerExit((report) => {
    reports.push(report);
  });
  await b!.call('takeLock');
  await a!.worker.terminate();
  await waiting;
  Atomics.store(new Int32Array(handle.control), H_LOCK, 0);
  const reclaimed = sharePool(pool).reclaim();
  assert.ok(reclaimed >= 3, String(reclaimed));
  assert.equal(reports.length, 1);
  assert.equal(pool.statistics().waiting, 0);
});

test('every listener of a death is called, even if another listener or the log throws', async (t) => {
  const log = {
    error: () => {
      throw Object.create(null) as Error;
    },
    warn: () => undefined,
    info: () => undefined,
  };
  const device = new Device({ name: 'nic', memory: new HeapMemory(), log });
  const pool = DmaPool.create('rx', device, { size: 64, maxBlocks: 64 });
  const worker = await attachedWorker(sharePool(pool).handle);
  t.after(() => worker.kill());
  await worker.call('alloc', 1);
  const called: string[] = [];
  sharePool(pool).onWorkerExit(() => {
    called.push('first');
    throw Object.create(null) as Error;
  });
  sharePool(pool).onWorkerExit(() => {
    called.push('second');
  });
  await worker.kill();
  assert.deepEqual(called, ['first', 'second']);
  assert.equal(sharePool(pool).reclaim(), 1);
  pool.destroy();
});

test('the other workers recover a death when the worker that received the report has left', async (t) => {
  const { pool, workers } = await sharedPool(t);
  const [middle] = workers;
  await middle!.call('makeInner');
  await middle!.call('callInner', 'alloc', [2]);
  await middle!.call('destroy');
  await middle!.call('killInner');
  await until('its blocks are lost', () => sharePool(pool).reclaim() === 2);
});

test('a worker that leaves while the lock is held leaves later', async (t) => {
  const { pool, handle, memory, workers } = await sharedPool(t, { workers: 1 });
  const there = attachPool(handle).pool;
  await workers[0]!.call('takeLock');
  there.destroy();
  throwsCode('ERR_DMAPOOL_DESTROYED', () => there.alloc());
  Atomics.store(new Int32Array(handle.control), H_LOCK, 0);
  await workers[0]!.kill();
  pool.destroy();
  await until('the memory is returned', () => memory.bytesInUse === 0);
});

test('a pool can be destroyed while the lock is held', async (t) => {
  const { pool, handle, memory, workers } = await sharedPool(t, { workers: 1 });
  pool.free(pool.alloc());
  await workers[0]!.call('takeLock');
  pool.destroy();
  throwsCode('ERR_DMAPOOL_DESTROYED', () => pool.alloc());
  Atomics.store(new Int32Array(handle.control), H_LOCK, 0);
  await workers[0]!.kill();
  await until('the memory is returned', () => memory.bytesInUse === 0);
});

// ---- recorded parent/child thread pairs

test('lineage survives any number of workers that attached and left', async (t) => {
  const { pool, workers } = await sharedPool(t);
  const [middle] = workers;
  await middle!.call('makeInner');
  await middle!.call('callInner', 'alloc', [5]);
  for (let n = 0; n < 3000; n++) {
    const worker = new FakeWorker(FAKE_THREADS + n);
    sharePool(pool).watchWorker(worker);
    worker.exit();
  }
  await middle!.kill();
  assert.equal(sharePool(pool).reclaim(), 5);
  assert.equal(new Set(range(0, 64).map(() => pool.allocIndex())).size, 64);
});

test('a worker cannot attach with too many living threads, and can when some have ended', async (t) => {
  const { pool, handle, log } = await sharedPool(t, { workers: 0 });
  const fakes: FakeWorker[] = [];
  throwsCode('ERR_DMAPOOL_LIMIT', () => {
    for (let n = 0; n < 5000; n++) {
      const worker = new FakeWorker(FAKE_THREADS + n);
      fakes.push(worker);
      sharePool(pool).watchWorker(worker);
    }
  });
  assert.ok(fakes.length > 1000, String(fakes.length));
  fakes.pop()!.exit();
  const unrecorded = await startWorker(t);
  assert.match(log.text, /can.t be recorded/);
  await refusedWith('ERR_DMAPOOL_LIMIT', unrecorded.call('attach', handle));
  fakes.pop()!.exit();
  const recorded = await startWorker(t);
  await recorded.call('attach', handle);
  await recorded.call('alloc', 2);
  await recorded.kill();
  assert.equal(sharePool(pool).reclaim(), 2);
  await unrecorded.kill();
  for (const fake of fakes) fake.exit();
  const again = await startWorker(t);
  await again.call('attach', handle);
});

test('watchWorker refuses an ended worker and a value that is no worker', async (t) => {
  const { pool } = await sharedPool(t, { workers: 0 });
  for (const threadId of [-1, 0, 0.5, 2 ** 31, 'x']) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      sharePool(pool).watchWorker(new FakeWorker(threadId as number));
    });
  }
});

// ---- false reports of an exit

test('reportWorkerExit refuses threads that are known to live', async (t) => {
  const { pool, workers } = await sharedPool(t);
  const [worker] = workers;
  const held = [pool.allocIndex(), pool.allocIndex()];
  throwsCode('ERR_DMAPOOL_THREAD_ALIVE', () => sharePool(pool).reportWorkerExit(sharePool(pool).thread));
  throwsCode('ERR_DMAPOOL_THREAD_ALIVE', () => sharePool(pool).reportWorkerExit(worker!.worker.threadId));
  // A parent of the caller, and a child of another thread.
  await refusedWith('ERR_DMAPOOL_THREAD_ALIVE', worker!.call('workerEnded', sharePool(pool).thread));
  const inner = await worker!.call('makeInner');
  throwsCode('ERR_DMAPOOL_THREAD_ALIVE', () => sharePool(pool).reportWorkerExit(inner.thread));
  const there = (await worker!.call('callInner', 'alloc', [64])) as number[];
  const all = [...held, ...there, ...range(0, 64).map(() => pool.tryAllocIndex())].filter((index) => index >= 0);
  assert.equal(new Set(all).size, all.length, 'two workers hold the same block');
  const { threadId } = worker!.worker;
  await worker!.kill();
  assert.deepEqual(sharePool(pool).reportWorkerExit(threadId), [], 'already recorded');
});

test('a living worker that was declared ended gets an error at its next slow call, and may attach again', async (t) => {
  const { pool, handle, worker, thread } = await unwatched(t);
  await worker.call('alloc', 3);
  assert.equal(sharePool(pool).reportWorkerExit(thread).length, 1);
  await refusedWith('ERR_DMAPOOL_DECLARED_ENDED', worker.call('allocBulk', 60));
  await refusedWith('ERR_DMAPOOL_DECLARED_ENDED', worker.call('allocOne'));
  await refusedWith('ERR_DMAPOOL_DECLARED_ENDED', worker.call('wait'));
  await refusedWith('ERR_DMAPOOL_DECLARED_ENDED', worker.call('free', [0]));
  await refusedWith('ERR_DMAPOOL_DECLARED_ENDED', worker.call('transfer', [0]));
  assert.match(await worker.call('logged'), /worker \d+ is alive, but reportWorkerExit\(\) was called/);
  assert.equal(sharePool(pool).reclaim(), 3);
  await worker.call('attach', handle);
  const taken = [...(await worker.call('alloc', 64)), ...range(0, 64).map(() => pool.tryAllocIndex())];
  assert.equal(new Set(taken.filter((index) => index >= 0)).size, 64);
});

test('a living worker that was declared ended detects it on its event loop', async (t) => {
  const { pool, worker, thread } = await unwatched(t);
  await worker.call('alloc', 1);
  sharePool(pool).reportWorkerExit(thread);
  await sleep(50);
  // No slow call ran, and yet the pool does not hand out the block in the worker's magazine.
  await refusedWith('ERR_DMAPOOL_DECLARED_ENDED', worker.call('allocOne'));
});

/** A worker in a pool that does not have its Worker object. */
async function unwatched(
  t: TestContext,
): Promise<{ pool: DmaPool; handle: SharedPoolHandle; worker: RemoteWorker; thread: number }> {
  const worker = await startWorker(t);
  const device = new Device({ name: 'nic', memory: new HeapMemory(), log: new RecordingLog() });
  const pool: DmaPool = DmaPool.create('rx', device, { size: 256, maxBlocks: 64 });
  const handle = sharePool(pool, { magazine: 8 }).handle;
  const { thread } = await worker.call('attach', handle);
  return { pool, handle, worker, thread };
}

async function startWorker(t: TestContext): Promise<RemoteWorker> {
  const worker = await RemoteWorker.start();
  t.after(() => worker.kill());
  return worker;
}

// ---- user code during the handling of an exit

test('an exit is handled even if a listener that throws hides the exit event from the pool', async (t) => {
  const { pool } = await sharedPool(t, { workers: 0 });
  const shared = sharePool(pool);
  const worker = new FakeWorker(FAKE_THREADS);
  worker.once('exit', () => {
    throw new Error('of the user');
  });
  shared.watchWorker(worker);
  throwsCode('ERR_DMAPOOL_THREAD_ALIVE', () => shared.reportWorkerExit(FAKE_THREADS));
  assert.throws(() => {
    worker.exit();
  }, /of the user/);
  await until('the exit is handled', () => {
    try {
      return shared.reportWorkerExit(FAKE_THREADS).length === 0;
    } catch {
      return false;
    }
  });
});

test('a log that allocates during the report of a destroy gets ERR_DMAPOOL_DESTROYED', () => {
  const memory = new HeapMemory();
  const codes: string[] = [];
  const log = {
    error: () => {
      codes.push(throwsCode('ERR_DMAPOOL_DESTROYED', () => pool.allocIndex()).code);
    },
    warn: () => undefined,
    info: () => undefined,
  };
  const pool: DmaPool = DmaPool.create('rx', new Device({ name: 'nic', memory, log }), { size: 64, maxBlocks: 8 });
  sharePool(pool);
  const held = pool.allocIndex();
  pool.freeIndex(pool.allocIndex());
  pool.destroy();
  assert.deepEqual(codes, ['ERR_DMAPOOL_DESTROYED']);
  pool.freeIndex(held);
  assert.equal(memory.bytesInUse, 0);
});

test('an abort listener that calls a departed worker gets an error, and no wait remains', async () => {
  const device = new Device({ name: 'nic', memory: new HeapMemory(), log: new RecordingLog() });
  const pool = DmaPool.create('rx', device, { size: 64, maxBlocks: 2 });
  const there = attachPool(sharePool(pool).handle).pool;
  const held = [pool.alloc(), pool.alloc()];
  const { signal } = new AbortController();
  const other = new AbortController();
  let late: Promise<unknown> | undefined;
  signal.removeEventListener = () => {
    other.abort(new Error('the other wait'));
    late = there.allocWait({ timeout: 5000 });
  };
  const waits = [there.allocWait({ signal }), there.allocWait({ signal: other.signal })];
  const ends = Promise.all([
    rejectsCode('ERR_DMAPOOL_DESTROYED', waits[0]!),
    assert.rejects(waits[1]!, /the other wait/),
  ]);
  there.destroy();
  await ends;
  await rejectsCode('ERR_DMAPOOL_DESTROYED', late!);
  assert.equal(pool.statistics().waiting, 0);
  const next = pool.allocWait({ timeout: 1000 });
  pool.free(held[0]!);
  assert.equal(await next, held[0]);
});

test('a wait that times out in a worker that was declared ended raises no uncaught error', async (t) => {
  const log = new RecordingLog();
  const pool = DmaPool.create('rx', new Device({ name: 'nic', memory: new HeapMemory() }), { size: 64, maxBlocks: 1 });
  const { handle } = sharePool(pool);
  const attached = attachPool(handle, { device: new Device({ name: 'nic', log }) });
  const there = attached.pool;
  const uncaught = uncaughtErrors(t);
  pool.alloc();
  const waiting = there.allocWait({ timeout: 40 });
  // The check for events that the wait itself scheduled is over then.
  await sleep(10);
  // The same store as reportWorkerExit() in another thread does.
  Atomics.store(new Int32Array(handle.control), slotAt(attached.worker) + W_STATE, NO_WORKER);
  await rejectsCode('ERR_DMAPOOL_TIMEOUT', waiting);
  await until('the worker detects that it was declared ended', () =>
    log.text.includes('reportWorkerExit() was called'),
  );
  assert.deepEqual(uncaught, []);
});
