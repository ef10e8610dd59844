/** What can go wrong besides what the scenario itself throws. */

/** The source can't be instrumented as it is; the message names every place. */
export class InstrumentError extends Error {
  override readonly name = 'InstrumentError';
}

/** Instrumented code did what can't be simulated where it did it. */
export class SimulationError extends Error {
  override readonly name = 'SimulationError';
}

/** A schedule could not be followed: it is for other code, or the scenario is not deterministic. */
export class ScheduleError extends Error {
  override readonly name = 'ScheduleError';
}
