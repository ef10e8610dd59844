/** The page's program in a worker, which may park; a window may not. */
import { runTask, type Task } from './page.ts';

interface WorkerScope {
  onmessage: ((event: { readonly data: Task }) => void) | null;
  postMessage(message: unknown): void;
}

const scope = globalThis as unknown as WorkerScope;
scope.onmessage = ({ data }) => {
  void runTask(data).then((outcomes) => {
    scope.postMessage(outcomes);
  });
};
