/** Starts observable programs and sends requests to their sockets. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The project's folder, where programs can import the package by its name. */
export const root: string = fileURLToPath(new URL('../../../', import.meta.url));

/** An observable program. */
export interface Program {
  readonly child: ChildProcess;
  readonly pid: number;
  /** The private folder of its socket: `XDG_RUNTIME_DIR`. */
  readonly folder: string;
  readonly socket: string;
  /** Its output to stderr so far. */
  readonly errors: () => string;
  /** The first line of its output. */
  readonly firstLine: string;
  /** Ends it and waits for its exit. */
  stop(): Promise<void>;
}

/** The beginning of every program. */
const PRELUDE = `
  import { Device, DmaPool } from 'dmapool';
  const log = { error() {}, warn() {}, info() {} };
  const device = new Device({ name: '0000:00:09.0', log });
  // A program may use the device only at its start: without a reference it would be collected.
  globalThis.device = device;
  process.on('SIGTERM', () => process.exit(0));
`;

/** Starts a program with `--import dmapool/observe/register`. Resolves after its first line of output. */
export async function startProgram(source: string, folder: string = privateFolder()): Promise<Program> {
  const args = ['--import', 'dmapool/observe/register', '--input-type=module', '-e', PRELUDE + source];
  const child = spawn(process.execPath, args, {
    cwd: root,
    env: { ...process.env, XDG_RUNTIME_DIR: folder },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let errors = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => {
      resolve();
    });
  });
  const firstLine = await new Promise<string>((resolve, reject) => {
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (piece: string) => {
      text += piece;
      if (text.includes('\n')) resolve(text.split('\n')[0]!);
    });
    child.once('exit', () => {
      reject(new Error(`the program ended: ${errors}`));
    });
  });
  return {
    child,
    pid: child.pid!,
    folder,
    socket: join(folder, `dmapool-${String(child.pid)}.sock`),
    errors: () => errors,
    firstLine,
    stop: async () => {
      child.kill();
      await ended;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** A folder that only this user can enter. */
export function privateFolder(): string {
  return mkdtempSync(join(tmpdir(), 'dmapool-observe-'));
}

/** A response. */
export interface Answer {
  readonly status: number;
  readonly type: string;
  readonly text: string;
}

/** Sends a request to the socket of a program. */
export async function requestPath(
  { socket }: Pick<Program, 'socket'>,
  path: string,
  headers: Readonly<Record<string, string>> = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath: socket, path, headers, agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (piece: string) => (text += piece));
      response.on('end', () => {
        resolve({ status: response.statusCode!, type: response.headers['content-type'] ?? '', text });
      });
    });
    sent.on('error', reject);
    sent.end();
  });
}
