import { DmaError } from '../errors.ts';

/**
 * A file is not what it should be: a line of a trace or of its expectations is malformed, or the gzip data is damaged
 * or cut short.
 */
export class DmaTraceError extends DmaError {
  /** The file's name as the caller gave it; `trace` when it read from a stream without a name. */
  readonly file: string;
  /** Number of the line, counted from 1. Of damaged gzip data: the line that could not be read any more. */
  readonly line: number;
  /** What should have been there. */
  readonly expected: string;

  constructor(file: string, line: number, expected: string, found: string, options?: ErrorOptions) {
    super('ERR_DMAPOOL_TRACE', `${file}:${String(line)}: expected ${expected}; found ${found}`, options);
    this.file = file;
    this.line = line;
    this.expected = expected;
  }
}

/** The longest piece of a file that is quoted in a message, in characters. */
const QUOTE_LIMIT = 60;

/** A piece of a file as it should stand in a message: quoted, control characters visible, not too long. */
export function quote(text: string): string {
  const quoted = JSON.stringify(text.length > QUOTE_LIMIT ? `${text.slice(0, QUOTE_LIMIT)}...` : text);
  // JSON leaves these control characters as they are.
  return quoted.replace(/[\x7f-\x9f]/g, (character) => `\\u00${character.charCodeAt(0).toString(16)}`);
}

/** The lines of a trace are well formed and contradict each other. The replay counts it as a failure and goes on. */
export class DmaReplayError extends DmaError {
  constructor(message: string) {
    super('ERR_DMAPOOL_TRACE', message);
  }
}
