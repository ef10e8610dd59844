import { isInstance, type OptionNames, readOptions } from '../arguments.ts';
import { DmaArgumentError } from '../errors.ts';
import { checkSource, type TraceSource } from './bytes.ts';
import { DmaTraceError, quote } from './error.ts';
import type { TraceEvent, TraceHeader } from './events.ts';
import { TRACE_LIMIT } from './limits.ts';
import { parseLine } from './line.ts';
import { checkLine, type Line, readLines } from './lines.ts';

/** Options of {@link readTrace}. */
export interface ReadTraceOptions {
  /** Name for error messages. Default: the path, or `trace` for a stream. */
  readonly name?: string;
}

const MAGIC = '#dma_pool-trace ';
const VERSION = 'v1';

/**
 * Reads a trace, gzip or plain, event by event. Holds only the header and one chunk in memory. The first event is always
 * the header.
 *
 * @param source A path, a `file:` URL, bytes, or a stream of them; gzip or plain.
 * @param options The name for messages.
 * @throws `DmaTraceError` for the first malformed line, damaged gzip data, and an empty file. @throws the errors of the
 *   file system or the stream.
 *
 * @example
 * ```ts
 * let allocs = 0;
 * for await (const event of readTrace('traces/6.12/ehci.trace.gz')) {
 *   if (event.type === 'alloc') allocs++;
 * }
 * ```
 */
export async function* readTrace(source: TraceSource, options: ReadTraceOptions = {}): AsyncGenerator<TraceEvent> {
  for await (const events of readTraceChunks(source, options)) yield* events;
}

/** {@link readTrace}, with all events of a chunk together, which is much faster. */
export async function* readTraceChunks(
  source: TraceSource,
  options: ReadTraceOptions = {},
): AsyncGenerator<TraceEvent[]> {
  const file = nameOf(source, options);
  checkSource(source);
  const parser = new TraceParser(file);
  for await (const lines of readLines(source, file)) {
    const events: TraceEvent[] = [];
    try {
      for (const line of lines) parser.add(line, events);
    } catch (error) {
      // Deliver the events before the malformed line, independently of the chunks.
      if (events.length > 0) yield events;
      throw error;
    }
    if (events.length > 0) yield events;
  }
  const end = parser.finish();
  if (end !== null) yield [end];
}

const OPTIONS: OptionNames<ReadTraceOptions> = { name: true };

/** Name of a source in messages. @throws `DmaArgumentError` for invalid options. */
export function nameOf(source: TraceSource, options: ReadTraceOptions, fallback = 'trace'): string {
  const { name } = readOptions('options', options, OPTIONS);
  if (name !== undefined) {
    if (typeof name !== 'string') throw new DmaArgumentError('name', name, 'a text');
    return name;
  }
  return typeof source === 'string' ? source : isInstance(source, URL) ? source.href : fallback;
}

class TraceParser {
  readonly #file: string;
  readonly #fields = new Map<string, string>();
  #inHeader = true;
  #lines = 0;
  #headerSize = 0;

  constructor(file: string) {
    this.#file = file;
  }

  add(line: Line, events: TraceEvent[]): void {
    checkLine(line, this.#file);
    this.#lines = line.number;
    if (this.#inHeader && line.text.startsWith('#')) {
      this.#headerLine(line);
      return;
    }
    // Parse before the header is delivered: a file of another kind delivers nothing.
    const call = parseLine(line, this.#file);
    if (this.#inHeader) events.push(this.#header(line.number));
    this.#inHeader = false;
    events.push(call);
  }

  /** @returns The header, if it was not delivered yet. */
  finish(): TraceHeader | null {
    if (this.#lines === 0) throw new DmaTraceError(this.#file, 1, 'a trace', 'an empty file');
    return this.#inHeader ? this.#header(this.#lines + 1) : null;
  }

  #headerLine(line: Line): void {
    this.#headerSize += line.text.length + 1;
    if (this.#headerSize > TRACE_LIMIT.header) {
      const expected = `a header of at most ${String(TRACE_LIMIT.header)} characters`;
      throw new DmaTraceError(this.#file, line.number, expected, 'more');
    }
    if (line.text.startsWith(MAGIC)) {
      const version = line.text.slice(MAGIC.length);
      if (version === VERSION) return;
      throw new DmaTraceError(this.#file, line.number, `version ${VERSION} of the format`, quote(version));
    }
    const tab = line.text.indexOf('\t');
    // Lines without a tab are comments, which name the columns.
    if (tab > 1) this.#fields.set(line.text.slice(1, tab), line.text.slice(tab + 1));
  }

  #header(line: number): TraceHeader {
    return { type: 'header', line, version: 1, fields: this.#fields };
  }
}
