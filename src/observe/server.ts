/**
 * What the socket of a process serves, over HTTP. Every answer is made on the event loop of the program: a program that is
 * blocked answers late.
 *
 *     GET /snapshot[?blocks=all|ID]      JSON, docs/snapshot.schema.json
 *     GET /pools/ID/holders              JSON
 *     GET /pools/ID/blocks/INDEX         JSON
 *     GET /metrics                       Prometheus's text format, or OpenMetrics where `Accept` says so
 *     GET /events[?interval=MS]          server-sent events: `snapshot` each interval, and what happens in between
 *     GET /trace[?seconds=N&limit=N&pool=ID]  records the pools for so long, and answers with the trace
 *     GET /sys/...                       a device's attribute, in Linux's text
 *
 * ID is THREAD.NUMBER, as in a snapshot.
 */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';

import { DmaExistsError } from '../device/errors.ts';
import { CHANNELS } from './channels.ts';
import type { Answers, PoolAddress, Question } from './answers.ts';
import { METRICS_TYPE, metricsText } from './metrics.ts';
import { type PoolRecorder, recordPool, traceText } from './recorder.ts';
import { idOf, pools } from './registry.ts';
import type { DmaPool } from '../pool/contract.ts';
import type { Snapshot } from './format.ts';
import type { Threads } from './threads.ts';

/** Bytes of a request's line and headers, and characters of its path. */
const MAX_HEADER = 8192;
const MAX_URL = 2048;
/** Connections at one time. */
const MAX_CONNECTIONS = 64;
/** Milliseconds for which one snapshot serves all that ask. */
const FRESH = 100;
/** Milliseconds between the snapshots of a stream of events. */
const INTERVAL = { least: 100, usual: 1000, most: 3_600_000 } as const;
/** Events of one kind that a stream gets between two snapshots; more are counted. */
const MOST_EVENTS = 20;

/** An answer that is not 200. */
class Refusal extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** The server of this process; not listening yet. */
export function createObserveServer(threads: Threads): Server {
  const views = new Views(threads);
  const server = createServer(
    { maxHeaderSize: MAX_HEADER, requestTimeout: 10_000, headersTimeout: 5000, keepAliveTimeout: 5000 },
    (request, response) => {
      void serve(views, request, response);
    },
  );
  server.maxConnections = MAX_CONNECTIONS;
  server.on('connection', (socket) => {
    // A client keeps no program alive.
    socket.unref();
  });
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    if (!socket.writable) {
      socket.destroy();
      return;
    }
    const status = error.code === 'HPE_HEADER_OVERFLOW' ? '431 Request Header Fields Too Large' : '400 Bad Request';
    socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`, () => socket.destroy());
  });
  // Neither another protocol nor a tunnel.
  for (const event of ['upgrade', 'connect'] as const) {
    server.on(event, (_request: IncomingMessage, socket: Duplex) => {
      socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
    });
  }
  server.on('checkExpectation', (_request: IncomingMessage, response: ServerResponse) => {
    response.writeHead(417, { Connection: 'close' }).end();
  });
  return server;
}

async function serve(views: Views, request: IncomingMessage, response: ServerResponse): Promise<void> {
  try {
    checkRequest(request);
    const url = parseUrl(request.url ?? '');
    if (url.pathname === '/events') {
      streamEvents(views, intervalOf(url), response);
      return;
    }
    if (url.pathname === '/trace') {
      sendTrace(views, recordingOf(url), response);
      return;
    }
    const { type, body } = await answerTo(views, url, request.headers.accept ?? '');
    response.writeHead(200, { 'Content-Type': type, 'Cache-Control': 'no-store' });
    response.end(request.method === 'HEAD' ? undefined : body);
  } catch (error) {
    const status = error instanceof Refusal ? error.status : 500;
    const message = error instanceof Error ? error.message : 'an attribute threw something';
    if (response.headersSent) response.destroy();
    else
      response
        .writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8', Connection: 'close' })
        .end(`${message}\n`);
  }
}

function checkRequest({ headers, method = '', url = '' }: IncomingMessage): void {
  if (method !== 'GET' && method !== 'HEAD') throw new Refusal(405, `${method} is not known here; use GET`);
  if (url.length > MAX_URL) throw new Refusal(414, `a path has at most ${String(MAX_URL)} characters`);
  if (Number(headers['content-length'] ?? 0) > 0 || headers['transfer-encoding'] !== undefined) {
    throw new Refusal(413, 'a request has no body');
  }
}

function parseUrl(url: string): URL {
  if (url.startsWith('/')) {
    try {
      return new URL(`http://socket${url}`);
    } catch {
      // Below.
    }
  }
  throw new Refusal(400, 'not a path');
}

