import type { CliIo, CliStream } from './io.ts';

type Paint = (text: string) => string;

/** How pieces of output are set off. Without colours every one of them gives its text back as it is. */
export interface Style {
  readonly bold: Paint;
  readonly dim: Paint;
  readonly good: Paint;
  readonly bad: Paint;
}

/** The style for a stream: colours on a terminal, unless `NO_COLOR` is set (no-color.org) or it is a dumb one. */
export function styleFor(stream: CliStream, env: CliIo['env']): Style {
  const colours = stream.isTTY && (env['NO_COLOR'] ?? '') === '' && env['TERM'] !== 'dumb';
  const sgr = (on: number, off: number): Paint =>
    colours ? (text) => (text === '' ? '' : `\u001b[${String(on)}m${text}\u001b[${String(off)}m`) : (text) => text;
  return { bold: sgr(1, 22), dim: sgr(2, 22), good: sgr(32, 39), bad: sgr(31, 39) };
}

/** A whole number with separators: 63,536. */
export function count(value: number): string {
  return value.toLocaleString('en-US', { maximumFractionDigits: 0 });
}

/** `1 page`, `2 pages`. */
export function plural(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? '' : 's'}`;
}

/**
 * Rows of cells as lines: the first column to the left, the others to the right.
 * @param options.rule Draw a line under the first row.
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

/** A progress bar in the last line of a terminal; nothing at all anywhere else. */
export class ProgressBar {
  readonly #stream: CliStream;
  #shown = '';

  constructor(stream: CliStream) {
    this.#stream = stream;
  }

  /** Shows that of `label` the fraction `done`, from 0 to 1, is over. */
  show(label: string, done: number): void {
    if (!this.#stream.isTTY) return;
    const filled = Math.round(done * BAR_WIDTH);
    const bar = '#'.repeat(filled).padEnd(BAR_WIDTH, '-');
    const text = `${label} [${bar}] ${String(Math.floor(done * 100)).padStart(3)}%`;
    if (text === this.#shown) return;
    this.#shown = text;
    // A line that wraps could not be erased.
    this.#stream.write(ERASE_LINE + text.slice(-((this.#stream.columns ?? 80) - 1)));
  }

  clear(): void {
    if (this.#shown !== '') this.#stream.write(ERASE_LINE);
    this.#shown = '';
  }
}
