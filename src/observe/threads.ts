/**
 * One process, many threads: the main thread sends requests to the others, over a BroadcastChannel.
 *
 *     main ---- { ask, question } ----> every worker that loaded dmapool/observe/register
 *     main <--- { answered, thread, answer }
 *
 * A blocked thread misses the timeout. Later requests do not wait for it until it has answered one.
 */
import { BroadcastChannel, threadId } from 'node:worker_threads';

import { answer, type Answers, type PoolAddress, type Question } from './answers.ts';
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
  | { readonly ask: number; readonly question: Question & { readonly of?: number } }
  | { readonly record: RecordingHandle }
  | { readonly recorded: PoolInRecording }
  | { readonly answered: number; readonly thread: number; readonly answer: unknown };

/** In a worker: answers the main thread. Does not keep the thread alive. */
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
    if (!('ask' in message) || (message.question.of ?? threadId) !== threadId) return;
    let answered: unknown = null;
    try {
      answered = answer(message.question);
    } catch {
      // An attribute is user code.
    }
    send({ answered: message.ask, thread: threadId, answer: answered });
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
  readonly answers: unknown[];
  readonly done: () => void;
}

/** In the main thread: sends requests to all threads. */
export class Threads {
  readonly #channel = new BroadcastChannel(NAME);
  /** Threads that answered the last request in time. */
  readonly #prompt = new Set<number>();
  readonly #pending = new Map<number, Pending>();
  #asked = 0;
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
    if (!('answered' in message)) return;
    this.#prompt.add(message.thread);
    const pending = this.#pending.get(message.answered);
    if (pending === undefined) return;
    pending.answers.push(message.answer);
    this.#tick(pending, message.thread);
  }

  #tick(pending: Pending, thread: number): void {
    pending.missing.delete(thread);
    if (pending.missing.size === 0) pending.done();
  }

  /** The results of all threads that answer in time, this thread's first. */
  async ask<K extends Question['kind']>(
    question: Question & { readonly kind: K },
    timeout: number = TIMEOUT,
  ): Promise<Answers[K][]> {
    const own = answer<K>(question);
    return [own, ...(await this.#askOthers<K>(question, new Set(this.#prompt), timeout))];
  }

  /** The result of one thread; null if it does not answer. */
  async askOne<K extends Question['kind']>(
    thread: number,
    question: Question & { readonly kind: K },
  ): Promise<Answers[K] | null> {
    if (thread === threadId) return answer<K>(question);
    if (!this.#prompt.has(thread)) return null;
    const [found] = await this.#askOthers<K>({ ...question, of: thread }, new Set([thread]), TIMEOUT);
    return found ?? null;
  }

  async #askOthers<K extends Question['kind']>(
    question: Question & { readonly of?: number },
    missing: Set<number>,
    timeout: number,
  ): Promise<Answers[K][]> {
    const ask = ++this.#asked;
    // Posted even if no answer is expected: a blocked thread executes it later.
    if (missing.size === 0) {
      this.#channel.postMessage({ ask, question } satisfies Message);
      return [];
    }
    const answers: unknown[] = [];
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => {
        for (const thread of missing) this.#prompt.delete(thread);
        resolve();
      }, timeout);
      const done = (): void => {
        clearTimeout(timer);
        resolve();
      };
      this.#pending.set(ask, { missing, answers, done });
      this.#channel.postMessage({ ask, question } satisfies Message);
    });
    this.#pending.delete(ask);
    return answers.filter((each) => each !== null) as Answers[K][];
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
      const ends = await this.ask({ kind: 'end-recording' }, END_TIMEOUT);
      return recordingText(ring, [...this.#recorded.values()], new Map(ends.flatMap((each) => [...each])));
    } finally {
      this.#ring = null;
    }
  }

  /** A snapshot of the whole process. A pool that several threads share occurs once. */
  async snapshot(blocks: boolean | PoolAddress): Promise<Snapshot> {
    const [own, ...others] = await this.ask<'snapshot'>({ kind: 'snapshot', blocks });
    return merge(own!, others);
  }
}

/** The trace of a recording. The numbers that threads gave to one shared pool become one pool. */
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
