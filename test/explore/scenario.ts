/** What a scenario says. Its module is instrumented too, so it is written as plain code that calls the real one. */

/** One operation of one worker. It may throw; that is a violation. */
export type Operation<S> = (state: S, worker: number) => void;

/**
 * A small program of several workers, with what must hold when it is over.
 *
 * Everything must be deterministic, and all that workers share must come from `setup`, which runs once a schedule.
 * `setup`, `check` and `fingerprint` run as one, outside the schedule; they must not wait.
 */
export interface Scenario<S> {
  /** Builds everything afresh. */
  readonly setup: () => S;
  /** The operations of each worker, in order. */
  readonly workers: readonly (readonly Operation<S>[])[];
  /** Throws if the state at the end is wrong. Deaths have all been reported by then. */
  readonly check: (state: S) => void;
  /** Recovers from the death of a worker: an operation of the reporter's, interleaved like any other. */
  readonly onKilled?: (state: S, dead: number) => void;
  /**
   * The worker that hears of deaths: before each of its operations, and after the last for as long as others run.
   * By default a worker of its own that does nothing else, numbered after the last of `workers`.
   */
  readonly reporter?: number;
  /** Who may be killed: by default everyone but the reporter. */
  readonly mortal?: readonly number[];
  /**
   * A number that tells apart what workers share outside typed arrays (a shadow table of who holds what, say). Needed
   * with `merge` only, and only where the order of what workers did there matters.
   */
  readonly fingerprint?: (state: S) => number;
}
