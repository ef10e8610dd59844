/**
 * State machine of a controller, from `open` to `close`. Columns are events; entries are next states.
 *
 *     state      activity                         ready    reset      stop      close     proven   unproven  released
 *     ---------  -------------------------------  -------  ---------  --------  --------  -------  --------  --------
 *     starting   reset, admin queue, I/O queues   live     stopping   stopping                               closed
 *     live       commands are submitted                    resetting  stopping  closing                      closed
 *     resetting  stop and restart; commands wait  live     stopping   stopping  ending                       closed
 *     ending     as resetting, then shutdown      closing  stopping   stopping                               closed
 *     closing    queue deletion, then shutdown             stopping   stopping                               closed
 *     stopping   final stop of DMA                                                        stopped  stuck     closed
 *     stopped    none: proven to do no DMA                                      stopping                     closed
 *     stuck      none: no proof, memory is kept                                 stopping                     closed
 *     closed     none: memory is released
 *
 * An event without an entry is ignored: the state handles it already. `reset` occurs when a command timed out or the
 * controller reports a fatal error; during a start, reset or shutdown it stops the controller. `stop` occurs when the
 * controller is lost or its shutdown is complete. `released` comes last, or at any time if the function is closed
 * before the driver.
 *
 * In `live` and `resetting` all commands are accepted. In `starting`, `ending` and `closing` only the driver submits
 * commands, on the admin queue.
 */

export type LifeState =
  'starting' | 'live' | 'resetting' | 'ending' | 'closing' | 'stopping' | 'stopped' | 'stuck' | 'closed';
export type LifeEvent = 'ready' | 'reset' | 'stop' | 'close' | 'proven' | 'unproven' | 'released';

const TRANSITIONS: Readonly<Record<LifeState, Readonly<Partial<Record<LifeEvent, LifeState>>>>> = {
  starting: { ready: 'live', reset: 'stopping', stop: 'stopping', released: 'closed' },
  live: { reset: 'resetting', stop: 'stopping', close: 'closing', released: 'closed' },
  resetting: { ready: 'live', reset: 'stopping', stop: 'stopping', close: 'ending', released: 'closed' },
  ending: { ready: 'closing', reset: 'stopping', stop: 'stopping', released: 'closed' },
  closing: { reset: 'stopping', stop: 'stopping', released: 'closed' },
  stopping: { proven: 'stopped', unproven: 'stuck', released: 'closed' },
  stopped: { close: 'stopping', released: 'closed' },
  stuck: { close: 'stopping', released: 'closed' },
  closed: {},
};

export class LifeCycle {
  #state: LifeState = 'starting';
  /** Error that rejects new commands; null while they are accepted. The first one stays. */
  #refusal: Error | null = null;

  get state(): LifeState {
    return this.#state;
  }

  get refusal(): Error | null {
    return this.#refusal;
  }

  /** Rejects commands from now on. @returns The error that rejects them. */
  refuse(reason: Error): Error {
    return (this.#refusal ??= reason);
  }

  /** @returns The next state; null if the event is ignored. */
  advance(event: LifeEvent): LifeState | null {
    const next = TRANSITIONS[this.#state][event];
    if (next === undefined) return null;
    this.#state = next;
    return next;
  }

  /** No activity runs, and only `close` can start one. */
  get isOver(): boolean {
    return this.#state === 'stopped' || this.#state === 'stuck' || this.#state === 'closed';
  }
}
