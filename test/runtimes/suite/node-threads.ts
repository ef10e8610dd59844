/** Peers as threads of node:worker_threads: Node, Bun and Deno. */
import { isMainThread, parentPort, Worker } from 'node:worker_threads';
import { type Connect, type Request, servePeer } from './peer.ts';

export const connectThread: Connect = (receive, fail) => {
  const worker = new Worker(new URL(import.meta.url), { workerData: 'peer' });
  worker.on('message', receive);
  worker.on('error', fail as (error: unknown) => void);
  return {
    send(message) {
      worker.postMessage(message);
    },
    async terminate() {
      await worker.terminate();
    },
  };
};

if (!isMainThread) {
  const serve = servePeer();
  parentPort?.on('message', (request: Request) => {
    void serve(request, (response) => {
      parentPort?.postMessage(response);
    });
  });
}
