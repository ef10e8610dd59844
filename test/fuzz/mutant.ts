/** A deliberate one-line fault that a fuzzer must find. */
export interface Mutant {
  /** A short description of the fault. */
  readonly name: string;
  /** The fuzz target that must find it. */
  readonly target: string;
  /** Path of the source file, relative to the project's root. */
  readonly file: string;
  /** A part of one line, found exactly once in the file. */
  readonly from: string;
  readonly to: string;
}
