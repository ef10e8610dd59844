/**
 * Runs every schedule of a scenario within bounds, depth first. Each schedule runs from the start, since the state of a
 * running generator cannot be copied.
 */
import { InstrumentError } from './errors.ts';
import type { LoadedScenario } from './load.ts';
import { type Action, formatSchedule, KILL, parseSchedule, TIME_OUT, workerOf } from './schedule.ts';
import { type Bounds, Simulation } from './simulation.ts';
import { StateSet } from './state-set.ts';

export interface ExploreOptions extends Partial<Bounds> {
  readonly preemptions: number;
  /** A longer schedule counts as one that never ends. Default 10000. */
  readonly stepLimit?: number;
  /**
   * Cut a schedule short in a state whose continuations are explored already. Sound (but for one hash collision in
   * 2^53) if all data that workers share is in typed arrays that only instrumented code writes, or distinguished by the
   * scenario's `fingerprint`.
   */
  readonly merge?: boolean;
  /**
   * Maximum number of remembered states, 8 to 24 bytes each. Default 16 million; further states are explored again at
   * each visit.
   */
  readonly maxStates?: number;
  /** Stop after so many schedules or milliseconds; the result is then not `complete`. */
  readonly maxSchedules?: number;
  readonly maxMilliseconds?: number;
}

export interface Violation {
  readonly kind: 'error' | 'deadlock' | 'livelock';
  readonly message: string;
  /** The thrown value, if any. */
  readonly error?: unknown;
  /** Input for {@link replay}. */
  readonly schedule: string;
}

export interface ExploreResult {
  readonly complete: boolean;
  readonly violation: Violation | null;
  /** Number of schedules run, in full or until merged. */
  readonly schedules: number;
  /** Of these, the number cut short in a known state. */
  readonly merged: number;
  readonly steps: number;
  readonly milliseconds: number;
}

export interface ReplayResult {
  readonly violation: Violation | null;
  /** A line for each action of each worker. */
  readonly trace: readonly string[];
}

function messageOf(error: unknown): string {
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}

function boundsOf(options: ExploreOptions): Bounds {
  return { preemptions: options.preemptions, kills: options.kills ?? 0, timeOuts: options.timeOuts ?? 'last' };
}

/** Evaluates the end of a run, after the actions that led to it. */
function endOf<S>(simulation: Simulation<S>, actions: readonly Action[]): Violation | null {
  const schedule = formatSchedule(actions);
  try {
    const stuck = simulation.verdict();
    return stuck === null ? null : { kind: 'deadlock', message: `no worker can continue: ${stuck}`, schedule };
  } catch (error) {
    return { kind: 'error', message: messageOf(error), error, schedule };
  }
}

function tooLong(stepLimit: number, actions: readonly Action[]): Violation {
  return { kind: 'livelock', message: `not over after ${String(stepLimit)} steps`, schedule: formatSchedule(actions) };
}

