/** Errors of the explorer, as opposed to those that the scenario throws. */

/** The source cannot be instrumented as it is; the message names every place. */
export class InstrumentError extends Error {
  override readonly name = 'InstrumentError';
}

/** Instrumented code did something that cannot be simulated at that place. */
export class SimulationError extends Error {
  override readonly name = 'SimulationError';
}

/** A schedule could not be followed: it belongs to other code, or the scenario is not deterministic. */
export class ScheduleError extends Error {
  override readonly name = 'ScheduleError';
}
