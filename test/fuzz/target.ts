/** One fuzz target: runs seeded cases until the deadline; a failed case throws. */
export interface FuzzTarget {
  readonly name: string;
  /**
   * Runs the case of this seed to its end. Throws (or rejects with) an error when something does not hold. Deterministic
   * in the seed as far as the subject allows.
   */
  runCase(seed: number): void | Promise<void>;
  /** Releases what cases share (processes, sockets). Called once at the end. */
  close?(): Promise<void>;
  /** Optional: a cheap shrinker; returns a text that describes the smallest failing form of this seed's case. */
  shrink?(seed: number): Promise<string>;
}
