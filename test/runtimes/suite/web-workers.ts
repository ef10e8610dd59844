/** Peers as Web Workers: browsers, and Bun and Deno too. */
import type { Connect, Response } from './peer.ts';

interface WebWorker {
  onmessage: ((event: { readonly data: Response }) => void) | null;
  onerror: ((event: { readonly message?: string }) => void) | null;
  postMessage(message: unknown): void;
  terminate(): void;
}

type WebWorkerConstructor = new (url: URL, options: { type: 'module' }) => WebWorker;

export const connectWebWorker: Connect = (receive, fail) => {
  const { Worker } = globalThis as unknown as { Worker: WebWorkerConstructor };
  const worker = new Worker(new URL('./web-worker.js', import.meta.url), { type: 'module' });
  worker.onmessage = ({ data }) => {
    receive(data);
  };
  worker.onerror = ({ message }) => {
    fail(new Error(message ?? 'the worker broke'));
  };
  return {
    send(message) {
      worker.postMessage(message);
    },
    async terminate() {
      worker.terminate();
      // Web Workers have no exit event.
      await new Promise((resolve) => setTimeout(resolve, 200));
    },
  };
};
