/**
 * The capacity of a worker's magazine, which follows the worker's bursts. A burst allocates many blocks and then frees
 * them; a magazine smaller than the burst moves the rest to the depot and back, which costs more than the calls
 * themselves.
 *
 *     minimum <= blocks <= maximum
 *     blocks <= share, or the worker allocates alone and blocks < burst
 *
 * Up to the worker's share the capacity doubles with each burst. Beyond it, it grows only while no other worker allocates,
 * and stays a few blocks short of the burst: so each burst enters the slow path, where the worker sees another worker's
 * request for idle blocks.
 */

export class Magazine {
  readonly #minimum: number;
  readonly #maximum: number;
  /** Current capacity in blocks. */
  blocks: number;
  /** Blocks were fetched since the last call of {@link grow}. A worker that only frees must not accumulate blocks. */
  #fetched = false;
  /** Fetches until the next call of {@link grow}: it looks at all workers, which costs as much as many calls. */
  #pause = 0;
  /** Allocated blocks at the last fetch: fewer than at the peak of the burst. */
  #outAtFetch = 0;
  /** Allocated blocks at the last flush: at least as many as after the burst. */
  #outAtFlush = Infinity;
  /** The other workers' allocations at the last call of {@link grow}. */
  #allocationsByOthers = NaN;
  /** The other workers did not allocate between the last two calls of {@link grow}. */
  #isAlone = false;

  constructor(minimum: number, maximum: number) {
    this.#minimum = minimum;
    this.#maximum = maximum;
    this.blocks = minimum;
  }

  /** Number of blocks to move to or from the depot at a time. */
  get moved(): number {
    const followsBurst = this.#isAlone && this.blocks < this.#maximum;
    return Math.min(this.blocks >> 1, followsBurst ? MAX_MOVED_ALONE : MAX_MOVED);
  }

  /** Whether {@link grow} can have an effect. */
  get mayGrow(): boolean {
    return this.#fetched && this.#pause === 0 && this.blocks < this.#maximum;
  }

  /** @param out This worker's allocated blocks. */
  countFetch(out: number): void {
    this.#fetched = true;
    if (this.#pause > 0) this.#pause--;
    this.#outAtFetch = out;
  }

  /** @param out This worker's allocated blocks. */
  countFlush(out: number): void {
    this.#outAtFlush = out;
  }

  /**
   * Enlarges a full magazine after a burst. Returns false if it stays as it is.
   *
   * @param share This worker's share of the pool's blocks.
   * @param allocationsByOthers The other workers' allocations so far.
   */
  grow(share: number, allocationsByOthers: number): boolean {
    this.#fetched = false;
    this.#isAlone = allocationsByOthers === this.#allocationsByOthers;
    this.#allocationsByOthers = allocationsByOthers;
    const toShare = Math.min(this.blocks * 2, share);
    const toBurst = this.#isAlone ? this.#outAtFetch - this.#outAtFlush : 0;
    const larger = Math.min(Math.max(toShare, toBurst), this.#maximum);
    if (larger <= this.blocks) {
      this.#pause = PAUSE;
      return false;
    }
    this.blocks = larger;
    return true;
  }

  /** Shrinks to the minimum, because another worker needs blocks. */
  shrink(): void {
    this.blocks = this.#minimum;
    this.#outAtFlush = Infinity;
    this.#allocationsByOthers = NaN;
    this.#isAlone = false;
  }
}

/** Fetches after a call of {@link Magazine.grow} without effect. */
const PAUSE = 8;
/** Maximum blocks moved per acquisition of the lock. */
const MAX_MOVED = 256;
/** The same for a worker that allocates alone: its magazine stays one or two moves short of the burst. */
const MAX_MOVED_ALONE = 16;
