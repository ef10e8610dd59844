/** The pages that one call takes from the memory source while it is in progress. */

/**
 * The source is the user's code and may call the pool: trim it, allocate from it, reserve more. Two invariants hold all
 * the same.
 *
 * - `slots` are exactly those of the pages that this call opened and that the pool still has. A page that leaves the pool
 *   leaves every intake ({@link Intake.left}), so a slot that was given back, and opened anew by another call, is not
 *   taken for one of this call's.
 * - The call ends. Each page that it opens either raises the number of the pool's pages above `most`, the highest number
 *   during the call, or uses up one of `spare`. The first is bounded by the number of indices, the second by its start
 *   value. `spare` starts with as many pages as the call can need at all, which allows for a source that gives back all
 *   idle pages of the process once, this call's included, and then has enough.
 */
export class Intake {
  readonly slots: Set<number> = new Set<number>();
  #most: number;
  #spare: number;

  /**
   * @param pages Pages that the pool has now.
   * @param needed Pages that the call would need if the pool had none.
   */
  constructor(pages: number, needed: number) {
    this.#most = pages;
    this.#spare = needed;
  }

  /** The call opened the page in `slot`, and the pool has `pages` now. False if the call must end. */
  opened(slot: number, pages: number): boolean {
    this.slots.add(slot);
    if (pages > this.#most) {
      this.#most = pages;
      return true;
    }
    return this.#spare-- > 0;
  }

  /** Pages left the pool. */
  left(slots: readonly number[]): void {
    for (const slot of slots) this.slots.delete(slot);
  }
}
