/** Releases one managed resource. */
export type ReleaseAction = () => void;

/** Limit of actions registered during a release, so that a release ends even if each action registers another one. */
const MOST_NEW = 1000;

/** An action; `release` is null after it was removed or called. */
interface Entry {
  release: ReleaseAction | null;
}

/**
 * Actions that are called together, in reverse order of registration (Linux: devres).
 *
 *     gone = removed entries
 *     gone * 2 <= entries      after each removal
 *
 * So removed entries, such as those of pools that the program destroyed, do not accumulate. A removal costs amortized
 * O(1).
 */
export class ManagedResources {
  #entries: Entry[] = [];
  #gone = 0;

  /** Registers an action. Returns a function that removes it without calling it, and returns whether it was registered. */
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
   * Calls and removes all actions in reverse order of registration, even if one throws. An action registered meanwhile is
   * called next. After {@link MOST_NEW} of those the remaining actions stay registered, and the result contains an
   * error that reports this.
   *
   * @returns The exceptions, in order.
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