export function explore<S>(loaded: LoadedScenario<S>, options: ExploreOptions): ExploreResult {
  const bounds = boundsOf(options);
  const { stepLimit = 10_000, maxSchedules = Infinity, maxMilliseconds = Infinity, merge = false } = options;
  if (merge && loaded.untracked.length > 0) {
    throw new InstrumentError(
      `can't merge states: typed arrays are read by spread, loop, pattern or optional chain at ${loaded.untracked.join(', ')}`,
    );
  }
  const begin = performance.now();
  const simulation = new Simulation(loaded.machine, loaded.scenario, loaded.sites, merge);
  const known = merge ? new StateSet(options.maxStates ?? 1 << 24) : null;

  // The path to the current state: the actions, the index of each among its options, and the number of options.
  const actions: Action[] = [];
  const chosen: number[] = [];
  const counts: number[] = [];
  const choices: Action[] = [];
  let depth = 0;
  let [schedules, merged, steps] = [0, 0, 0];

  const isKnown = (): boolean => {
    const state = simulation.fingerprint();
    // A state counts as explored if it was explored with at least as much budget left.
    for (let kills = simulation.kills; kills >= 0; kills--) {
      for (let spent = simulation.preemptions; spent >= 0; spent--) {
        if (known!.has(state + spent * 8 + kills)) return true;
      }
    }
    known!.add(state + simulation.preemptions * 8 + simulation.kills);
    return false;
  };

  /** Follows the path, then continues to the end. */
  const runOne = (fixed: number): Violation | null => {
    simulation.begin();
    for (depth = 0; depth < fixed; depth++) simulation.perform(actions[depth]!);
    if (fixed >= 0) {
      simulation.options(bounds, choices);
      actions[depth] = choices[++chosen[depth]!]!;
      simulation.perform(actions[depth++]!);
    } else {
      depth = 0;
    }
    for (;;) {
      if (known !== null && simulation.isMilestone(bounds) && isKnown()) {
        merged++;
        return null;
      }
      const count = simulation.options(bounds, choices);
      if (count === 0) return endOf(simulation, actions.slice(0, depth));
      if (simulation.steps >= stepLimit) return tooLong(stepLimit, actions.slice(0, depth));
      const action = choices[0]!;
      actions[depth] = action;
      chosen[depth] = 0;
      counts[depth] = count;
      depth++;
      simulation.perform(action);
    }
  };

  const result = (complete: boolean, violation: Violation | null): ExploreResult => ({
    complete,
    violation,
    schedules,
    merged,
    steps,
    milliseconds: performance.now() - begin,
  });

  for (let fixed = -1; ;) {
    let violation: Violation | null;
    try {
      violation = runOne(fixed);
    } catch (error) {
      violation = {
        kind: 'error',
        message: messageOf(error),
        error,
        schedule: formatSchedule(actions.slice(0, depth)),
      };
    }
    schedules++;
    steps += simulation.steps;
    if (violation !== null) return result(false, violation);
    fixed = depth - 1;
    while (fixed >= 0 && chosen[fixed]! + 1 >= counts[fixed]!) fixed--;
    if (fixed < 0) return result(true, null);
    if (schedules >= maxSchedules) return result(false, null);
    if ((schedules & 255) === 0 && performance.now() - begin > maxMilliseconds) return result(false, null);
  }
}

/** Runs one schedule, and continues without a preemption if the schedule stops before the end. */
export function replay<S>(loaded: LoadedScenario<S>, schedule: string, stepLimit = 10_000): ReplayResult {
  const { machine, sites } = loaded;
  const simulation = new Simulation(machine, loaded.scenario, sites, false);
  const given = parseSchedule(schedule);
  const actions: Action[] = [];
  const choices: Action[] = [];
  const trace: string[] = [];
  const bounds: Bounds = { preemptions: 0, kills: 0, timeOuts: 'last' };

  const perform = (action: Action): void => {
    const worker = workerOf(action);
    let what = simulation.place(worker);
    if (action >= KILL) what = `${action >= TIME_OUT ? 'TIME-OUT' : 'KILLED'} at ${what}`;
    const line = trace.push(`${String(worker)}  ${what}`) - 1;
    machine.trace = (text) => {
      trace[line] = `${trace[line]!}  ${text}`;
    };
    actions.push(action);
    simulation.perform(action);
  };

  simulation.begin();
  try {
    for (const action of given) perform(action);
    while (simulation.options(bounds, choices) > 0) {
      if (simulation.steps >= stepLimit) return { violation: tooLong(stepLimit, actions), trace };
      perform(choices[0]!);
    }
  } catch (error) {
    const violation: Violation = { kind: 'error', message: messageOf(error), error, schedule: formatSchedule(actions) };
    return { violation, trace };
  } finally {
    machine.trace = null;
  }
  return { violation: endOf(simulation, actions), trace };
}

/** A result in one line, and a violation with its schedule. */
export function describe(name: string, result: ExploreResult): string {
  const seconds = result.milliseconds / 1000;
  const line =
    `${name}: ${String(result.schedules)} schedules (${String(result.merged)} merged), ${String(result.steps)} steps, ` +
    `${seconds.toFixed(1)} s, ${String(result.violation === null ? 0 : 1)} violations` +
    (result.complete || result.violation !== null ? '' : ', not complete');
  if (result.violation === null) return line;
  return `${line}\n  ${result.violation.kind}: ${result.violation.message}\n  schedule: ${result.violation.schedule}`;
}
