import { isGzipError, openBytes, type TraceSource } from './bytes.ts';
import { DmaTraceError, quote } from './error.ts';
import { TRACE_LIMIT } from './limits.ts';

/** A line without its line feed, and its number, from 1. */
export interface Line {
  readonly text: string;
  readonly number: number;
}

/**
 * Splits a file into lines, independently of its chunks. The last line needs no line feed. The caller passes each line to
 * {@link checkLine}.
 *
 * Yields the lines of a chunk together: one step of an async iterator per line costs more than the parsing.
 */
export async function* readLines(source: TraceSource, file: string): AsyncGenerator<Line[]> {
  const decoder = new TextDecoder();
  let number = 1;
  let rest = '';

  const split = (text: string): Line[] => {
    const parts = (rest + text).split('\n');
    rest = parts.pop() ?? '';
    return parts.map((part) => ({ text: part, number: number++ }));
  };

  try {
    for await (const chunk of openBytes(source)) {
      yield split(decoder.decode(chunk, { stream: true }));
      if (rest.length > TRACE_LIMIT.line) checkLine({ text: rest, number }, file);
    }
    yield split(decoder.decode());
    if (rest !== '') yield [{ text: rest, number }];
  } catch (error) {
    if (!isGzipError(error)) throw error;
    throw new DmaTraceError(file, number, 'whole gzip data', `it damaged or cut short (${error.message})`, {
      cause: error,
    });
  }
}

/** Control characters except the tab: texts of a file are printed to terminals, which interpret them. */
// eslint-disable-next-line no-control-regex -- the pattern searches for them
const CONTROL = /[\0-\x08\x0a-\x1f\x7f-\x9f]/;

/** @throws `DmaTraceError` for a line that is no text. */
export function checkLine(line: Line, file: string): void {
  if (line.text.length > TRACE_LIMIT.line) {
    const expected = `a line of at most ${String(TRACE_LIMIT.line)} characters`;
    throw new DmaTraceError(file, line.number, expected, quote(line.text));
  }
  // The decoder replaces invalid UTF-8 by U+FFFD, which no real name contains.
  if (line.text.includes('\uFFFD')) throw new DmaTraceError(file, line.number, 'UTF-8 text', quote(line.text));
  if (CONTROL.test(line.text)) {
    throw new DmaTraceError(file, line.number, 'text without control characters but tabs', quote(line.text));
  }
}
