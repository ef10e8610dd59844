/** Threads and their workers, without imports from a runtime. */
import { checkInteger, checkObject, reading } from '../arguments.ts';
import { DmaArgumentError } from '../errors.ts';

interface WorkerThreads {
  readonly threadId: number;
  readonly isMainThread: boolean;
}

interface ProcessLike {
  readonly versions?: Readonly<Record<string, string | undefined>>;
  getBuiltinModule?(name: string): unknown;
  on?(event: 'worker', listener: (worker: unknown) => void): unknown;
  off?(event: 'worker', listener: (worker: unknown) => void): unknown;
}

function processLike(): ProcessLike | undefined {
  return (globalThis as { process?: ProcessLike }).process;
}

function workerThreads(): WorkerThreads | undefined {
  try {
    return processLike()?.getBuiltinModule?.('node:worker_threads') as WorkerThreads | undefined;
  } catch {
    return undefined;
  }
}

/** True in a Web Worker. */
function inWebWorker(): boolean {
  const { WorkerGlobalScope } = globalThis as { WorkerGlobalScope?: unknown };
  return typeof WorkerGlobalScope === 'function' && globalThis instanceof WorkerGlobalScope;
}

/** `node:worker_threads`, if it describes this thread: in a Web Worker of Deno it describes the main thread. */
function thisThread(): WorkerThreads | undefined {
  const threads = workerThreads();
  return threads?.isMainThread === true && inWebWorker() ? undefined : threads;
}

/** Number of this thread: the platform's, else a random one, which is higher than any number of a platform. */
export function currentThread(): number {
  return thisThread()?.threadId ?? (ownNumber ??= 2 ** 20 + Math.floor(Math.random() * 2 ** 30));
}

let ownNumber: number | undefined;

/** False in a browser's window, which can't park, and in a main thread, which usually receives exit events. */
export function mayPark(): boolean {
  const threads = thisThread();
  if (threads !== undefined) return !threads.isMainThread;
  return typeof (globalThis as { document?: unknown }).document === 'undefined';
}

/** A worker of Node, Bun or Deno. */
export interface WatchableWorker {
  /** Its number; -1 after its exit. */
  readonly threadId: number;
  /** Calls `listener` once, at the next `event`. */
  once(event: 'exit', listener: () => void): unknown;
}

/**
 * Calls `exited` with the thread's number when the worker exits. `exited` must not throw, because the runtime would then
 * skip later listeners and end the process.
 *
 * @returns The thread's number.
 */
export function monitorWorker(worker: WatchableWorker, exited: (thread: number) => void): number {
  const accepted = 'a Worker of node:worker_threads; for others call reportWorkerExit()';
  checkObject('worker', worker, accepted);
  const watched = watchedWorkers.get(worker);
  if (watched !== undefined) {
    watched.exitListeners.add(exited);
    return watched.thread;
  }
  // Read now: it is -1 after the exit.
  const thread = reading('worker', worker, accepted, () => {
    if (typeof worker.once !== 'function') throw new DmaArgumentError('worker', worker, accepted);
    return worker.threadId;
  });
  checkInteger('worker.threadId', thread, 1, MAX_THREAD);
  const watching: WatchedWorker = { worker, thread, exitListeners: new Set([exited]) };
  worker.once('exit', () => {
    onExit(watching);
  });
  watchedWorkers.set(worker, watching);
  liveWorkers.add(watching);
  return thread;
}

function onExit(watching: WatchedWorker): void {
  if (!liveWorkers.delete(watching)) return;
  watchedWorkers.delete(watching.worker);
  for (const each of [...watching.exitListeners]) each(watching.thread);
}

/**
 * Finds exits of watched workers whose `exit` event was skipped because an earlier listener threw. Works in Node only,
 * where the thread's number is -1 from the turn of that event on and not earlier.
 */
export function pollExits(): void {
  const { node, bun, deno } = processLike()?.versions ?? {};
  if (node === undefined || bun !== undefined || deno !== undefined) return;
  for (const watching of [...liveWorkers]) if (hasExited(watching.worker)) onExit(watching);
}

function hasExited(worker: WatchableWorker): boolean {
  try {
    return worker.threadId === -1;
  } catch {
    // A getter of the user's object may throw.
    return false;
  }
}

/** Maximum number of a thread: CLAIMED plus the number must fit in 32 bits. */
const MAX_THREAD: number = 2 ** 31 - 64;

interface WatchedWorker {
  readonly worker: WatchableWorker;
  readonly thread: number;
  readonly exitListeners: Set<(thread: number) => void>;
}

// One listener for each worker and one for new workers, for all pools: platforms warn about many listeners.
const watchedWorkers = new WeakMap<WatchableWorker, WatchedWorker>();
/** Watched workers that have not exited. The runtime keeps such workers from collection too. */
const liveWorkers = new Set<WatchedWorker>();
const creationListeners = new Set<{ readonly created: (worker: WatchableWorker) => void }>();

function announceWorker(worker: unknown): void {
  // Bun also announces Web Workers, which have no `exit` event: their users call reportWorkerExit().
  if (typeof (worker as Partial<WatchableWorker>).once !== 'function') return;
  for (const { created } of [...creationListeners]) created(worker as WatchableWorker);
}

/**
 * Calls `created` for each worker that this thread creates from now on, on platforms that announce it. `created` must not throw.
 *
 * @returns A function that removes the listener.
 */
export function onWorkerCreated(created: (worker: WatchableWorker) => void): () => void {
  const entry = { created };
  if (creationListeners.size === 0) processLike()?.on?.('worker', announceWorker);
  creationListeners.add(entry);
  return () => {
    if (creationListeners.delete(entry) && creationListeners.size === 0) processLike()?.off?.('worker', announceWorker);
  };
}

/**
 * Calls `changed` once, when the word is no longer `value` or after `timeout` milliseconds. `changed` must not throw,
 * because the runtime would end the process. Does not keep the process alive.
 */
export function onceChanged(
  words: Int32Array<SharedArrayBuffer>,
  index: number,
  value: number,
  timeout: number,
  changed: () => void,
): void {
  if (typeof Atomics.waitAsync === 'function') {
    const { async, value: outcome } = Atomics.waitAsync(words, index, value, timeout);
    if (async) void outcome.then(changed);
    else queueMicrotask(changed);
    return;
  }
  const timer: unknown = setTimeout(changed, Math.min(timeout, POLL_INTERVAL));
  (timer as { unref?: () => void }).unref?.();
}

/** Polling interval in milliseconds without `Atomics.waitAsync`. */
const POLL_INTERVAL = 5;
