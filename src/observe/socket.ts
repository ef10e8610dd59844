/** Where the sockets of observable processes are: in a folder that nobody else can read. */
import { existsSync, lstatSync, mkdirSync, readdirSync, unlinkSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { checkInteger } from '../arguments.ts';

/** The longest path that a UNIX socket can have, in bytes (`sun_path`, less the zero at its end). */
const MAX_PATH = 107;
const NAME = /^dmapool-([1-9][0-9]{0,9})[.]sock$/;

/** Where sockets may be, best first: `XDG_RUNTIME_DIR`, and `dmapool-UID` in the temporary directory. */
function candidates(): string[] {
  const runtime = process.env['XDG_RUNTIME_DIR'] ?? '';
  return [...(runtime === '' ? [] : [runtime]), temporaryFolder()];
}

function temporaryFolder(): string {
  return join(tmpdir(), `dmapool-${String(process.getuid?.() ?? 0)}`);
}

/** The folder for a new socket, made if it is not there; null if there is none that is this user's alone. */
export function makeSocketFolder(): string | null {
  try {
    mkdirSync(temporaryFolder(), { mode: 0o700 });
  } catch {
    // It is there already, or is not private below.
  }
  return candidates().find((folder) => isPrivate(folder) && fits(folder)) ?? null;
}

function fits(folder: string): boolean {
  return Buffer.byteLength(socketPath(folder, 2 ** 31)) <= MAX_PATH;
}

/** True for a folder of this user's that no other user can enter; a link is none. */
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
 * Numbers of this user's processes that run with `dmapool/observe/register`, ascending. Sockets that processes left behind
 * are removed.
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
 * The UNIX socket of a process that runs with `dmapool/observe/register`. It speaks HTTP; `docs/observe.md` says what it
 * serves.
 *
 * @param pid Number of the process.
 * @returns Null if there is none of this user's.
 * @throws `DmaArgumentError` for what is no process number.
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

/** True if somebody listens there; false, and the socket is removed, if it was left behind. */
async function answers(folder: string, pid: number): Promise<boolean> {
  const path = socketPath(folder, pid);
  return new Promise((resolve) => {
    const socket = createConnection(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      // Full of waiting connections: the process is busy.
      if (error.code === 'EAGAIN') {
        resolve(true);
        return;
      }
      if (error.code === 'ECONNREFUSED') removeSocket(path);
      resolve(false);
    });
  });
}

/** Removes a socket, if it is there. */
export function removeSocket(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Gone already.
  }
}
