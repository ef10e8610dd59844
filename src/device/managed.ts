/** Releases one managed resource. */
export type ReleaseAction = () => void;

/** Actions run by one release that were registered during it, before it is taken for a loop without end. */
const MOST_NEW = 1000;

/** One action; `release` is null once it is taken out. */
interface Entry {
  release: ReleaseAction | null;
}

/**
 * Resources released together, last one first (Linux: devres).
 *
 * Invariant: at most half of the entries, `#gone` of them, are taken out: pools with overlapping lives, each destroyed by
 * hand, must not pile up. So taking out costs O(1) on average.
 */
export class ManagedResources {
  #entries: Entry[] = [];
  #gone = 0;

  /** Registers an action. The function returned takes it out again, without running it; it says whether it was there. */
  add(release: ReleaseAction): () => boolean {
    const entry: Entry = { release };
    this.#entries.push(entry);
    return () => {
      if (entry.release === null) return false;
      entry.release = null;
      if (++this.#gone * 2 > this.#entries.length) {
        this.#entries = this.#entries.filter((each) => each.release !== null);
        this.#gone = 0;
      }
      return true;
    };
  }

  /**
   * Runs every action, the last one first, each even if another throws; returns what was thrown. An action registered
   * meanwhile is then the last one. If they go on registering actions, the rest is left, and an error says so.
   */
  releaseAll(): unknown[] {
    const errors: unknown[] = [];
    let left = this.#entries.length + MOST_NEW;
    for (let entry; (entry = this.#entries.pop()) !== undefined;) {
      const { release } = entry;
      if (release === null) {
        this.#gone--;
        continue;
      }
      if (left-- === 0) {
        this.#entries.push(entry);
        errors.push(new Error('too many actions'));
        break;
      }
      entry.release = null;
      try {
        release();
      } catch (error) {
        errors.push(error);
      }
    }
    return errors;
  }
}
