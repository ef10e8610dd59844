/** Program of a Web Worker that is a peer. */
import { type Request, servePeer } from './peer.ts';

interface WorkerScope {
  onmessage: ((event: { readonly data: Request }) => void) | null;
  postMessage(message: unknown): void;
}

const scope = globalThis as unknown as WorkerScope;
const serve = servePeer();
scope.onmessage = ({ data }) => {
  void serve(data, (response) => {
    scope.postMessage(response);
  });
};
