import { isGzipError, openBytes, type TraceSource } from './bytes.ts';
import { DmaTraceError, quote } from './error.ts';
import { TRACE_LIMIT } from './limits.ts';

/** A line without its line feed, and its number, counted from 1. */
export interface Line {
  readonly text: string;
  readonly number: number;
}

/**
 * The lines of a file, whatever the pieces in which its bytes arrive. A last line without line feed is a line.
 * Whoever takes them passes each to {@link checkLine}.
 *
 * They come a chunk at a time: one turn of an async iterator per line would cost more than the parsing.
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

/** Control characters but the tab. What a file says is printed to terminals, which would act on them. */
// eslint-disable-next-line no-control-regex -- they are what is looked for
const CONTROL = /[\0-\x08\x0a-\x1f\x7f-\x9f]/;

/** @throws `DmaTraceError` for a line that can't be of a text file. */
export function checkLine(line: Line, file: string): void {
  if (line.text.length > TRACE_LIMIT.line) {
    const expected = `a line of at most ${String(TRACE_LIMIT.line)} characters`;
    throw new DmaTraceError(file, line.number, expected, quote(line.text));
  }
  // The decoder puts U+FFFD where bytes are not UTF-8. A name that really has that character is not to be expected.
  if (line.text.includes('\uFFFD')) throw new DmaTraceError(file, line.number, 'UTF-8 text', quote(line.text));
  if (CONTROL.test(line.text)) {
    throw new DmaTraceError(file, line.number, 'text without control characters but tabs', quote(line.text));
  }
}
