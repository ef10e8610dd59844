/** Levels of the interrupt lines, as QEMU reports them. */
export class InterruptLines {
  readonly #high = new Set<number>();
  readonly #listeners = new Map<number, Set<() => void>>();

  /** Records a level change and calls the listeners of a rising line. */
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

  /** Number of listeners on a line. */
  sharers(line: number): number {
    return this.#listeners.get(line)?.size ?? 0;
  }

  /** Calls `listener` at each rise of the line. Returns a function that removes the listener. */
  onRise(line: number, listener: () => void): () => void {
    const listeners = this.#listeners.get(line) ?? new Set();
    this.#listeners.set(line, listeners);
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
    };
  }
}
