import type { CoherentAllocator } from '../memory/coherent.ts';

/** A wish to hear of the next memory that comes back to a source; at most one at a time. */
export class MemoryWish {
  readonly #memory: CoherentAllocator;
  readonly #granted: () => void;
  #takeBack: (() => void) | null = null;
  /** The source is being called: it may call the pool, which may want to make the same wish. */
  #making = false;

  /** @param granted Called when memory came back; the wish is over then. */
  constructor(memory: CoherentAllocator, granted: () => void) {
    this.#memory = memory;
    this.#granted = granted;
  }

  /**
   * Makes the wish, if it is not made yet and the source knows wishes. Throws what the source throws.
   *
   * @returns True if the source granted it at once: it is over then.
   */
  make(): boolean {
    if (this.#takeBack !== null || this.#making) return false;
    let over = false;
    let takeBack: (() => void) | null;
    this.#making = true;
    try {
      takeBack =
        this.#memory.onceAvailable?.(() => {
          // A source may call twice.
          if (over) return;
          over = true;
          this.#takeBack = null;
          this.#granted();
        }) ?? null;
    } finally {
      this.#making = false;
    }
    if (!over) this.#takeBack = takeBack;
    return over;
  }

  /** Takes it back. What the source throws then is its own trouble: a free or a destroy is no place to report it. */
  forget(): void {
    const takeBack = this.#takeBack;
    this.#takeBack = null;
    try {
      takeBack?.();
    } catch {
      // See above.
    }
  }
}
