import { checkFunction } from '../arguments.ts';

/** One-shot listeners for the next event "memory available" of a coherent allocator. */
export class Availability {
  // Entries are objects because one function may be registered twice.
  #waiting = new Set<{ listener: (() => void) | null }>();

  /**
   * Subscribes `listener` to the next {@link announce} only.
   *
   * Exceptions of a listener are dropped: they must not fail the free that triggered the call, nor skip other listeners.
   *
   * @returns A function that cancels the subscription.
   * @throws `DmaArgumentError` unless `listener` is a function.
   */
  once(listener: () => void): () => void {
    checkFunction('listener', listener);
    const entry: { listener: (() => void) | null } = { listener };
    this.#waiting.add(entry);
    return () => {
      // announce() may be iterating over the old set: without a listener it skips this entry.
      entry.listener = null;
      this.#waiting.delete(entry);
    };
  }

  /** Calls and removes all listeners. */
  announce(): void {
    if (this.#waiting.size === 0) return;
    // The set is replaced first: a listener may subscribe again, or free memory and so re-enter announce().
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
