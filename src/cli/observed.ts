/** Asks processes that run with `dmapool/observe/register`. */
import { request } from 'node:http';

import { processSocket, type Snapshot } from '../observe/index.ts';
import { CliExit, EXIT } from './io.ts';

/** Milliseconds that a process has to answer. */
const PATIENCE = 5000;

/** What a process answers. */
export interface ProcessAnswer {
  readonly status: number;
  readonly type: string;
  readonly text: string;
}

/** The socket of a process. @throws {@link CliExit} if it has none. */
export function socketOf(pid: number): string {
  const path = processSocket(pid);
  if (path !== null) return path;
  throw new CliExit(
    EXIT.failure,
    `process ${String(pid)} can't be observed; start it with: node --import dmapool/observe/register ...`,
  );
}

/** Asks a process. @throws {@link CliExit} if it does not answer. */
export async function askProcess(
  pid: number,
  path: string,
  { accept = '*/*', patience = PATIENCE, signal }: { accept?: string; patience?: number; signal?: AbortSignal } = {},
): Promise<ProcessAnswer> {
  const socketPath = socketOf(pid);
  return new Promise((resolve, reject) => {
    const fail = (why: string): void => {
      reject(new CliExit(EXIT.failure, `process ${String(pid)} does not answer: ${why}`));
    };
    const asked = request(
      { socketPath, path, agent: false, timeout: patience, headers: { Accept: accept }, ...(signal ? { signal } : {}) },
      (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (piece: string) => (text += piece));
        response.on('error', (error) => {
          fail(error.message);
        });
        response.on('end', () => {
          resolve({ status: response.statusCode ?? 0, type: response.headers['content-type'] ?? '', text });
        });
      },
    );
    asked.on('timeout', () => {
      asked.destroy(new Error(`not within ${String(patience)} ms; is its event loop blocked?`));
    });
    asked.on('error', (error) => {
      fail(error.message);
    });
    asked.end();
  });
}

/** A snapshot of a process. */
export async function snapshotOf(pid: number, patience?: number, query = ''): Promise<Snapshot> {
  const { status, text } = await askProcess(pid, `/snapshot${query}`, patience === undefined ? {} : { patience });
  if (status !== 200) throw new CliExit(EXIT.failure, `process ${String(pid)}: ${text.trim()}`);
  return JSON.parse(text) as Snapshot;
}
