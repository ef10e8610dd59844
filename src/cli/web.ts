/**
 * `dmapool web`: serves the page, and forwards the paths of a process's socket, on a loopback port. Accepts requests to
 * `http://127.0.0.1:PORT/TOKEN/...` whose `Host`, and `Origin` if any, are this server.
 */
import { randomBytes, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pipeline } from 'node:stream';

import type { Command } from 'commander';

import { CliExit, type CliIo, EXIT } from './io.ts';
import { parseCount } from './numbers.ts';
import { socketOf } from './observed.ts';
import { parsePid } from './ps.ts';
import { CSS, HTML } from './web-files.ts';

const HOST = '127.0.0.1';
const MAX_HEADER = 8192;
/** Files of the page that `npm run build` creates, with their types. */
const BUILT: ReadonlyMap<string, string> = new Map([
  ['/app/main.js', 'text/javascript; charset=utf-8'],
  ['/app/chart.css', 'text/css; charset=utf-8'],
]);
/** Paths that are forwarded to the process. */
const PROXIED = /^\/(?:snapshot|metrics|events|pools\/[0-9./a-z]+|sys(?:\/.*)?)$/;

const SECURITY = {
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cache-Control': 'no-store',
} as const;

interface WebFlags {
  readonly port: number;
  readonly json?: true;
}

/** Adds `dmapool web`. */
export function registerWeb(program: Command, io: CliIo): void {
  program
    .command('web')
    .summary("show a running process's pools in a browser")
    .description(
      "Serve a page with a running process's pools, and its metrics for Prometheus, on a loopback port until " +
        'interrupted. The printed address has a secret token; requests without it are refused.',
    )
    .argument('<pid>', 'number of the process', parsePid)
    .option('--port <n>', 'port on 127.0.0.1; 0: any free port', parseCount(0, 65_535), 0)
    .option('--json', 'print the addresses as a JSON document')
    .action(async (pid: number, { port, json }: WebFlags) => {
      const { server, url } = await serveWeb(pid, port);
      const metrics = `${url}metrics`;
      io.stdout.write(
        json === true ? `${JSON.stringify({ pid, url, metrics })}\n` : `page:     ${url}\nmetrics:  ${metrics}\n`,
      );
      await new Promise<void>((resolve) => {
        server.once('close', resolve);
        for (const signal of ['SIGINT', 'SIGTERM'] as const) {
          process.once(signal, () => {
            server.close();
            server.closeAllConnections();
          });
        }
      });
    });
}

/** Starts the server of a process's page. */
export async function serveWeb(pid: number, port: number): Promise<{ readonly server: Server; readonly url: string }> {
  // Fails now if there is no such process.
  socketOf(pid);
  const token = randomBytes(16).toString('hex');
  const server = createServer(
    { maxHeaderSize: MAX_HEADER, requestTimeout: 10_000, headersTimeout: 5000 },
    (incoming, response) => {
      serve(pid, token, incoming, response);
    },
  );
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    const status = error.code === 'HPE_HEADER_OVERFLOW' ? '431 Request Header Fields Too Large' : '400 Bad Request';
    if (socket.writable) socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\n\r\n`);
    else socket.destroy();
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      reject(new CliExit(EXIT.failure, `web: ${error.message}`));
    });
    server.listen(port, HOST, resolve);
  });
  return { server, url: `http://${HOST}:${String((server.address() as AddressInfo).port)}/${token}/` };
}

function serve(pid: number, token: string, incoming: IncomingMessage, response: ServerResponse): void {
  const refuse = (status: number, message: string): void => {
    incoming.resume();
    response.writeHead(status, { ...SECURITY, 'Content-Type': 'text/plain; charset=utf-8', Connection: 'close' });
    response.end(`${message}\n`);
  };
  const { port } = incoming.socket.address() as AddressInfo;
  const hosts = [`${HOST}:${String(port)}`, `localhost:${String(port)}`];
  const { host = '', origin } = incoming.headers;
  // Protects against DNS rebinding.
  if (!hosts.includes(host)) {
    refuse(403, 'wrong host');
    return;
  }
  if (origin !== undefined && !hosts.includes(origin.replace(/^http:\/\//, ''))) {
    refuse(403, 'wrong origin');
    return;
  }
  if (incoming.method !== 'GET' && incoming.method !== 'HEAD') {
    refuse(405, 'only GET');
    return;
  }
  const [, given = '', path = ''] = /^\/([^/?]*)(\/.*)?$/.exec(incoming.url ?? '') ?? [];
  if (!sameText(given, token)) {
    refuse(403, 'wrong token');
    return;
  }
  const [pathname = ''] = path.split('?');
  const file = fileOf(pathname);
  if (file !== null) {
    response.writeHead(200, { ...SECURITY, 'Content-Type': file.type });
    response.end(incoming.method === 'HEAD' ? undefined : file.body);
  } else if (PROXIED.test(pathname)) {
    proxy(pid, path, incoming, response, refuse);
  } else {
    refuse(404, 'no such path');
  }
}

/** Compares in constant time for texts of equal length. */
function sameText(given: string, wanted: string): boolean {
  const [a, b] = [Buffer.from(given), Buffer.from(wanted)];
  return a.length === b.length && timingSafeEqual(a, b);
}

function fileOf(pathname: string): { readonly type: string; readonly body: string } | null {
  if (pathname === '/') return { type: 'text/html; charset=utf-8', body: HTML };
  if (pathname === '/style.css') return { type: 'text/css; charset=utf-8', body: CSS };
  const type = BUILT.get(pathname);
  if (type === undefined) return null;
  const file = pathname.replace('/app/', '../observe/page/');
  return { type, body: readFileSync(new URL(file, import.meta.url), 'utf8') };
}

function proxy(
  pid: number,
  path: string,
  incoming: IncomingMessage,
  response: ServerResponse,
  refuse: (status: number, message: string) => void,
): void {
  let socketPath: string;
  try {
    socketPath = socketOf(pid);
  } catch {
    refuse(502, 'the process ended');
    return;
  }
  const headers = { Accept: incoming.headers.accept ?? '*/*' };
  const onward = request({ socketPath, path, headers, method: incoming.method, agent: false }, (received) => {
    const { 'content-type': type = 'application/octet-stream' } = received.headers;
    response.writeHead(received.statusCode ?? 502, { ...SECURITY, 'Content-Type': type });
    // If the process exits, the response ends too.
    pipeline(received, response, () => undefined);
  });
  onward.on('error', () => {
    if (response.headersSent) response.destroy();
    else refuse(502, 'the process does not answer');
  });
  // An event stream ends when the browser disconnects.
  response.on('close', () => {
    onward.destroy();
  });
  onward.end();
}
