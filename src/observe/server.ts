/**
 * The HTTP server on the socket of a process. It runs on the event loop of the program, so a blocked program answers late.
 *
 *     GET /snapshot[?blocks=all|ID]      JSON, docs/snapshot.schema.json
 *     GET /pools/ID/holders              JSON
 *     GET /pools/ID/blocks/INDEX         JSON
 *     GET /metrics                       Prometheus's text format, or OpenMetrics if `Accept` names it
 *     GET /events[?interval=MS]          server-sent events: a snapshot at each interval, and the events of pools
 *     GET /trace[?seconds=N&limit=N&pool=ID]  records for the given time; the response is the trace
 *     GET /sys/...                       a device's attribute, in Linux's format
 *
 * ID is THREAD.NUMBER, as in a snapshot.
 */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';

import { CHANNELS } from './channels.ts';
import type { ThreadResults, PoolAddress, ThreadRequest } from './requests.ts';
import { METRICS_TYPE, metricsText } from './metrics.ts';
import type { RecordingHandle } from './recording.ts';
import type { DmaPool } from '../pool/contract.ts';
import type { Snapshot } from './format.ts';
import type { Threads } from './threads.ts';

/** Limits of a request: bytes of its line and headers, characters of its path. */
const MAX_HEADER = 8192;
const MAX_URL = 2048;
/** Limit of connections. */
const MAX_CONNECTIONS = 64;
/** Milliseconds during which requests share a snapshot. */
const FRESH = 100;
/** Milliseconds between two snapshots of an event stream. */
const INTERVAL = { least: 100, usual: 1000, most: 3_600_000 } as const;
/** Limit of events of one kind between two snapshots. The rest is only counted. */
const MOST_EVENTS = 20;

