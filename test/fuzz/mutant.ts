/** One mistake of one line, which the fuzzers must find. */
export interface Mutant {
  /** What the mistake is, in a few words. */
  readonly name: string;
  /** The fuzz target that is to find it. */
  readonly target: string;
  /** Path of the source file from the project's root. */
  readonly file: string;
  /** A part of one line, found exactly once in the file. */
  readonly from: string;
  readonly to: string;
}
