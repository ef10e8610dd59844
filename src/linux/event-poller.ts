/**
 * Waits for all event counters (eventfd(2)) of this thread with one poll(2).
 *
 *     this thread      watch --------------------------------> listener
 *     libuv's thread         poll(wake, fd, fd, ...) ------>
 *
 * Node has no API to wait for an eventfd. A watched counter holds one thread of libuv's pool (4 by default) and keeps
 * the process alive, so watch a counter only while a caller waits for it.
 */
import { writeSync } from 'node:fs';
import { EFD_CLOEXEC, EFD_NONBLOCK, type Libc, libc, POLLIN } from './libc.ts';

type Listener = () => void;

/** Bytes of a `struct pollfd`: descriptor, requested events, returned events. */
const ENTRY = 8;
/** Maximum milliseconds of one poll(2). It bounds the poll of a terminated thread, which sends no wake-up. */
const TIMEOUT = 500;
const ONE = new Uint8Array(new BigUint64Array([1n]).buffer);

export class EventPoller {
  readonly #libc: Libc;
  readonly #wake: number;
  readonly #watched = new Map<number, Listener>();
  /** Arguments of the current poll. */
  #fds = new DataView(new ArrayBuffer(ENTRY * 16));
  #listeners: (Listener | undefined)[] = [];
  #count = 0;
  #state: 'idle' | 'starting' | 'polling' = 'idle';

  constructor() {
    this.#libc = libc();
    this.#wake = this.#libc.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    // Process exit waits for libuv's threads.
    process.on('exit', () => {
      this.#watched.clear();
      this.#interrupt();
    });
  }

  /** Calls `listener` once, when the counter is not zero. Replaces an earlier listener of the same counter. */
  watch(fd: number, listener: Listener): void {
    this.#watched.set(fd, listener);
    this.#interrupt();
    this.#start();
  }

  /** Removes the listener. The caller may close the descriptor afterwards. */
  unwatch(fd: number): void {
    if (this.#watched.delete(fd)) this.#interrupt();
  }

  #interrupt(): void {
    if (this.#state === 'polling') writeSync(this.#wake, ONE);
  }

  /** Polls in the next turn, so that one poll covers all counters watched in this turn. */
  #start(): void {
    if (this.#state !== 'idle' || this.#watched.size === 0) return;
    this.#state = 'starting';
    setImmediate(() => {
      this.#poll();
    });
  }

  #poll(): void {
    if (this.#watched.size === 0) {
      this.#state = 'idle';
      return;
    }
    const room = (this.#watched.size + 1) * ENTRY;
    if (this.#fds.byteLength < room) this.#fds = new DataView(new ArrayBuffer(room * 2));
    this.#count = 0;
    this.#add(this.#wake, undefined);
    for (const [fd, listener] of this.#watched) this.#add(fd, listener);
    this.#state = 'polling';
    this.#libc.pollAsync(new Uint8Array(this.#fds.buffer), this.#count, TIMEOUT, this.#done);
  }

  #add(fd: number, listener: Listener | undefined): void {
    const at = this.#count * ENTRY;
    this.#fds.setInt32(at, fd, true);
    this.#fds.setUint32(at + 4, POLLIN, true);
    this.#listeners[this.#count++] = listener;
  }

  readonly #done = (): void => {
    this.#state = 'idle';
    if (this.#fds.getUint16(6, true) !== 0) this.#libc.takeEvents(this.#wake);
    for (let i = 1; i < this.#count; i++) {
      const listener = this.#listeners[i];
      this.#listeners[i] = undefined;
      const fd = this.#fds.getInt32(i * ENTRY, true);
      // unwatch() may have removed the listener, and the descriptor may belong to another file by now.
      if (this.#fds.getUint16(i * ENTRY + 6, true) === 0 || this.#watched.get(fd) !== listener) continue;
      this.#watched.delete(fd);
      listener?.();
    }
    this.#start();
  };
}

let poller: EventPoller | undefined;

/** The poller of this thread. @throws {@link DmaDependencyError} @throws {@link SystemCallError} */
export function eventPoller(): EventPoller {
  return (poller ??= new EventPoller());
}
