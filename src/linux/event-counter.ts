/**
 * An event counter (eventfd(2)) in Node's event loop.
 *
 *     kernel --signal--> counter <--poll, read-- event loop --> listener
 *
 * Node has no function that waits for an eventfd, but its sockets read any descriptor that they hold. So make a socket
 * from a pipe, and let dup3(2) put the counter in the pipe's place before the event loop has polled it. A read then
 * takes 8 bytes and resets the counter. Only Node's own native code calls JavaScript, and no other thread takes part.
 */
import { type OnReadOpts, Socket, type SocketConstructorOpts } from 'node:net';
import { DmaDependencyError } from './error.ts';
import { EFD_CLOEXEC, EFD_NONBLOCK, libc } from './libc.ts';

/** More than the 8 bytes of a read: after a short read, libuv does not read again. */
const BUFFER_SIZE = 16;

export class EventCounter {
  /** The descriptor to signal. */
  readonly fd: number;
  readonly #socket: Socket;
  readonly #listener: () => void;
  #armed = false;
  #reading = true;
  #closed = false;

  /**
   * Makes a counter that is not armed.
   *
   * @param listener Called after events, in a turn of the event loop. Must not throw.
   * @throws {@link SystemCallError} @throws {@link DmaDependencyError} in other runtimes than Node.
   */
  constructor(listener: () => void) {
    if (process.versions['bun'] !== undefined || process.versions['deno'] !== undefined) {
      throw new DmaDependencyError('node', 'VFIO devices need Node.js: other runtimes lack its event loop');
    }
    this.#listener = listener;
    const { descriptor, socket } = socketOf(libc().eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), () => this.#onEvents());
    this.fd = descriptor;
    this.#socket = socket;
    socket.unref();
  }

  /** Reports the next event, also one that came since the last report. Keeps the process alive until then. */
  arm(): void {
    if (this.#armed || this.#closed) return;
    this.#armed = true;
    this.#socket.ref();
    if (this.#reading) return;
    this.#reading = true;
    this.#socket.resume();
  }

  /** Ends the effect of {@link EventCounter.arm}. An event may still be reported once. */
  disarm(): void {
    if (!this.#armed || this.#closed) return;
    this.#armed = false;
    this.#socket.unref();
  }

  /** Resets the counter. Returns true if an event came that was not reported. */
  take(): boolean {
    return !this.#closed && libc().takeEvents(this.fd);
  }

  /** Closes the descriptor. No event is reported any more. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.destroy();
  }

  /**
   * Returns false to stop reading. A busy driver arms the counter again before the next event, so reading goes on
   * without system calls. If it does not, one event is reported, and the others stay in the counter.
   */
  #onEvents(): boolean {
    this.#reading = this.#armed;
    this.disarm();
    this.#listener();
    return this.#reading;
  }
}

/** Moves a counter's descriptor into a socket, which closes it. */
function socketOf(counter: number, callback: () => boolean): { readonly descriptor: number; readonly socket: Socket } {
  const system = libc();
  try {
    const [descriptor, writing] = system.pipe();
    let socket: Socket;
    try {
      // The types lack `onread` here.
      const options: SocketConstructorOpts & { onread: OnReadOpts } = {
        fd: descriptor,
        writable: false,
        onread: { buffer: new Uint8Array(BUFFER_SIZE), callback },
      };
      socket = new Socket(options);
    } catch (error) {
      system.close(descriptor);
      throw error;
    } finally {
      system.close(writing);
    }
    try {
      system.replace(descriptor, counter);
    } catch (error) {
      socket.destroy();
      throw error;
    }
    return { descriptor, socket };
  } finally {
    system.close(counter);
  }
}
