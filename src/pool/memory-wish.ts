import type { CoherentAllocator } from '../memory/coherent.ts';

/** A wish to hear of the next memory that comes back to a source; at most one at a time. */
export class MemoryWish {
  readonly #memory: CoherentAllocator;
  readonly #granted: () => void;
  #takeBack: (() => void) | null = null;

  /** @param granted Called when memory came back; the wish is over then. */
  constructor(memory: CoherentAllocator, granted: () => void) {
    this.#memory = memory;
    this.#granted = granted;
  }

  /** Makes the wish, if it is not made yet and the source knows wishes. Throws what the source throws. */
  make(): void {
    if (this.#takeBack !== null) return;
    let over = false;
    const takeBack =
      this.#memory.onceAvailable?.(() => {
        over = true;
        this.#takeBack = null;
        this.#granted();
      }) ?? null;
    // A source may grant it at once.
    if (!over) this.#takeBack = takeBack;
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
