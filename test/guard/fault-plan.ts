/**
 * Fault injection into the accesses to a PCI function. Accesses are numbered from 0, so that a history can be repeated with
 * a fault at each access in turn, or with faults at random ones.
 */
import type { Random } from '../support/random.ts';

export type AccessKind =
  | 'config-read'
  | 'config-write'
  | 'raw-read'
  | 'raw-write'
  | 'read'
  | 'write'
  | 'flush'
  | 'rearm'
  | 'interrupts'
  | 'reset'
  | 'settle'
  | 'isolate'
  | 'close';

/**
 * - `slow`: the access is done after `time` milliseconds.
 * - `reject`: the access is not done, and rejects. `reject-late`: it is done, and rejects.
 * - `ones`: a read returns all ones.
 * - `lost`: a write is dropped without an error; a reset resolves with false (unsupported).
 * - `hang`: a reset is pending until the plan ends, and then rejects.
 */
export interface Fault {
  readonly kind: 'slow' | 'reject' | 'reject-late' | 'ones' | 'lost' | 'hang';
  /** Milliseconds, for `slow`. */
  readonly time?: number;
}

export type Decide = (access: AccessKind, number: number) => Fault | null;

/** Faults that each kind of access may have. */
const FAULTS: Readonly<Record<AccessKind, readonly Fault['kind'][]>> = {
  'config-read': ['slow', 'reject', 'ones'],
  'config-write': ['slow', 'reject', 'reject-late', 'lost'],
  'raw-read': ['slow', 'reject', 'ones'],
  'raw-write': ['slow', 'reject', 'reject-late', 'lost'],
  read: ['slow', 'reject', 'ones'],
  write: ['slow', 'reject'],
  flush: ['slow', 'reject'],
  rearm: ['slow', 'reject'],
  interrupts: ['slow', 'reject'],
  reset: ['slow', 'reject', 'reject-late', 'lost', 'hang'],
  settle: ['slow', 'reject'],
  isolate: ['slow', 'reject'],
  close: ['slow', 'reject'],
};

/** Milliseconds of a slow access: below, near and above the time-outs of the driver. */
const TIMES: readonly number[] = [1, 20, 600, 4900, 5100, 20_000];

/** Accesses in the report of a failure. */
const SHOWN = 40;

/** Returns a random fault that the kind of access may have. */
export function randomFault(random: Random, access: AccessKind): Fault {
  const kind = random.pick(FAULTS[access]);
  return kind === 'slow' ? { kind, time: random.pick(TIMES) } : { kind };
}

export class FaultPlan {
  readonly #decide: Decide;
  readonly #actions = new Map<number, (() => void)[]>();
  readonly #shown: string[] = [];
  #accesses = 0;
  #faults = 0;
  #isOver = false;
  #end: () => void = () => undefined;
  /** Resolves when {@link FaultPlan.end} is called. */
  readonly ended = new Promise<void>((resolve) => (this.#end = resolve));

  constructor(decide: Decide = () => null) {
    this.#decide = decide;
  }

  /** Returns a plan with one fault, at access `at`. The caller must choose a fault that this access may have. */
  static single(at: number, fault: Fault): FaultPlan {
    return new FaultPlan((_, number) => (number === at ? fault : null));
  }

  /**
   * Returns a plan with random faults: in a share of all accesses, and sometimes in a run of consecutive ones.
   *
   * @param share 0 to 1.
   */
  static random(random: Random, share: number): FaultPlan {
    let run = 0;
    return new FaultPlan((access) => {
      if (run > 0) run--;
      else if (!random.chance(share)) return null;
      else if (random.chance(0.2)) run = random.below(30);
      return randomFault(random, access);
    });
  }

  /** Number of accesses. */
  get accesses(): number {
    return this.#accesses;
  }

  /** Number of faults. */
  get faults(): number {
    return this.#faults;
  }

  /** The most recent accesses, for the report of a failure. */
  get trace(): readonly string[] {
    return this.#shown;
  }

  /** Registers an action to run just before access `at`, such as a removal or a close. */
  before(at: number, action: () => void): void {
    const actions = this.#actions.get(at) ?? [];
    actions.push(action);
    this.#actions.set(at, actions);
  }

  /** Ends the plan: no more faults or actions; resets that hang reject. */
  end(): void {
    this.#isOver = true;
    this.#end();
  }

  /** Counts an access, runs the actions before it, and returns its fault, if any. */
  next(access: AccessKind, details = ''): Fault | null {
    const number = this.#accesses++;
    if (!this.#isOver) for (const action of this.#actions.get(number) ?? []) action();
    const fault = this.#isOver ? null : this.#decide(access, number);
    if (fault !== null) this.#faults++;
    const what = fault === null ? '' : ` ${fault.kind}${fault.time === undefined ? '' : ` ${String(fault.time)} ms`}`;
    this.#shown.push(`${String(number)} ${access} ${details}${what}`);
    if (this.#shown.length > SHOWN) this.#shown.shift();
    return fault;
  }
}
