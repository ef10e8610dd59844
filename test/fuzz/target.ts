/** A fuzz target. */
export interface FuzzTarget {
  readonly name: string;
  /**
   * Runs the case of a seed, deterministic in the seed as far as the subject allows.
   *
   * @throws An error if the case fails.
   */
  runCase(seed: number): void | Promise<void>;
  /** Releases resources that cases share (processes, sockets). Called once at the end. */
  close?(): Promise<void>;
  /** Returns a description of the smallest failing form of the seed's case. Optional. */
  shrink?(seed: number): Promise<string>;
}