/** A response with an error status. */
class Refusal extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** Creates the server of this process. It does not listen yet. */
export function createObserveServer(threads: Threads): Server {
  const views = new Views(threads);
  const server = createServer(
    { maxHeaderSize: MAX_HEADER, requestTimeout: 10_000, headersTimeout: 5000, keepAliveTimeout: 5000 },
    (request, response) => {
      void serve(threads, views, request, response);
    },
  );
  server.maxConnections = MAX_CONNECTIONS;
  server.on('connection', (socket) => {
    // A client does not keep the program alive.
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
  // No other protocols and no tunnels.
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

async function serve(
  threads: Threads,
  views: Views,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  try {
    checkRequest(request);
    const url = parseUrl(request.url ?? '');
    if (url.pathname === '/events') {
      streamEvents(views, intervalOf(url), response);
      return;
    }
    if (url.pathname === '/trace') {
      await sendTrace(threads, recordingOf(url), response);
      return;
    }
    const { type, body } = await resultOf(views, url, request.headers.accept ?? '');
    response.writeHead(200, { 'Content-Type': type, 'Cache-Control': 'no-store' });
    response.end(request.method === 'HEAD' ? undefined : body);
  } catch (error) {
    const status = error instanceof Refusal ? error.status : 500;
    const message = error instanceof Error ? error.message : 'an attribute threw a value that is not an error';
    if (response.headersSent) response.destroy();
    else
      response
        .writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8', Connection: 'close' })
        .end(`${message}\n`);
  }
}

function checkRequest({ headers, method = '', url = '' }: IncomingMessage): void {
  if (method !== 'GET' && method !== 'HEAD') throw new Refusal(405, `${method} is not supported; use GET`);
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
      // Rejected below.
    }
  }
  throw new Refusal(400, 'not a path');
}

interface Body {
  readonly type: string;
  readonly body: string;
}

const json = (value: unknown): Body => ({ type: 'application/json', body: JSON.stringify(value) });

async function resultOf(views: Views, { pathname, searchParams }: URL, accept: string): Promise<Body> {
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
  if (thread === undefined) throw new Refusal(404, `${pathname}: no such path`);
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

/** Null for no blocks, `all`, or one pool. */
type Blocks = null | 'all' | PoolAddress;

function blocksOf(text: string | null): Blocks {
  if (text === null) return null;
  if (text === 'all') return 'all';
  const address = poolAddress(text);
  if (address === null) throw new Refusal(400, 'blocks: all, or a pool as THREAD.NUMBER');
  return address;
}

/** Parses THREAD.NUMBER. */
function poolAddress(text: string): PoolAddress | null {
  const [, thread, pool] = /^(\d{1,9})\.(\d{1,9})$/.exec(text) ?? [];
  return thread === undefined ? null : { thread: Number(thread), pool: Number(pool) };
}

/** Results of the threads. Keeps each snapshot for {@link FRESH} ms. */
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

  /** A snapshot as JSON, serialised once. */
  textOf(seen: Snapshot): string {
    const text = this.#texts.get(seen) ?? JSON.stringify(seen);
    this.#texts.set(seen, text);
    return text;
  }

  /** The first result that is not null. */
  async first<K extends ThreadRequest['kind']>(
    request: ThreadRequest & { readonly kind: K },
  ): Promise<ThreadResults[K] | null> {
    return (await this.#threads.request<K>(request)).find((each) => each !== null) ?? null;
  }

  /** The result of one thread. */
  async of<K extends ThreadRequest['kind']>(
    thread: number,
    request: ThreadRequest & { readonly kind: K },
  ): Promise<ThreadResults[K] | null> {
    return this.#threads.requestFrom<K>(thread, request);
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

/** A requested recording. */
interface Recording {
  readonly seconds: number;
  readonly limit: number;
  /** Null for all pools. */
  readonly pool: PoolAddress | null;
}

const SECONDS = { usual: 5, most: 3600 } as const;
/** Operations of a recording. A trace of 2^20 operations is within the limits of the trace reader. */
const LIMIT = { least: 64, usual: 2 ** 18, most: 2 ** 20 } as const;

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
  const address = searchParams.get('pool');
  const pool = address === null ? null : poolAddress(address);
  if (address !== null && pool === null) throw new Refusal(400, 'pool: a pool as THREAD.NUMBER');
  return {
    seconds: read('seconds', SECONDS.usual, 1, SECONDS.most),
    limit: read('limit', LIMIT.usual, LIMIT.least, LIMIT.most),
    pool,
  };
}

/** Records for the requested time. Ends early, without a result, when the client disconnects. */
async function sendTrace(threads: Threads, request: Recording, response: ServerResponse): Promise<void> {
  const only = request.pool === null ? null : await findPool(threads, request.pool);
  if (response.destroyed) return;
  if (threads.isRecording) throw new Refusal(409, 'the process is recorded already');
  threads.record(request.limit, only);
  let disconnect: () => void = () => undefined;
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, request.seconds * 1000);
    timer.unref();
    disconnect = () => {
      clearTimeout(timer);
      resolve();
    };
    response.on('close', disconnect);
  });
  response.off('close', disconnect);
  const text = await threads.endRecording();
  if (response.destroyed) return;
  response.writeHead(200, { 'Content-Type': 'text/plain; charset=utf-8', 'Cache-Control': 'no-store' });
  response.end(text);
}

async function findPool(threads: Threads, { thread, pool }: PoolAddress): Promise<RecordingHandle['only']> {
  const { devices } = await threads.snapshot(false);
  for (const device of devices) {
    const found = device.thread === thread ? device.pools.find(({ id }) => id === pool) : undefined;
    if (found !== undefined) return { thread, pool, shared: found.shared };
  }
  throw new Refusal(404, `no pool ${String(thread)}.${String(pool)}`);
}

/** Sends events until the client disconnects. */
function streamEvents(views: Views, interval: number, response: ServerResponse): void {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
  const counts = new Map<string, number>();
  let sending = false;
  const sendText = (event: string, data: string): void => {
    // Drop events for a client that does not read.
    if (response.writableLength < 1 << 20) response.write(`event: ${event}\ndata: ${data}\n\n`);
  };
  const send = (event: string, data: unknown): void => {
    sendText(event, JSON.stringify(data));
  };
  const sendSnapshot = async (): Promise<void> => {
    if (sending) return;
    sending = true;
    try {
      const seen = await views.snapshot(null);
      for (const [name, count] of counts) if (count > MOST_EVENTS) send('missed', { name, count: count - MOST_EVENTS });
      counts.clear();
      sendText('snapshot', views.textOf(seen));
    } catch {
      // Try again at the next interval.
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
  const timer = setInterval(() => void sendSnapshot(), interval);
  timer.unref();
  response.on('close', () => {
    clearInterval(timer);
    for (const [name, listener] of listeners) unsubscribe(`dmapool:${name}`, listener);
  });
  void sendSnapshot();
}
