import { DmaError } from '../errors.ts';

/**
 * An invalid file: a line of a trace or of its expectations is malformed, or the gzip data is damaged or truncated.
 */
export class DmaTraceError extends DmaError {
  /** Name of the file as given by the caller; `trace` for a stream without a name. */
  readonly file: string;
  /** Number of the line, from 1. For damaged gzip data: the first line that can't be read. */
  readonly line: number;
  /** Description of valid content. */
  readonly expected: string;

  constructor(file: string, line: number, expected: string, found: string, options?: ErrorOptions) {
    super('ERR_DMAPOOL_TRACE', `${file}:${String(line)}: expected ${expected}; found ${found}`, options);
    this.file = file;
    this.line = line;
    this.expected = expected;
  }
}

/** Maximum characters of a file quoted in a message. */
const QUOTE_LIMIT = 60;

/** Quotes a part of a file for a message: control characters escaped, and not too long. */
export function quote(text: string): string {
  const quoted = JSON.stringify(text.length > QUOTE_LIMIT ? `${text.slice(0, QUOTE_LIMIT)}...` : text);
  // JSON does not escape these control characters.
  return quoted.replace(/[\x7f-\x9f]/g, (character) => `\\u00${character.charCodeAt(0).toString(16)}`);
}

/** Well-formed lines of a trace contradict each other. The replay counts a failure and continues. */
export class DmaReplayError extends DmaError {
  constructor(message: string) {
    super('ERR_DMAPOOL_TRACE', message);
  }
}
