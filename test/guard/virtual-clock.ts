/**
 * Virtual time for tests with time-outs. It replaces timers, immediates and clocks of the process. A wait of two minutes
 * takes no real time, a case takes the same steps each time, and a promise that nothing can settle is detected at once.
 */

/** The case does not end: no callback is pending, or a limit was reached. */
export class HangError extends Error {}

export interface ClockLimits {
  /** Milliseconds of virtual time. Default: an hour. */
  readonly time?: number;
  /** Number of callbacks. Default: a million. */
  readonly steps?: number;
}

interface Timer {
  readonly time: number;
  readonly order: number;
  readonly run: () => void;
}

/** Milliseconds that each callback takes, so that a loop which polls the clock ends. */
const STEP_TIME = 0.001;
/** Real turns of the event loop without a pending callback before a case counts as hung. */
const GRACE = 3;

const real = { setTimeout, clearTimeout, setImmediate, clearImmediate, Date: Date.now };

export class VirtualClock {
  #now = 1000;
  #order = 0;
  #steps = 0;
  readonly #timers = new Set<Timer>();
  readonly #immediates = new Set<Timer>();
  /** Called before each callback, for unsolicited actions of devices. */
  onTurn: () => void = () => undefined;

  /** Virtual time in milliseconds. */
  get now(): number {
    return this.#now;
  }

  /** Number of callbacks that ran. */
  get steps(): number {
    return this.#steps;
  }

  /** Number of pending timers and immediates. */
  get pending(): number {
    return this.#timers.size + this.#immediates.size;
  }

  after(milliseconds: number, action: () => void): object {
    const delay = milliseconds >= 1 && milliseconds < 2 ** 31 ? milliseconds : 1;
    return this.#add(this.#timers, this.#now + delay, action);
  }

  soon(action: () => void): object {
    return this.#add(this.#immediates, this.#now, action);
  }

  cancel(handle: unknown): void {
    this.#timers.delete(handle as Timer);
    this.#immediates.delete(handle as Timer);
  }

  #add(to: Set<Timer>, time: number, action: () => void): object {
    const timer = { time, order: this.#order++, run: action };
    to.add(timer);
    return timer;
  }

  /** Runs the next callback. False when there is none. */
  step(): boolean {
    this.#now += STEP_TIME;
    let next: Timer | undefined;
    for (const timer of this.#timers) {
      if (next === undefined || timer.time < next.time || (timer.time === next.time && timer.order < next.order)) {
        next = timer;
      }
    }
    if (next === undefined || next.time > this.#now) next = this.#immediates.values().next().value ?? next;
    if (next === undefined) return false;
    this.cancel(next);
    this.#now = Math.max(this.#now, next.time);
    this.#steps++;
    this.onTurn();
    next.run();
    return true;
  }

  /** Replaces the globals. @returns A function that restores them. */
  install(): () => void {
    const set = (schedule: (action: () => void, time: number) => object) => {
      return (callback: (...args: unknown[]) => void, time?: number, ...args: unknown[]): object =>
        schedule(() => {
          callback(...args);
        }, time ?? 0);
    };
    const cancel = (handle: unknown): void => {
      this.cancel(handle);
    };
    Object.assign(globalThis, {
      setTimeout: set((action, time) => this.after(time, action)),
      clearTimeout: cancel,
      setImmediate: (callback: (...args: unknown[]) => void, ...args: unknown[]): object =>
        this.soon(() => {
          callback(...args);
        }),
      clearImmediate: cancel,
    });
    Object.defineProperty(performance, 'now', { configurable: true, value: () => this.#now });
    Date.now = () => Math.floor(this.#now);
    return () => {
      const { Date: now, ...timers } = real;
      Object.assign(globalThis, timers);
      Reflect.deleteProperty(performance, 'now');
      Date.now = now;
    };
  }
}

const realTurn = (): Promise<void> => new Promise((resolve) => real.setImmediate(resolve));

/**
 * Runs `action` in virtual time until it is settled and no callback is pending. Calls must not overlap.
 *
 * @returns The value of `action`.
 * @throws The error of `action`; {@link HangError} when it, or a callback that it started, does not end.
 */
export async function inVirtualTime<T>(
  action: (clock: VirtualClock) => Promise<T>,
  { time = 3_600_000, steps = 1_000_000 }: ClockLimits = {},
): Promise<T> {
  const clock = new VirtualClock();
  const end = clock.now + time;
  const uninstall = clock.install();
  let outcome: { readonly value: T } | { readonly error: unknown } | null = null;
  const isOver = (): boolean => outcome !== null;
  try {
    action(clock).then(
      (value) => {
        outcome = { value };
      },
      (error: unknown) => {
        outcome = { error };
      },
    );
    for (let idle = 0; ;) {
      // Run all microtasks.
      await realTurn();
      if (clock.now > end || clock.steps > steps) {
        const what = isOver() ? 'the case is over, but callbacks still run' : 'the case does not end';
        throw new HangError(`${what}: after ${String(Math.round(clock.now))} ms and ${String(clock.steps)} steps`);
      }
      if (clock.step()) idle = 0;
      else if (isOver()) break;
      else if (++idle > GRACE) throw new HangError('the case is not over, but no callback is pending');
    }
  } finally {
    uninstall();
  }
  const settled = outcome as unknown as { readonly value: T } | { readonly error: unknown };
  if ('error' in settled) throw settled.error;
  return settled.value;
}
