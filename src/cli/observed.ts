/** Requests to processes that run with `dmapool/observe/register`. */
import { request } from 'node:http';

import { processSocket, type Snapshot } from '../observe/index.ts';
import { CliExit, EXIT } from './io.ts';

/** Timeout of a request in milliseconds. */
const TIMEOUT = 5000;

/** Response of a process. */
export interface ProcessResponse {
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

/** Sends a request to a process. @throws {@link CliExit} if it does not answer. */
export async function requestPath(
  pid: number,
  path: string,
  { timeout = TIMEOUT }: { timeout?: number } = {},
): Promise<ProcessResponse> {
  const socketPath = socketOf(pid);
  return new Promise((resolve, reject) => {
    const fail = (why: string): void => {
      reject(new CliExit(EXIT.failure, `process ${String(pid)} does not answer: ${why}`));
    };
    const sent = request({ socketPath, path, agent: false, timeout }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (piece: string) => (text += piece));
      response.on('error', (error) => {
        fail(error.message);
      });
      response.on('end', () => {
        resolve({ status: response.statusCode ?? 0, type: response.headers['content-type'] ?? '', text });
      });
    });
    sent.on('timeout', () => {
      sent.destroy(new Error(`not within ${String(timeout)} ms; is its event loop blocked?`));
    });
    sent.on('error', (error) => {
      fail(error.message);
    });
    sent.end();
  });
}

/** A snapshot of a process. */
export async function snapshotOf(pid: number, timeout?: number): Promise<Snapshot> {
  const { status, text } = await requestPath(pid, '/snapshot', timeout === undefined ? {} : { timeout });
  if (status !== 200) throw new CliExit(EXIT.failure, `process ${String(pid)}: ${text.trim()}`);
  return JSON.parse(text) as Snapshot;
}
