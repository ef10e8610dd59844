import type { CliStream } from './io.ts';

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
