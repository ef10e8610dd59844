import type { Duplex } from 'node:stream';

/** What the lines of a stream are told to. */
export interface LineEvents {
  readonly onLine: (line: string) => void;
  /** The line is longer than the limit. Nothing is read afterwards. */
  readonly onTooLong: () => void;
  /** The peer closed the stream, or it failed. Called once, and not after the stream was destroyed from here. */
  readonly onClosed: () => void;
}

/**
 * Cuts what arrives at a stream into lines, and holds no more of it than one line. Once the stream is destroyed no line
 * is delivered any more, also of what had arrived before.
 *
 * @param limit The most characters of a line, its line feed excepted.
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
