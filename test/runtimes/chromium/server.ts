/** Serves the compiled project to a browser, as any static server would. */
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join, normalize } from 'node:path';
import { root } from '../../package/packed.ts';

const TYPES: Readonly<Record<string, string>> = { '.js': 'text/javascript', '.map': 'application/json' };

/**
 * The headers that make a page cross-origin isolated (HTML standard, section 7.1.4), so that it has SharedArrayBuffer.
 */
const ISOLATION = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
};

export interface Server {
  /** The project's root folder. */
  readonly url: URL;
  close(): Promise<void>;
}

/** Serves `dist/` and an empty page at `/`, on a free port. */
export async function serve(isolated: boolean): Promise<Server> {
  const server = createServer((request, response) => {
    for (const [name, value] of Object.entries(isolated ? ISOLATION : {})) response.setHeader(name, value);
    const path = normalize(new URL(request.url ?? '/', 'http://localhost').pathname);
    if (path === '/') {
      response.setHeader('Content-Type', 'text/html');
      response.end('<!doctype html><title>dmapool</title>');
      return;
    }
    const type = path.startsWith('/dist/') ? TYPES[extname(path)] : undefined;
    void readFile(join(root, path)).then(
      (content) => {
        response.writeHead(type === undefined ? 404 : 200, { 'Content-Type': type ?? 'text/plain' });
        response.end(type === undefined ? '' : content);
      },
      () => {
        response.writeHead(404).end();
      },
    );
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: new URL(`http://127.0.0.1:${String((server.address() as AddressInfo).port)}/`),
    close: () =>
      new Promise((resolve) => {
        server.close(() => {
          resolve();
        });
        server.closeAllConnections();
      }),
  };
}
