/** Releases one managed resource. */
export type ReleaseAction = () => void;

/** Actions run by one release that were registered during it, before it is taken for a loop without end. */
const MOST_NEW = 1000;

/** One action. While `release` is not null, it is in the list, and its neighbours link to it. */
interface Entry {
  release: ReleaseAction | null;
  older: Entry | null;
  newer: Entry | null;
}

/**
 * Resources released together, last one first (Linux: devres).
 *
 * Invariant: the list has the actions that wait, and no others. One that is taken out leaves no trace, in O(1): pools
 * with overlapping lives, each destroyed by hand, must not pile up.
 */
export class ManagedResources {
  #newest: Entry | null = null;
  #count = 0;

  /** Registers an action. The function returned takes it out again, without running it; it says whether it was there. */
  add(release: ReleaseAction): () => boolean {
    const entry: Entry = { release, older: this.#newest, newer: null };
    if (this.#newest !== null) this.#newest.newer = entry;
    this.#newest = entry;
    this.#count++;
    return () => this.#take(entry) !== null;
  }

  /** Takes an action out; null if it is out already. */
  #take(entry: Entry): ReleaseAction | null {
    const { release, older, newer } = entry;
    if (release === null) return null;
    if (older !== null) older.newer = newer;
    if (newer === null) this.#newest = older;
    else newer.older = older;
    // The function that `add` returned keeps the entry: it must keep no others.
    entry.release = entry.older = entry.newer = null;
    this.#count--;
    return release;
  }

  /**
   * Runs every action, the last one first, each even if another throws; returns what was thrown. An action registered
   * meanwhile is then the last one. If they go on registering actions, the rest is left, and an error says so.
   */
  releaseAll(): unknown[] {
    const errors: unknown[] = [];
    let left = this.#count + MOST_NEW;
    while (this.#newest !== null) {
      if (left-- === 0) {
        errors.push(new Error('managed actions go on registering actions; the rest was left'));
        break;
      }
      const release = this.#take(this.#newest);
      try {
        release?.();
      } catch (error) {
        errors.push(error);
      }
    }
    return errors;
  }
}
