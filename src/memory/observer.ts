/**
 * The hook for `dmapool/observe`. Without an observer, each new device or pool and each event costs one comparison, off the
 * hot path.
 */

/** Events of a pool. */
export type ObservedEvent = 'page' | 'exhausted' | 'corrupted' | 'leak' | 'worker-exit';

/** Receives events. Its methods must not throw. */
export interface Observer {
  /** Called for a new device, pool or pool backend. */
  made(what: object): void;
  /**
   * Called for an event, at a point where user code may run and all state is consistent.
   *
   * @param backend The backend of the pool.
   * @param details For `page`, its number, `-1 - number` when it was freed, or null if unknown; for `exhausted`, the refusal;
   *   for `corrupted`, the block's index; for `leak`, the number of blocks; for `worker-exit`, the exit.
   */
  event(name: ObservedEvent, backend: object, details: unknown): void;
  /** Called when a call starts to wait for a block. The caller calls the returned function once, when the wait ends. */
  waiting(backend: object): () => void;
}

/** The observer, if any. */
export let observer: Observer | undefined;

/** Installs an observer. */
export function plugObserver(plugged: Observer): void {
  observer = plugged;
}
