/** Those who wait for memory to come back to a source. */
import { checkFunction } from '../arguments.ts';

export class Availability {
  // Objects, since one function may wait twice.
  #waiting = new Set<{ listener: (() => void) | null }>();

  /**
   * Calls `listener` once, at the next {@link announce}; returns a function that takes the wish back.
   * What a listener throws is dropped: it must not harm the one who happens to free, nor the other listeners.
   */
  once(listener: () => void): () => void {
    checkFunction('listener', listener);
    const entry: { listener: (() => void) | null } = { listener };
    this.#waiting.add(entry);
    return () => {
      // Cleared as well, for who is called off by another listener of the same round.
      entry.listener = null;
      this.#waiting.delete(entry);
    };
  }

  /** Memory came back. */
  announce(): void {
    if (this.#waiting.size === 0) return;
    // A new set first: a listener may wait again, or free memory itself.
    const waiting = this.#waiting;
    this.#waiting = new Set();
    for (const { listener } of waiting) {
      try {
        listener?.();
      } catch {
        // See once().
      }
    }
  }
}
