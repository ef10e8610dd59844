/** Releases one managed resource. */
export type ReleaseAction = () => void;

/** Actions run by one release that were registered during it, before it is taken for a loop without end. */
const MOST_NEW = 1000;

/** Resources released together, last one first (Linux: devres). */
export class ManagedResources {
  /** In order of registration; those taken out are marked, and dropped when they come to the end. */
  readonly #stack: { release: ReleaseAction | null }[] = [];

  /** Registers an action. The function returned takes it out again, without running it; it says whether it was there. */
  add(release: ReleaseAction): () => boolean {
    const entry: { release: ReleaseAction | null } = { release };
    this.#stack.push(entry);
    return () => {
      const waiting = entry.release !== null;
      entry.release = null;
      while (this.#stack.length > 0 && this.#stack.at(-1)?.release === null) this.#stack.pop();
      return waiting;
    };
  }

  /**
   * Runs every action, the last one first, each even if another throws; returns what was thrown. An action registered
   * meanwhile is then the last one. If they go on registering actions, the rest is left, and an error says so.
   */
  releaseAll(): unknown[] {
    const errors: unknown[] = [];
    let left = this.#stack.length + MOST_NEW;
    for (let entry = this.#stack.pop(); entry !== undefined; entry = this.#stack.pop()) {
      const { release } = entry;
      entry.release = null;
      if (release === null) continue;
      if (left-- === 0) {
        errors.push(new Error('managed actions go on registering actions; the rest was left'));
        break;
      }
      try {
        release();
      } catch (error) {
        errors.push(error);
      }
    }
    return errors;
  }
}
