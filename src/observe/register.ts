/**
 * dmapool/observe/register: makes a program observable from outside, without a change to it:
 * `node --import dmapool/observe/register app.js`. `docs/observe.md` is the guide.
 *
 * The main thread opens a UNIX socket that only its user can use; it goes away with the process. Other threads answer
 * through the main one.
 *
 * @module dmapool/observe/register
 * @packageDocumentation
 */
import { chmodSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';

import './registry.ts';
import { createObserveServer } from './server.ts';
import { makeSocketFolder, observableProcesses, removeSocket, socketPath } from './socket.ts';
import { answerMainThread, Threads } from './threads.ts';

function openSocket(): void {
  const folder = makeSocketFolder();
  if (folder === null) {
    process.emitWarning('dmapool: not observable: there is no private folder for its socket');
    return;
  }
  const path = socketPath(folder, process.pid);
  // Of an earlier process of that number.
  removeSocket(path);
  const server = createObserveServer(new Threads());
  server.on('error', (error) => {
    process.emitWarning(`dmapool: not observable: ${error.message}`);
  });
  // The folder is private, so that nobody can come before the mode is set.
  const before = process.umask(0o177);
  try {
    server.listen(path, () => {
      chmodSync(path, 0o600);
    });
  } finally {
    process.umask(before);
  }
  server.unref();
  process.once('exit', () => {
    removeSocket(path);
  });
  // Sweeps what others left behind.
  void observableProcesses().catch(() => undefined);
}

if (isMainThread) openSocket();
else answerMainThread();
