/** One run of a scenario: workers, deaths, and the possible next actions of the scheduler. */
import { ScheduleError } from './errors.ts';
import { Fingerprint } from './fingerprint.ts';
import { BLOCKED, DONE, IDLE, KILLED, type Machine, READY, RESTING, type Thread, WAITING } from './machine.ts';
import type { Operation, Scenario } from './scenario.ts';
import { type Action, KILL, MAX_WORKERS, TIME_OUT, workerOf } from './schedule.ts';
import type { Site } from './sites.ts';

/** Bounds on the deviation of schedules from running each worker until it blocks or ends. */
export interface Bounds {
  /** Switches away from a worker that could continue. */
  readonly preemptions: number;
  /** Deaths. A worker can die at each yield point, while it waits, and when just woken. */
  readonly kills: number;
  /** Whether waits time out at any moment (for the price of a preemption), or only when nothing else can happen. */
  readonly timeOuts: 'last' | 'any';
}

export class Simulation<S> {
  readonly #machine: Machine;
  readonly #scenario: Scenario<S>;
  readonly #sites: readonly Site[];
  readonly #fingerprint: Fingerprint | null;
  readonly #operations: readonly (readonly Operation<S>[])[];
  readonly #reporter: number;
  readonly #mortal: number;
  readonly #threads: Thread[] = [];
  /** The position of each worker: its next step. */
  readonly #at: number[] = [];
  readonly #stepsOf: number[] = [];
  #state!: S;
  #current = -1;
  /** All dead workers, and the number of them that the reporter has processed. */
  #deaths: number[] = [];
  #reported = 0;

  steps = 0;
  preemptions = 0;
  get kills(): number {
    return this.#deaths.length;
  }

