/** What can be known of threads without importing anything of a runtime's. */
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

/** True in a Web Worker, where there is such a thing. */
function inWebWorker(): boolean {
  const { WorkerGlobalScope } = globalThis as { WorkerGlobalScope?: unknown };
  return typeof WorkerGlobalScope === 'function' && globalThis instanceof WorkerGlobalScope;
}

/** What `node:worker_threads` says of this thread, if that is true: in a Web Worker of Deno it speaks of the main one. */
function thisThread(): WorkerThreads | undefined {
  const threads = workerThreads();
  return threads?.isMainThread === true && inWebWorker() ? undefined : threads;
}

/** Number of this thread: the platform's where it has one, else one of our own above any of those. */
export function currentThread(): number {
  return thisThread()?.threadId ?? (ownNumber ??= 2 ** 20 + Math.floor(Math.random() * 2 ** 30));
}

let ownNumber: number | undefined;

/** A window of a browser may not park; nor should a thread that reports deaths, and a main thread usually does. */
export function mayPark(): boolean {
  const threads = thisThread();
  if (threads !== undefined) return !threads.isMainThread;
  return typeof (globalThis as { document?: unknown }).document === 'undefined';
}

/** A worker as Node, Bun and Deno make them. */
export interface WatchableWorker {
  /** Its number; -1 once it has ended. */
  readonly threadId: number;
  /** Calls `listener` once, when `event` comes. */
  once(event: 'exit', listener: () => void): unknown;
}

/**
 * Calls `ended` with the thread's number when the worker exits. `ended` must not throw: the runtime would end the
 * process, and listeners after it would be skipped.
 *
 * @returns The thread's number.
 */
export function monitorWorker(worker: WatchableWorker, ended: (thread: number) => void): number {
  const accepted = 'a Worker of node:worker_threads; for others call reportWorkerExit()';
  checkObject('worker', worker, accepted);
  const watched = watchedWorkers.get(worker);
  if (watched !== undefined) {
    watched.endings.add(ended);
    return watched.thread;
  }
  // Read now: it is -1 once the worker has exited.
  const thread = reading('worker', worker, accepted, () => {
    if (typeof worker.once !== 'function') throw new DmaArgumentError('worker', worker, accepted);
    return worker.threadId;
  });
  checkInteger('worker.threadId', thread, 1, MOST_THREAD);
  const watching: WatchedWorker = { worker, thread, endings: new Set([ended]) };
  worker.once('exit', () => {
    end(watching);
  });
  watchedWorkers.set(worker, watching);
  living.add(watching);
  return thread;
}

function end(watching: WatchedWorker): void {
  if (!living.delete(watching)) return;
  watchedWorkers.delete(watching.worker);
  for (const each of [...watching.endings]) each(watching.thread);
}

/**
 * Settles the ends of watched workers whose `exit` event did not get here: a listener before ours threw, and the runtime
 * skips the rest. In Node alone, where the number is -1 from the turn of that event on and not earlier.
 */
export function lookForEnds(): void {
  const { node, bun, deno } = processLike()?.versions ?? {};
  if (node === undefined || bun !== undefined || deno !== undefined) return;
  for (const watching of [...living]) if (hasEnded(watching.worker)) end(watching);
}

function hasEnded(worker: WatchableWorker): boolean {
  try {
    return worker.threadId === -1;
  } catch {
    // It may be anybody's object.
    return false;
  }
}

/** Highest number of a thread: a worker slot holds it, and a little more, in 32 bits. */
const MOST_THREAD: number = 2 ** 31 - 64;

interface WatchedWorker {
  readonly worker: WatchableWorker;
  readonly thread: number;
  readonly endings: Set<(thread: number) => void>;
}

// One listener for each worker, and one for new workers, however many pools there are: platforms warn of many.
const watchedWorkers = new WeakMap<WatchableWorker, WatchedWorker>();
/** Those of them whose end was not seen. It keeps them from the collector no longer than the runtime does. */
const living = new Set<WatchedWorker>();
const makings = new Set<{ readonly made: (worker: WatchableWorker) => void }>();

function tellOfWorker(worker: unknown): void {
  // Bun tells of Web Workers too, which have no such event: their ends are for the user to report.
  if (typeof (worker as Partial<WatchableWorker>).once !== 'function') return;
  for (const { made } of [...makings]) made(worker as WatchableWorker);
}

/**
 * Calls `made` for each worker that this thread makes from now on, where the platform tells. `made` must not throw.
 * Returns how to stop.
 */
export function onWorkerMade(made: (worker: WatchableWorker) => void): () => void {
  const entry = { made };
  if (makings.size === 0) processLike()?.on?.('worker', tellOfWorker);
  makings.add(entry);
  return () => {
    if (makings.delete(entry) && makings.size === 0) processLike()?.off?.('worker', tellOfWorker);
  };
}

/**
 * Calls `changed` once when the word is no longer `value`, or after `timeout` milliseconds. `changed` must not throw: the
 * runtime would end the process. Keeps no process alive.
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
  const timer: unknown = setTimeout(changed, Math.min(timeout, POLL));
  (timer as { unref?: () => void }).unref?.();
}

/** Milliseconds between looks where nothing tells of a change. */
const POLL = 5;
