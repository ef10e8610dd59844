/**
 * One process, many threads: the main thread asks the others for what is theirs, over a BroadcastChannel.
 *
 *     main ---- { ask, question } ----> every worker that loaded dmapool/observe/register
 *     main <--- { ask, thread, answer }
 *
 * A thread that is blocked answers late: it is left out of answers then, until it speaks again.
 */
import { BroadcastChannel, threadId } from 'node:worker_threads';

import { answer, type Answers, type PoolAddress, type Question } from './answers.ts';
import { DmaExistsError } from '../device/errors.ts';
import type { DmaPool } from '../pool/contract.ts';
import type { DeviceSnapshot, Snapshot } from './format.ts';
import { type PoolRecorder, type RecorderHandle, recordPool } from './recorder.ts';
import { pools, sharedName } from './registry.ts';

const NAME = 'dmapool:observe';
/** Milliseconds that a thread has to answer. */
const PATIENCE = 150;

type Message =
  | { readonly hello: number }
  | { readonly bye: number }
  | { readonly who: true }
  | { readonly ask: number; readonly question: Question & { readonly of?: number } }
  | { readonly record: string; readonly handle: RecorderHandle | null }
  | { readonly answered: number; readonly thread: number; readonly answer: unknown };

/** In a worker: answers the main thread, as long as the thread lives; keeps it not alive. */
export function answerMainThread(): void {
  const channel = new BroadcastChannel(NAME);
  const say = (message: Message): void => {
    channel.postMessage(message);
  };
  const recorders = new Map<string, PoolRecorder>();
  channel.onmessage = ({ data }: { data: unknown }): void => {
    const message = data as Message;
    if ('who' in message) say({ hello: threadId });
    if ('record' in message) takePart(recorders, message.record, message.handle);
    if (!('ask' in message) || (message.question.of ?? threadId) !== threadId) return;
    let answered: unknown = null;
    try {
      answered = answer(message.question);
    } catch {
      // An attribute is the user's code.
    }
    say({ answered: message.ask, thread: threadId, answer: answered });
  };
  (channel as unknown as { unref(): void }).unref();
  process.once('exit', () => {
    say({ bye: threadId });
  });
  say({ hello: threadId });
}

/** Starts or ends this thread's part in the recording of a shared pool. */
function takePart(recorders: Map<string, PoolRecorder>, shared: string, handle: RecorderHandle | null): void {
  recorders.get(shared)?.stop();
  recorders.delete(shared);
  const pool = handle === null ? undefined : pools().find((each) => sharedName(each) === shared);
  if (handle === null || pool === undefined) return;
  try {
    recorders.set(shared, recordPool(pool, { join: handle }));
  } catch (error) {
    // The program records it itself.
    if (!(error instanceof DmaExistsError)) throw error;
  }
}

interface Pending {
  readonly missing: Set<number>;
  readonly answers: unknown[];
  readonly done: () => void;
}

/** In the main thread: asks all threads. */
export class Threads {
  readonly #channel = new BroadcastChannel(NAME);
  /** Threads that are expected to answer at once. */
  readonly #prompt = new Set<number>();
  readonly #pending = new Map<number, Pending>();
  #asked = 0;

  constructor() {
    this.#channel.onmessage = ({ data }: { data: unknown }): void => {
      this.#hear(data as Message);
    };
    (this.#channel as unknown as { unref(): void }).unref();
    this.#channel.postMessage({ who: true } satisfies Message);
  }

  #hear(message: Message): void {
    if ('hello' in message) this.#prompt.add(message.hello);
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

  /** The answers of all threads, this one's first; of those that answer in time. */
  async ask<K extends Question['kind']>(question: Question & { readonly kind: K }): Promise<Answers[K][]> {
    const own = answer<K>(question);
    return [own, ...(await this.#askOthers<K>(question, new Set(this.#prompt)))];
  }

  /** The answer of one thread; null if it does not answer. */
  async askOne<K extends Question['kind']>(
    thread: number,
    question: Question & { readonly kind: K },
  ): Promise<Answers[K] | null> {
    if (thread === threadId) return answer<K>(question);
    if (!this.#prompt.has(thread)) return null;
    const [found] = await this.#askOthers<K>({ ...question, of: thread }, new Set([thread]));
    return found ?? null;
  }

  async #askOthers<K extends Question['kind']>(
    question: Question & { readonly of?: number },
    missing: Set<number>,
  ): Promise<Answers[K][]> {
    if (missing.size === 0) return [];
    const ask = ++this.#asked;
    const answers: unknown[] = [];
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => {
        // Asked again all the same, but not waited for.
        for (const thread of missing) this.#prompt.delete(thread);
        resolve();
      }, PATIENCE);
      const done = (): void => {
        clearTimeout(timer);
        resolve();
      };
      this.#pending.set(ask, { missing, answers, done });
      this.#channel.postMessage({ ask, question } satisfies Message);
    });
    this.#pending.delete(ask);
    return answers as Answers[K][];
  }

  /** Has the other workers of a shared pool take part in its recording; null: no longer. */
  record(pool: DmaPool, handle: RecorderHandle | null): void {
    const record = sharedName(pool);
    if (record !== null) this.#channel.postMessage({ record, handle } satisfies Message);
  }

  /** One snapshot of the whole process. A pool that several threads share is there once. */
  async snapshot(blocks: boolean | PoolAddress): Promise<Snapshot> {
    const [own, ...others] = await this.ask<'snapshot'>({ kind: 'snapshot', blocks });
    return merge(own!, others);
  }
}

function merge(own: Snapshot, others: readonly Snapshot[]): Snapshot {
  if (others.length === 0) return own;
  const shared = new Set<string>();
  const firstOnly = (device: DeviceSnapshot): DeviceSnapshot[] => {
    const pools = device.pools.filter((pool) => pool.shared === null || !shared.has(pool.shared));
    for (const pool of pools) if (pool.shared !== null) shared.add(pool.shared);
    // What a worker made to attach is no device of the process's.
    return pools.length === 0 && device.pools.length > 0 ? [] : [{ ...device, pools }];
  };
  const devices = [own, ...others].flatMap((each) => each.devices.flatMap(firstOnly));
  const used = new Set(devices.map(({ thread, source }) => `${thread}.${source}`));
  const sources = [own, ...others]
    .flatMap((each) => each.sources)
    .filter(({ id, thread }) => used.has(`${thread}.${id}`));
  return { ...own, sources, devices };
}
