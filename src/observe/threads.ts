/**
 * One process, many threads: the main thread sends requests to the others, over a BroadcastChannel.
 *
 *     main ---- request ----> every worker that loaded dmapool/observe/register
 *     main <--- result ------
 *
 * A blocked thread misses the timeout. Later requests do not wait for it until it has answered one.
 */
import { BroadcastChannel, threadId } from 'node:worker_threads';

import { execute, type ThreadResults, type PoolAddress, type ThreadRequest } from './requests.ts';
import type { DeviceSnapshot, Snapshot } from './format.ts';
import { createRing } from './recorder.ts';
import { beginRecording, joinRecording, type PoolInRecording, type RecordingHandle } from './recording.ts';
import { GONE, type PoolEnd, type TracePool, traceText } from './trace-text.ts';
import type { OperationRing } from './ring.ts';

const NAME = 'dmapool:observe';
/** Milliseconds that a thread has to answer. */
const TIMEOUT = 150;
/** The same at the end of a recording, which visits each block. */
const END_TIMEOUT = 2000;

type Message =
  | { readonly hello: number }
  | { readonly bye: number }
  | { readonly who: true }
  | { readonly request: number; readonly what: ThreadRequest & { readonly of?: number } }
  | { readonly record: RecordingHandle }
  | { readonly recorded: PoolInRecording }
  | { readonly done: number; readonly thread: number; readonly result: unknown };

/** In a worker: sends results to the main thread. Does not keep the thread alive. */
export function answerMainThread(): void {
  const channel = new BroadcastChannel(NAME);
  const send = (message: Message): void => {
    channel.postMessage(message);
  };
  const announce = (recorded: PoolInRecording): void => {
    send({ recorded });
  };
  channel.onmessage = ({ data }: { data: unknown }): void => {
    const message = data as Message;
    if ('who' in message) send({ hello: threadId });
    if ('record' in message) beginRecording(message.record, announce);
    if (!('request' in message) || (message.what.of ?? threadId) !== threadId) return;
    let result: unknown = null;
    try {
      result = execute(message.what);
    } catch {
      // An attribute is user code.
    }
    send({ done: message.request, thread: threadId, result });
  };
  (channel as unknown as { unref(): void }).unref();
  process.once('exit', () => {
    send({ bye: threadId });
  });
  send({ hello: threadId });
  joinRecording(announce);
}

interface Pending {
  readonly missing: Set<number>;
  readonly results: unknown[];
  readonly done: () => void;
}

/** In the main thread: sends requests to all threads. */
export class Threads {
  readonly #channel = new BroadcastChannel(NAME);
  /** Threads that answered the last request in time. */
  readonly #prompt = new Set<number>();
  readonly #pending = new Map<number, Pending>();
  #requests = 0;
  /** Pools of the recording in progress, by number. A pool is announced again when it becomes shared. */
  #recorded = new Map<number, PoolInRecording>();
  #ring: OperationRing | null = null;

  constructor() {
    this.#channel.onmessage = ({ data }: { data: unknown }): void => {
      this.#receive(data as Message);
    };
    (this.#channel as unknown as { unref(): void }).unref();
    this.#channel.postMessage({ who: true } satisfies Message);
  }

  #receive(message: Message): void {
    if ('hello' in message) this.#prompt.add(message.hello);
    if ('recorded' in message) this.#recorded.set(message.recorded.number, message.recorded);
    if ('bye' in message) {
      this.#prompt.delete(message.bye);
      for (const pending of this.#pending.values()) this.#tick(pending, message.bye);
    }
    if (!('done' in message)) return;
    this.#prompt.add(message.thread);
    const pending = this.#pending.get(message.done);
    if (pending === undefined) return;
    pending.results.push(message.result);
    this.#tick(pending, message.thread);
  }

