/**
 * dmapool/observe/register: makes an unchanged program observable from outside:
 * `node --import dmapool/observe/register app.js`. `docs/observe.md` is the guide.
 *
 * The main thread opens a UNIX socket of mode 0600, and removes it when the process exits. Other threads answer through
 * the main thread.
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
  // The socket of an earlier process with this number.
  removeSocket(path);
  const server = createObserveServer(new Threads());
  server.on('error', (error) => {
    process.emitWarning(`dmapool: not observable: ${error.message}`);
  });
  // The folder is private, so no other user can connect before the mode is set.
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
  // Removes the sockets of processes that no longer exist.
  void observableProcesses().catch(() => undefined);
}

if (isMainThread) openSocket();
else answerMainThread();
