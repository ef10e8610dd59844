/**
 * The life of a controller under its driver, from `open` to `close`: one table of states and what leads from each to the next.
 *
 *     state      what goes on                            ready    reset      stop      close     proven   unproven  released
 *     ---------  --------------------------------------  -------  ---------  --------  --------  -------  --------  --------
 *     starting   reset, admin queue, I/O queues          live     stopping   stopping                               closed
 *     live       commands are submitted                           resetting  stopping  closing                      closed
 *     resetting  stopped and started; commands wait      live     stopping   stopping  ending                       closed
 *     ending     the same; it is shut down afterwards    closing  stopping   stopping                               closed
 *     closing    queues deleted, shutdown notification            stopping   stopping                               closed
 *     stopping   its DMA is being stopped for good                                               stopped  stuck     closed
 *     stopped    proven to do no DMA                                                   stopping                     closed
 *     stuck      not proven: it keeps its memory                                       stopping                     closed
 *     closed     memory is released
 *
 * An event that a state has no entry for changes nothing: what it asks for is under way, or over. `reset` asks for a reset
 * because a command is late or the controller reports a fatal error; while it is started, reset or shut down that is no way
 * out. `stop` says that the controller is lost, or that its shutdown is done. `released` comes last, or at any time when the
 * function is closed under the driver.
 *
 * Who submits: in `live` and `resetting` everybody; in `starting`, `ending` and `closing` the driver alone, on the admin queue.
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
  /** What commands are refused with; null while they are taken. The first reason stays. */
  #refusal: Error | null = null;

  get state(): LifeState {
    return this.#state;
  }

  get refusal(): Error | null {
    return this.#refusal;
  }

  /** Refuses commands from now on. */
  refuse(reason: Error): Error {
    return (this.#refusal ??= reason);
  }

  /** @returns The next state; null when the event changes nothing. */
  advance(event: LifeEvent): LifeState | null {
    const next = TRANSITIONS[this.#state][event];
    if (next === undefined) return null;
    this.#state = next;
    return next;
  }

  /** Nothing goes on any more, and only a close can change that. */
  get isOver(): boolean {
    return this.#state === 'stopped' || this.#state === 'stuck' || this.#state === 'closed';
  }
}