  #tick(pending: Pending, thread: number): void {
    pending.missing.delete(thread);
    if (pending.missing.size === 0) pending.done();
  }

  /** The results of all threads that answer in time, this thread's first. */
  async request<K extends ThreadRequest['kind']>(
    what: ThreadRequest & { readonly kind: K },
    timeout: number = TIMEOUT,
  ): Promise<ThreadResults[K][]> {
    const own = execute<K>(what);
    return [own, ...(await this.#requestFromOthers<K>(what, new Set(this.#prompt), timeout))];
  }

  /** The result of one thread; null if it does not answer. */
  async requestFrom<K extends ThreadRequest['kind']>(
    thread: number,
    what: ThreadRequest & { readonly kind: K },
  ): Promise<ThreadResults[K] | null> {
    if (thread === threadId) return execute<K>(what);
    if (!this.#prompt.has(thread)) return null;
    const [found] = await this.#requestFromOthers<K>({ ...what, of: thread }, new Set([thread]), TIMEOUT);
    return found ?? null;
  }

  async #requestFromOthers<K extends ThreadRequest['kind']>(
    what: ThreadRequest & { readonly of?: number },
    missing: Set<number>,
    timeout: number,
  ): Promise<ThreadResults[K][]> {
    const request = ++this.#requests;
    if (missing.size === 0) {
      // A blocked thread ends its part later. Other requests would only queue up there.
      if (what.kind === 'end-recording') this.#channel.postMessage({ request, what } satisfies Message);
      return [];
    }
    const results: unknown[] = [];
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => {
        for (const thread of missing) this.#prompt.delete(thread);
        resolve();
      }, timeout);
      const done = (): void => {
        clearTimeout(timer);
        resolve();
      };
      this.#pending.set(request, { missing, results, done });
      this.#channel.postMessage({ request, what } satisfies Message);
    });
    this.#pending.delete(request);
    return results.filter((each) => each !== null) as ThreadResults[K][];
  }

  /** True while {@link record} is in progress. */
  get isRecording(): boolean {
    return this.#ring !== null;
  }

  /** Records the pools of all threads from now on. At most one recording is in progress. */
  record(limit: number, only: RecordingHandle['only']): void {
    const ring = createRing(limit);
    const handle: RecordingHandle = { buffer: ring.buffer, limit: ring.places, only };
    this.#ring = ring;
    this.#recorded = new Map();
    beginRecording(
      handle,
      (pool) => {
        this.#recorded.set(pool.number, pool);
      },
      ring,
    );
    this.#channel.postMessage({ record: handle } satisfies Message);
  }

  /** Ends the recording in all threads. Returns it as a trace. */
  async endRecording(): Promise<string> {
    const ring = this.#ring;
    if (ring === null) throw new Error('no recording is in progress');
    ring.end();
    try {
      const ends = await this.request({ kind: 'end-recording' }, END_TIMEOUT);
      return recordingText(ring, [...this.#recorded.values()], new Map(ends.flatMap((each) => [...each])));
    } finally {
      this.#ring = null;
    }
  }

  /** A snapshot of the whole process. A pool that several threads share occurs once. */
  async snapshot(blocks: boolean | PoolAddress): Promise<Snapshot> {
    const [own, ...others] = await this.request<'snapshot'>({ kind: 'snapshot', blocks });
    return merge(own!, others);
  }
}

/** The trace of a recording. Each thread numbers a shared pool for itself; the trace has the pool once. */
function recordingText(
  ring: OperationRing,
  recorded: readonly PoolInRecording[],
  ends: ReadonlyMap<number, PoolEnd>,
): string {
  const pools: TracePool[] = [];
  const positions = new Map<number, number>();
  const shared = new Map<string, number>();
  for (const pool of [...recorded].sort((a, b) => a.number - b.number)) {
    const end = ends.get(pool.number) ?? GONE;
    const known = pool.shared === null ? undefined : shared.get(pool.shared);
    const position = known ?? pools.length;
    positions.set(pool.number, position);
    if (pool.shared !== null) shared.set(pool.shared, position);
    if (known === undefined) pools.push({ ...pool, end });
    // A thread that left the pool has no state of it.
    else if (pools[known]!.end.gone) pools[known] = { ...pools[known]!, end };
  }
  const entries = ring.read().flatMap((entry) => {
    const pool = positions.get(entry.pool);
    return pool === undefined ? [] : [{ ...entry, pool }];
  });
  return traceText(pools, entries, Math.max(0, ring.total - ring.places));
}

function merge(own: Snapshot, others: readonly Snapshot[]): Snapshot {
  if (others.length === 0) return own;
  const shared = new Set<string>();
  const firstOnly = (device: DeviceSnapshot): DeviceSnapshot[] => {
    const pools = device.pools.filter((pool) => pool.shared === null || !shared.has(pool.shared));
    for (const pool of pools) if (pool.shared !== null) shared.add(pool.shared);
    // A device that a worker created only to attach is not a device of the process.
    return pools.length === 0 && device.pools.length > 0 ? [] : [{ ...device, pools }];
  };
  const devices = [own, ...others].flatMap((each) => each.devices.flatMap(firstOnly));
  const used = new Set(devices.map(({ thread, source }) => `${thread}.${source}`));
  const sources = [own, ...others]
    .flatMap((each) => each.sources)
    .filter(({ id, thread }) => used.has(`${thread}.${id}`));
  return { ...own, sources, devices };
}
