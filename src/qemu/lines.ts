import type { Duplex } from 'node:stream';

/** Events of {@link readLines}. */
export interface LineEvents {
  readonly onLine: (line: string) => void;
  /** A line exceeds the limit. Reading stops. */
  readonly onTooLong: () => void;
  /** The peer closed the stream, or it failed. Called at most once, and not after a local `destroy`. */
  readonly onClosed: () => void;
}

/**
 * Splits a stream into lines. Buffers at most one line. After the stream is destroyed no line is delivered, buffered
 * ones included.
 *
 * @param limit Maximum characters of a line without its line feed.
 */
export function readLines(stream: Duplex, encoding: 'utf8' | 'latin1', limit: number, events: LineEvents): void {
  let rest = '';
  let over = false;
  const close = (): void => {
    if (over) return;
    over = true;
    events.onClosed();
  };
  stream.setEncoding(encoding);
  stream.on('data', (chunk: string) => {
    for (let start = 0; !over && !stream.destroyed;) {
      const end = chunk.indexOf('\n', start);
      const piece = end === -1 ? chunk.slice(start) : chunk.slice(start, end);
      if (rest.length + piece.length > limit) {
        over = true;
        rest = '';
        events.onTooLong();
        return;
      }
      const line = rest + piece;
      rest = end === -1 ? line : '';
      if (end === -1) return;
      start = end + 1;
      events.onLine(line.endsWith('\r') ? line.slice(0, -1) : line);
    }
  });
  stream.once('end', close);
  stream.on('error', close);
}
