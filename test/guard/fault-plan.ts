/**
 * What goes wrong at which access of a function: each access has a number, from 0 up, so that a history can be repeated with
 * a fault at every one of them in turn, or with faults at random ones.
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
 * - `slow`: done, after `time` milliseconds.
 * - `reject`: not done, and the caller is told; `reject-late`: done, and the caller is told that it was not.
 * - `ones`: a read gives all ones. `lost`: a write does not arrive, and nobody is told; a reset that the function does not have.
 * - `hang`: a reset that does not end before the plan does, and fails then.
 */
export interface Fault {
  readonly kind: 'slow' | 'reject' | 'reject-late' | 'ones' | 'lost' | 'hang';
  /** Milliseconds, for `slow`. */
  readonly time?: number;
}

export type Decide = (access: AccessKind, number: number) => Fault | null;

/** What may go wrong with an access of a kind. */
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

/** Milliseconds of a slow access: within a step's time, at its end, and beyond it. */
const TIMES: readonly number[] = [1, 20, 600, 4900, 5100, 20_000];

/** Accesses that the report of a failure shows. */
const SHOWN = 40;

/** A fault of a kind that an access may have. */
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
  /** When {@link FaultPlan.end} was called. */
  readonly ended = new Promise<void>((resolve) => (this.#end = resolve));

  constructor(decide: Decide = () => null) {
    this.#decide = decide;
  }

  /** One fault, at access `at`. Whether that access can have it is for the caller to know. */
  static single(at: number, fault: Fault): FaultPlan {
    return new FaultPlan((_, number) => (number === at ? fault : null));
  }

  /**
   * Faults at random: in a share of all accesses, and now and then in all of a run of them.
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

  /** Accesses so far. */
  get accesses(): number {
    return this.#accesses;
  }

  /** Faults so far. */
  get faults(): number {
    return this.#faults;
  }

  /** The last accesses, for the report of a failure. */
  get trace(): readonly string[] {
    return this.#shown;
  }

  /** Has something happen just before access `at`: a removal, a close, an abort. */
  before(at: number, action: () => void): void {
    const actions = this.#actions.get(at) ?? [];
    actions.push(action);
    this.#actions.set(at, actions);
  }

  /** Nothing goes wrong or happens any more, and what hangs fails. */
  end(): void {
    this.#isOver = true;
    this.#end();
  }

  /** The next access: what goes wrong with it. */
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
