/** The typed proxy of a worker that runs worker.ts, for the thread that started it. */
import type { DmaError } from 'dmapool';
import { rejectsAs } from '../support/errors.ts';
import { RemoteError, RemoteThread } from './remote-thread.ts';
import type { Operations } from './worker.ts';

type Answer<K extends keyof Operations> = Awaited<ReturnType<Operations[K]>>;

export class RemoteWorker extends RemoteThread {
  static override async start(): Promise<RemoteWorker> {
    return (await super.start()) as RemoteWorker;
  }

  call<K extends keyof Operations>(name: K, ...args: Parameters<Operations[K]>): Promise<Answer<K>> {
    return this.request(name, args) as Promise<Answer<K>>;
  }
}

/** Awaits an answer that must be an error with this code; returns its message. */
export async function refusedWith(code: DmaError['code'], answer: Promise<unknown>): Promise<string> {
  return (await rejectsAs(RemoteError, code, answer)).message;
}