interface Body {
  readonly type: string;
  readonly body: string;
}

const json = (value: unknown): Body => ({ type: 'application/json', body: JSON.stringify(value) });

async function answerTo(views: Views, { pathname, searchParams }: URL, accept: string): Promise<Body> {
  if (pathname === '/snapshot') {
    const seen = await views.snapshot(blocksOf(searchParams.get('blocks')));
    return { type: 'application/json', body: views.textOf(seen) };
  }
  if (pathname === '/metrics') {
    const format = accept.includes('application/openmetrics-text') ? 'openmetrics' : 'prometheus';
    return { type: METRICS_TYPE[format], body: metricsText(await views.snapshot(null), format) };
  }
  if (pathname === '/sys' || pathname.startsWith('/sys/')) {
    const path = decoded(pathname);
    const text = await views.first({ kind: 'sysfs', path });
    if (text === null) throw new Refusal(404, `${path}: no such file or directory`);
    return { type: 'text/plain; charset=utf-8', body: text };
  }
  const [, thread, number, what, index] =
    /^\/pools\/(\d{1,9})\.(\d{1,9})\/(holders|blocks)(?:\/(\d{1,10}))?$/.exec(pathname) ?? [];
  if (thread === undefined) throw new Refusal(404, `${pathname}: not known here`);
  const pool = Number(number);
  const found =
    what === 'holders' && index === undefined
      ? await views.of(Number(thread), { kind: 'holders', pool })
      : what === 'blocks' && index !== undefined
        ? await views.of(Number(thread), { kind: 'block', pool, index: Number(index) })
        : null;
  if (found === null) throw new Refusal(404, `${pathname}: no such pool or block`);
  return json(found);
}

function decoded(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    throw new Refusal(400, 'not a path');
  }
}

/** Null for none, `all`, or a pool. */
type Blocks = null | 'all' | PoolAddress;

function blocksOf(text: string | null): Blocks {
  if (text === null) return null;
  if (text === 'all') return 'all';
  const [, thread, pool] = /^(\d{1,9})\.(\d{1,9})$/.exec(text) ?? [];
  if (thread === undefined) throw new Refusal(400, 'blocks: all, or a pool as THREAD.NUMBER');
  return { thread: Number(thread), pool: Number(pool) };
}

/** Asks the threads; what one client asked serves others for a moment. */
class Views {
  readonly #threads: Threads;
  readonly #kept = new Map<string, { readonly at: number; readonly seen: Promise<Snapshot> }>();
  readonly #texts = new WeakMap<Snapshot, string>();

  constructor(threads: Threads) {
    this.#threads = threads;
  }