  constructor(machine: Machine, scenario: Scenario<S>, sites: readonly Site[], merge: boolean) {
    this.#machine = machine;
    this.#scenario = scenario;
    this.#sites = sites;
    const { workers } = scenario;
    this.#reporter = scenario.reporter ?? (scenario.onKilled === undefined ? -1 : workers.length);
    this.#operations = this.#reporter === workers.length ? [...workers, []] : workers;
    if (this.#operations.length > MAX_WORKERS) throw new RangeError(`at most ${String(MAX_WORKERS)} workers`);
    const mortal = scenario.mortal ?? workers.map((_, worker) => worker).filter((worker) => worker !== this.#reporter);
    this.#mortal = mortal.reduce((bits, worker) => bits | (1 << worker), 0);
    this.#fingerprint = merge ? new Fingerprint(this.#operations.length) : null;
  }

  begin(): void {
    const workers = this.#operations.length;
    this.#machine.reset(workers, this.#fingerprint);
    this.steps = 0;
    this.preemptions = 0;
    this.#current = -1;
    this.#deaths = [];
    this.#reported = 0;
    this.#state = this.#machine.run(this.#scenario.setup()) as S;
    this.#fingerprint?.begin();
    for (let worker = 0; worker < workers; worker++) {
      this.#threads[worker] = this.#body(worker);
      this.#at[worker] = -1;
      this.#stepsOf[worker] = 0;
    }
    // A reporter without operations is not scheduled before a death.
    if (this.#reporter >= this.#scenario.workers.length) this.#machine.status[this.#reporter] = RESTING;
  }

  *#body(worker: number): Generator<number, void> {
    const machine = this.#machine;
    const reports = worker === this.#reporter;
    // Instrumented, it may return a generator.
    const operations: readonly ((state: S, worker: number) => unknown)[] = this.#operations[worker]!;
    for (const operation of operations) {
      if (reports) yield* this.#report();
      const thread = operation(this.#state, worker);
      if (machine.isGenerator(thread)) yield* thread;
    }
    while (reports) {
      yield* this.#report();
      yield IDLE;
    }
  }

  *#report(): Generator<number, void> {
    const { onKilled }: { readonly onKilled?: (state: S, dead: number) => unknown } = this.#scenario;
    while (this.#reported < this.#deaths.length) {
      const thread = onKilled?.(this.#state, this.#deaths[this.#reported++]!);
      if (this.#machine.isGenerator(thread)) yield* thread;
    }
  }

  // ---- possible actions

  /** Fills in the possible next actions, the least deviating one first; returns their number. 0: the run is over. */
  options(bounds: Bounds, into: Action[]): number {
    const { status } = this.#machine;
    const current = this.#current;
    const goesOn = current >= 0 && status[current] === READY;
    const mayPreempt = this.preemptions < bounds.preemptions;
    let count = 0;
    if (goesOn) into[count++] = current;
    if (!goesOn || mayPreempt) {
      for (let worker = 0; worker < status.length; worker++) {
        if (worker !== current && status[worker] === READY) into[count++] = worker;
      }
    }
    if (count === 0) count = this.#timeOuts(this.#earliest(), into, 0);
    else if (bounds.timeOuts === 'any' && (!goesOn || mayPreempt)) count = this.#timeOuts(Infinity, into, count);
    if (this.#deaths.length < bounds.kills) {
      let candidates = this.#machine.woken & this.#mortal;
      if (goesOn || (current >= 0 && status[current] === BLOCKED)) candidates |= this.#mortal & (1 << current);
      for (let worker = 0; candidates >>> worker !== 0; worker++) {
        if (((candidates >>> worker) & 1) !== 0) into[count++] = worker + KILL;
      }
    }
    return count;
  }

  #earliest(): number {
    let earliest = Number.MAX_VALUE;
    for (let worker = 0; worker < this.#threads.length; worker++) {
      if (this.#machine.status[worker] !== BLOCKED) continue;
      earliest = Math.min(earliest, this.#machine.deadline(worker));
    }
    return earliest;
  }

  /** The workers whose wait can time out, up to a moment. */
  #timeOuts(until: number, into: Action[], count: number): number {
    let all = count;
    for (let worker = 0; worker < this.#threads.length; worker++) {
      if (this.#machine.status[worker] !== BLOCKED) continue;
      const deadline = this.#machine.deadline(worker);
      if (deadline <= until && deadline < Infinity) into[all++] = worker + TIME_OUT;
    }
    return all;
  }

  // ---- actions

  perform(action: Action): void {
    const worker = workerOf(action);
    const machine = this.#machine;
    const { status } = machine;
    const current = this.#current;
    if (action >= TIME_OUT) {
      this.#require(status[worker] === BLOCKED && machine.deadline(worker) < Infinity, worker, 'wait with a time-out');
      if (current >= 0 && status[current] === READY) this.preemptions++;
      machine.clock = Math.max(machine.clock, machine.deadline(worker));
      machine.wake(worker, 'timed-out');
      this.#current = worker;
      return;
    }
    if (action >= KILL) {
      this.#require(status[worker] === READY || status[worker] === BLOCKED, worker, 'live');
      machine.forget(worker);
      machine.woken &= ~(1 << worker);
      this.#deaths.push(worker);
      if (this.#reporter >= 0 && status[this.#reporter] === RESTING) status[this.#reporter] = READY;
      return;
    }
    this.#require(status[worker] === READY, worker, 'be able to run');
    if (worker !== current && current >= 0 && status[current] === READY) this.preemptions++;
    this.#current = worker;
    this.steps++;
    this.#stepsOf[worker]!++;
    machine.woken = 0;
    machine.current = worker;
    try {
      const next = this.#threads[worker]!.next();
      if (next.done === true) status[worker] = DONE;
      else if (next.value === IDLE) status[worker] = RESTING;
      else if (next.value !== WAITING) this.#at[worker] = next.value;
      this.#fingerprint?.learn(worker, next.value);
    } finally {
      machine.current = -1;
    }
  }

  #require(holds: boolean, worker: number, what: string): void {
    if (!holds) throw new ScheduleError(`the schedule can't be followed: worker ${String(worker)} does not ${what}`);
  }

  /**
   * Called after {@link options} returned 0: throws if the state is wrong, returns a description if workers are stuck.
   */
  verdict(): string | null {
    const { status } = this.#machine;
    const stuck = this.#threads.flatMap((_, worker) =>
      status[worker] === DONE || status[worker] === KILLED || status[worker] === RESTING ? [] : [worker],
    );
    if (stuck.length > 0)
      return stuck.map((worker) => `${this.#machine.describeWait(worker)}, ${this.place(worker)}`).join('; ');
    const { check }: { readonly check: (state: S) => unknown } = this.#scenario;
    this.#machine.run(check(this.#state));
    return null;
  }

  /** The position of a worker. */
  place(worker: number): string {
    const site = this.#sites[this.#at[worker]!];
    return site === undefined ? 'start' : `${site.place}  ${site.text}`;
  }

  // ---- distinguishing states

  /** With budgets spent, schedules branch only when a worker stops: a check every few steps is enough. */
  isMilestone(bounds: Bounds): boolean {
    if (this.preemptions < bounds.preemptions || this.#deaths.length < bounds.kills) return true;
    return this.#current < 0 || (this.#stepsOf[this.#current]! & 3) === 0;
  }

  /** A number for the state, without the spent part of the bounds. */
  fingerprint(): number {
    let extra = Math.imul(this.#machine.hash(), 31) + this.#current;
    for (const worker of this.#deaths) extra = Math.imul(extra, 37) + worker + 1;
    extra = Math.imul(extra, 41) + this.#reported;
    const { fingerprint } = this.#scenario;
    if (fingerprint !== undefined) extra = Math.imul(extra, 43) + Number(this.#machine.run(fingerprint(this.#state)));
    return this.#fingerprint!.value(extra | 0);
  }
}
