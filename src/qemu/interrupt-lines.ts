/** The levels of the interrupt lines, as QEMU reports them. */
export class InterruptLines {
  readonly #high = new Set<number>();
  readonly #listeners = new Map<number, Set<() => void>>();

  /** A line changed. */
  set(line: number, raised: boolean): void {
    if (!raised) {
      this.#high.delete(line);
      return;
    }
    this.#high.add(line);
    for (const listener of [...(this.#listeners.get(line) ?? [])]) listener();
  }

  isHigh(line: number): boolean {
    return this.#high.has(line);
  }

  /** How many listen to a line. */
  sharers(line: number): number {
    return this.#listeners.get(line)?.size ?? 0;
  }

  /** Calls `listener` at each rise of the line, until the function that it returns is called. */
  onRise(line: number, listener: () => void): () => void {
    const listeners = this.#listeners.get(line) ?? new Set();
    this.#listeners.set(line, listeners);
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
    };
  }
}
