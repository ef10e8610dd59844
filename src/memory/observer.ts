/**
 * The hook that `dmapool/observe` plugs into. Nothing is plugged in until that part is imported; a device, a pool or an
 * event then costs one comparison, and none of them is on the hot path.
 */

/** What an observer is told of. */
export type ObservedEvent = 'page' | 'exhausted' | 'corrupted' | 'leak' | 'worker-exit';

/** What is plugged in. It must not throw. */
export interface Observer {
  /** A device was made, or a pool, or a pool's backend was replaced. */
  made(what: object): void;
  /**
   * Something happened. Called where user code may run: all state is settled.
   *
   * @param backend The backend of the pool.
   * @param details For `page`, its slot, `-1 - slot` when it was given back, or null if that is not known; for `exhausted`, the refusal; for
   *   `corrupted`, the block's index; for `leak`, how many blocks; for `worker-exit`, the exit.
   */
  event(name: ObservedEvent, backend: object, details: unknown): void;
  /** A call waits for a block of this backend. The function is called once, when the wait ended. */
  waiting(backend: object): () => void;
}

/** What is plugged in, if anything. */
export let observer: Observer | undefined;

/** Plugs an observer in. */
export function plugObserver(plugged: Observer): void {
  observer = plugged;
}
