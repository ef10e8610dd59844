/** The interface of a scenario. Its module is instrumented too, so it is plain code that calls the real code. */

/** One operation of one worker. An exception is a violation. */
export type Operation<S> = (state: S, worker: number) => void;

/**
 * A small program of several workers, with a check of the final state.
 *
 * Everything must be deterministic, and all data that workers share must come from `setup`, which runs once per
 * schedule. `setup`, `check` and `fingerprint` run as one step, outside the schedule; they must not wait.
 */
export interface Scenario<S> {
  /** Builds all state anew. */
  readonly setup: () => S;
  /** The operations of each worker, in order. */
  readonly workers: readonly (readonly Operation<S>[])[];
  /** Throws if the final state is wrong. All deaths have been reported by then. */
  readonly check: (state: S) => void;
  /** Recovers from the death of a worker: an operation of the reporter, interleaved like any other. */
  readonly onKilled?: (state: S, dead: number) => void;
  /**
   * The worker that reports deaths: before each of its operations, and after the last one for as long as others run. By
   * default a separate worker without operations, numbered after the last of `workers`.
   */
  readonly reporter?: number;
  /** The workers that may be killed: by default all except the reporter. */
  readonly mortal?: readonly number[];
  /**
   * A number that distinguishes data shared outside typed arrays (for example a shadow table of holders). Needed with
   * `merge` only, and only where the order of the workers' operations on that data matters.
   */
  readonly fingerprint?: (state: S) => number;
}
