/** Releases one managed resource. */
export type ReleaseAction = () => void;

/** Resources released together, last one first (Linux: devres). */
export class ManagedResources {
  // A Set keeps the order of insertion and takes an entry out in O(1), however many there are.
  readonly #actions = new Set<{ release: ReleaseAction }>();

  /** Registers an action. The function returned takes it out again, without running it; it says whether it was there. */
  add(release: ReleaseAction): () => boolean {
    const entry = { release };
    this.#actions.add(entry);
    return () => this.#actions.delete(entry);
  }

  get size(): number {
    return this.#actions.size;
  }

  /** Runs every action in reverse order, each even if another throws; returns what was thrown. */
  releaseAll(): unknown[] {
    const errors: unknown[] = [];
    // An action may register or release others, so the order is looked up afresh until nothing is left.
    while (this.#actions.size > 0) {
      for (const entry of [...this.#actions].reverse()) {
        if (!this.#actions.delete(entry)) continue;
        try {
          entry.release();
        } catch (error) {
          errors.push(error);
        }
      }
    }
    return errors;
  }
}
