/** The sockets of observable processes, in a folder that other users can't enter. */
import { existsSync, lstatSync, mkdirSync, readdirSync, unlinkSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { checkInteger } from '../arguments.ts';

/** Limit of the path of a UNIX socket in bytes (`sun_path` without the final zero). */
const MAX_PATH = 107;
const NAME = /^dmapool-([1-9][0-9]{0,9})[.]sock$/;

/** Folders for sockets, preferred first: `XDG_RUNTIME_DIR`, and `dmapool-UID` in the temporary directory. */
function candidates(): string[] {
  const runtime = process.env['XDG_RUNTIME_DIR'] ?? '';
  return [...(runtime === '' ? [] : [runtime]), temporaryFolder()];
}

function temporaryFolder(): string {
  return join(tmpdir(), `dmapool-${String(process.getuid?.() ?? 0)}`);
}

/** The folder for a new socket, created if needed; null if no folder is private to this user. */
export function makeSocketFolder(): string | null {
  try {
    mkdirSync(temporaryFolder(), { mode: 0o700 });
  } catch {
    // It exists, or `isPrivate` rejects it.
  }
  return candidates().find((folder) => isPrivate(folder) && fits(folder)) ?? null;
}

function fits(folder: string): boolean {
  return Buffer.byteLength(socketPath(folder, 2 ** 31)) <= MAX_PATH;
}

/** True for a directory, not a link, that this user owns and other users can't enter. */
function isPrivate(folder: string): boolean {
  try {
    const found = lstatSync(folder);
    return found.isDirectory() && found.uid === process.getuid?.() && (found.mode & 0o077) === 0;
  } catch {
    return false;
  }
}

/** The socket of a process. */
export function socketPath(folder: string, pid: number): string {
  return join(folder, `dmapool-${String(pid)}.sock`);
}

/**
 * Process numbers of this user's processes that run with `dmapool/observe/register`, ascending. Removes the sockets of
 * processes that no longer exist.
 *
 * @example
 * ```ts
 * for (const pid of await observableProcesses()) console.log(pid, processSocket(pid));
 * ```
 */
export async function observableProcesses(): Promise<number[]> {
  const found = candidates()
    .filter(isPrivate)
    .flatMap((folder) =>
      readdirSync(folder).flatMap((name) => {
        const [, pid] = NAME.exec(name) ?? [];
        return pid === undefined ? [] : [{ folder, pid: Number(pid) }];
      }),
    );
  const alive = await Promise.all(found.map(async ({ folder, pid }) => ((await answers(folder, pid)) ? [pid] : [])));
  return [...new Set(alive.flat())].sort((a, b) => a - b);
}

/**
 * Path of the UNIX socket of a process that runs with `dmapool/observe/register`. It serves HTTP; `docs/observe.md` lists
 * the paths.
 *
 * @param pid Process number, 1 or more.
 * @returns Null if this user has no such process.
 * @throws `DmaArgumentError` for an invalid process number.
 *
 * @example
 * ```ts
 * console.log(processSocket(process.pid)); // null: this program was not started with it
 * ```
 */
export function processSocket(pid: number): string | null {
  checkInteger('pid', pid, 1);
  return (
    candidates()
      .filter(isPrivate)
      .map((folder) => socketPath(folder, pid))
      .find((path) => existsSync(path)) ?? null
  );
}

/** True if a process listens on the socket. Removes the socket of a process that no longer exists. */
async function answers(folder: string, pid: number): Promise<boolean> {
  const path = socketPath(folder, pid);
  return new Promise((resolve) => {
    const socket = createConnection(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      // The queue of connections is full: the process is busy.
      if (error.code === 'EAGAIN') {
        resolve(true);
        return;
      }
      if (error.code === 'ECONNREFUSED') removeSocket(path);
      resolve(false);
    });
  });
}

/** Removes a socket, if it exists. */
export function removeSocket(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // It does not exist.
  }
}
