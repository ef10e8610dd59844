import type { CliIo, CliStream } from './io.ts';

type Paint = (text: string) => string;

/** Text styles. Without colours each returns its text unchanged. */
export interface Style {
  readonly bold: Paint;
  readonly dim: Paint;
  readonly good: Paint;
  readonly bad: Paint;
}

/**
 * Selects the style of a stream: colours on a terminal, unless `NO_COLOR` (no-color.org) is set or `TERM` is `dumb`.
 */
export function styleFor(stream: CliStream, env: CliIo['env']): Style {
  const colours = stream.isTTY && (env['NO_COLOR'] ?? '') === '' && env['TERM'] !== 'dumb';
  const sgr = (on: number, off: number): Paint =>
    colours ? (text) => (text === '' ? '' : `\u001b[${String(on)}m${text}\u001b[${String(off)}m`) : (text) => text;
  return { bold: sgr(1, 22), dim: sgr(2, 22), good: sgr(32, 39), bad: sgr(31, 39) };
}

/** Formats a whole number with separators: 63,536. */
export function count(value: number): string {
  return value.toLocaleString('en-US', { maximumFractionDigits: 0 });
}

/** `1 page`, `2 pages`. */
export function plural(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? '' : 's'}`;
}

/**
 * Formats rows of cells as lines: the first column left-aligned, the others right-aligned.
 * @param options.rule Draw a line below the first row.
 */
export function table(rows: readonly (readonly string[])[], { rule = false }: { rule?: boolean } = {}): string[] {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, cell.length)));
  const lines = rows.map((row) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  '),
  );
  if (rule) lines.splice(1, 0, widths.map((width) => '-'.repeat(width)).join('  '));
  return lines;
}

const BAR_WIDTH = 24;
const ERASE_LINE = '\r\u001b[K';

/** A progress bar in the last line of a terminal; no output on other streams. */
export class ProgressBar {
  readonly #stream: CliStream;
  #shown = '';

  constructor(stream: CliStream) {
    this.#stream = stream;
  }

  /** Shows the completed fraction `done` of `label`, 0 to 1. */
  show(label: string, done: number): void {
    if (!this.#stream.isTTY) return;
    const filled = Math.round(done * BAR_WIDTH);
    const bar = '#'.repeat(filled).padEnd(BAR_WIDTH, '-');
    const text = `${label} [${bar}] ${String(Math.floor(done * 100)).padStart(3)}%`;
    if (text === this.#shown) return;
    this.#shown = text;
    // Truncate: a wrapped line could not be erased.
    this.#stream.write(ERASE_LINE + text.slice(-((this.#stream.columns ?? 80) - 1)));
  }

  clear(): void {
    if (this.#shown !== '') this.#stream.write(ERASE_LINE);
    this.#shown = '';
  }
}