  async snapshot(blocks: Blocks): Promise<Snapshot> {
    const key = JSON.stringify(blocks);
    const kept = this.#kept.get(key);
    if (kept !== undefined && performance.now() - kept.at < FRESH) return kept.seen;
    const seen = this.#threads.snapshot(blocks === 'all' ? true : (blocks ?? false));
    for (const [old, { at }] of this.#kept) if (performance.now() - at >= FRESH) this.#kept.delete(old);
    this.#kept.set(key, { at: performance.now(), seen });
    return seen;
  }

  /** A snapshot as JSON; made once for all that get it. */
  textOf(seen: Snapshot): string {
    const text = this.#texts.get(seen) ?? JSON.stringify(seen);
    this.#texts.set(seen, text);
    return text;
  }

  /** Has the other workers of shared pools record too. */
  startRecording(recorders: readonly PoolRecorder[]): void {
    for (const { pool, handle } of recorders) this.#threads.record(pool, handle);
  }

  stopRecording(recorders: readonly PoolRecorder[]): void {
    for (const { pool } of recorders) this.#threads.record(pool, null);
  }

  /** The first answer that is one. */
  async first<K extends Question['kind']>(question: Question & { readonly kind: K }): Promise<Answers[K] | null> {
    return (await this.#threads.ask<K>(question)).find((each) => each !== null) ?? null;
  }

  /** The answer of one thread. */
  async of<K extends Question['kind']>(
    thread: number,
    question: Question & { readonly kind: K },
  ): Promise<Answers[K] | null> {
    return this.#threads.askOne<K>(thread, question);
  }
}

function intervalOf({ searchParams }: URL): number {
  const text = searchParams.get('interval');
  if (text === null) return INTERVAL.usual;
  const value = Number(text);
  if (!/^\d{1,7}$/.test(text) || value < INTERVAL.least || value > INTERVAL.most) {
    throw new Refusal(400, `interval: milliseconds from ${String(INTERVAL.least)} to ${String(INTERVAL.most)}`);
  }
  return value;
}

/** What is to be recorded. */
interface Recording {
  readonly seconds: number;
  readonly limit: number;
  /** Null for all. */
  readonly pool: number | null;
}

const SECONDS = { usual: 5, most: 3600 } as const;
const LIMIT = { least: 64, usual: 65_536, most: 2 ** 24 } as const;

function recordingOf({ searchParams }: URL): Recording {
  const read = (name: string, usual: number, least: number, most: number): number => {
    const text = searchParams.get(name);
    if (text === null) return usual;
    const value = Number(text);
    if (!/^\d{1,8}$/.test(text) || value < least || value > most) {
      throw new Refusal(400, `${name}: a whole number from ${String(least)} to ${String(most)}`);
    }
    return value;
  };
  const pool = /^0\.(\d{1,9})$/.exec(searchParams.get('pool') ?? '')?.[1];
  if (searchParams.has('pool') && pool === undefined)
    throw new Refusal(400, 'pool: one of the main thread, as 0.NUMBER');
  return {
    seconds: read('seconds', SECONDS.usual, 1, SECONDS.most),
    limit: read('limit', LIMIT.usual, LIMIT.least, LIMIT.most),
    pool: pool === undefined ? null : Number(pool),
  };
}

/** Records as long as the client waits, but not longer than it asked for. */
function sendTrace(views: Views, { seconds, limit, pool }: Recording, response: ServerResponse): void {
  const wanted = pools().filter((each) => pool === null || idOf(each) === pool);
  if (wanted.length === 0) throw new Refusal(404, 'the main thread has no such pool');
  const recorders: PoolRecorder[] = [];
  const stop = (): void => {
    for (const recorder of recorders) recorder.stop();
    views.stopRecording(recorders);
  };
  try {
    for (const each of wanted) recorders.push(recordPool(each, { limit }));
  } catch (error) {
    stop();
    if (error instanceof DmaExistsError) throw new Refusal(409, error.message);
    throw error;
  }
  views.startRecording(recorders);
  const timer = setTimeout(() => {
    stop();
    response.writeHead(200, { 'Content-Type': 'text/plain; charset=utf-8', 'Cache-Control': 'no-store' });
    response.end(traceText(recorders));
  }, seconds * 1000);
  timer.unref();
  response.on('close', () => {
    clearTimeout(timer);
    stop();
  });
}

/** Server-sent events, until the client goes. */
function streamEvents(views: Views, interval: number, response: ServerResponse): void {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
  const counts = new Map<string, number>();
  let sending = false;
  const sendText = (event: string, data: string): void => {
    // A client that does not read gets no more until it does.
    if (response.writableLength < 1 << 20) response.write(`event: ${event}\ndata: ${data}\n\n`);
  };
  const send = (event: string, data: unknown): void => {
    sendText(event, JSON.stringify(data));
  };
  const look = async (): Promise<void> => {
    if (sending) return;
    sending = true;
    try {
      const seen = await views.snapshot(null);
      for (const [name, count] of counts) if (count > MOST_EVENTS) send('missed', { name, count: count - MOST_EVENTS });
      counts.clear();
      sendText('snapshot', views.textOf(seen));
    } catch {
      // The next look may do better.
    } finally {
      sending = false;
    }
  };
  const listeners = CHANNELS.map((name) => {
    const listener = (message: unknown): void => {
      const count = (counts.get(name) ?? 0) + 1;
      counts.set(name, count);
      if (count > MOST_EVENTS) return;
      const { pool, ...rest } = message as { readonly pool: DmaPool };
      send(name, { time: Date.now(), device: pool.device.path, pool: pool.name, ...rest });
    };
    subscribe(`dmapool:${name}`, listener);
    return [name, listener] as const;
  });
  const timer = setInterval(() => void look(), interval);
  timer.unref();
  response.on('close', () => {
    clearInterval(timer);
    for (const [name, listener] of listeners) unsubscribe(`dmapool:${name}`, listener);
  });
  void look();
}
