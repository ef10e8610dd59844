/** The QEMU Machine Protocol: commands and events as lines of JSON (docs/interop/qmp-spec in QEMU's documentation). */
import type { Duplex } from 'node:stream';
import { DmaArgumentError } from '../errors.ts';
import { QemuError } from './error.ts';
import { readLines } from './lines.ts';
import { isRecord, type PeerEvents, quote } from './peer.ts';

/** Maximum characters of a line. The longest known reply, to query-qmp-schema, has 0.3 million. */
export const MAX_QMP_LINE: number = 16 * 1024 * 1024;

/** QEMU's version. */
export interface QemuVersion {
  readonly major: number;
  readonly minor: number;
}

interface Pending {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

/** Events that the client reports to its machine. */
export interface QmpEvents extends PeerEvents {
  readonly onEvent: (name: string, data: Readonly<Record<string, unknown>>) => void;
}

export class QmpClient {
  readonly #stream: Duplex;
  readonly #timeout: number;
  readonly #events: QmpEvents;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #ended: Error | null = null;
  #greet: ((version: QemuVersion) => void) | null = null;
  /** QEMU's version, once it accepts commands. Never rejects: `end` has the error. */
  readonly greeted: Promise<QemuVersion>;

  /** @param timeout Milliseconds for the reply to a command. */
  constructor(stream: Duplex, timeout: number, events: QmpEvents) {
    this.#stream = stream;
    this.#timeout = timeout;
    this.#events = events;
    this.greeted = new Promise((resolve) => {
      this.#greet = resolve;
    });
    readLines(stream, 'utf8', MAX_QMP_LINE, {
      onLine: (line) => {
        if (line !== '') this.#receive(line);
      },
      onTooLong: () => {
        this.#break(`a line exceeds ${String(MAX_QMP_LINE)} characters`);
      },
      onClosed: () => {
        events.onClosed();
      },
    });
  }

  /**
   * Runs a command. Rejects with `ERR_DMAPOOL_QEMU_COMMAND` and QEMU's description when it fails.
   *
   * @param timeout Milliseconds for the reply, for slow commands.
   */
  execute(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    timeout: number = this.#timeout,
  ): Promise<unknown> {
    if (this.#ended !== null) return Promise.reject(this.#ended);
    const id = this.#nextId++;
    let line: string;
    try {
      line = JSON.stringify({ execute: command, arguments: args, id });
    } catch (error) {
      const expected = `values that JSON can represent (${(error as Error).message})`;
      return Promise.reject(new DmaArgumentError('args', args, expected));
    }
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#events.onHang(`no reply to ${command} within ${String(timeout)} ms`);
      }, timeout);
      this.#pending.set(id, { command, resolve, reject, timer });
      this.#stream.write(`${line}\n`);
    });
  }

  /**
   * Runs a command and parses its reply. An invalid reply is a protocol violation.
   *
   * @param parse Returns undefined for an invalid reply.
   */
  async query<T>(
    command: string,
    args: Readonly<Record<string, unknown>>,
    parse: (reply: unknown) => T | undefined,
  ): Promise<T> {
    const reply = parse(await this.execute(command, args));
    if (reply === undefined) throw this.#break(`invalid reply to ${command}`);
    return reply;
  }

  /** Stops sending and rejects all pending commands. */
  end(error: Error): void {
    if (this.#ended !== null) return;
    this.#ended = error;
    for (const { reject, timer } of this.#pending.values()) {
      clearTimeout(timer);
      reject(error);
    }
    this.#pending.clear();
    this.#stream.destroy();
  }

  #receive(line: string): void {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch {
      // Reported below: `message` stays undefined.
    }
    if (!isRecord(message)) this.#break(`not a JSON object: ${quote(line)}`);
    else if (message['QMP'] !== undefined) this.#greeting(message['QMP'], line);
    else if (message['event'] !== undefined) this.#event(message, line);
    else this.#reply(message, line);
  }

  #greeting(greeting: unknown, line: string): void {
    const version = isRecord(greeting) && isRecord(greeting['version']) ? greeting['version']['qemu'] : undefined;
    const { major, minor } = isRecord(version) ? version : {};
    if (this.#greet === null || !Number.isSafeInteger(major) || !Number.isSafeInteger(minor)) {
      this.#break(`invalid greeting: ${quote(line)}`);
      return;
    }
    this.#greet({ major: major as number, minor: minor as number });
    this.#greet = null;
  }

  #event({ event, data = {} }: Readonly<Record<string, unknown>>, line: string): void {
    if (typeof event !== 'string' || !isRecord(data)) this.#break(`invalid event: ${quote(line)}`);
    else this.#events.onEvent(event, data);
  }

  #reply(message: Readonly<Record<string, unknown>>, line: string): void {
    const { id, error } = message;
    const pending = typeof id === 'number' ? this.#pending.get(id) : undefined;
    const failed = isRecord(error) && typeof error['desc'] === 'string';
    if (pending === undefined || failed === Object.hasOwn(message, 'return')) {
      this.#break(`reply to no command: ${quote(line)}`);
      return;
    }
    this.#pending.delete(id as number);
    clearTimeout(pending.timer);
    if (failed) {
      const description = String(error['desc']);
      pending.reject(new QemuError('ERR_DMAPOOL_QEMU_COMMAND', `${pending.command} failed`, description));
    } else {
      pending.resolve(message['return']);
    }
  }

  /** Handles a protocol violation. Returns the error that rejects all pending commands. */
  #break(what: string): Error {
    const message = `protocol violation on QMP: ${what}`;
    this.#events.onBroken(message);
    this.end(new QemuError('ERR_DMAPOOL_QEMU_PROTOCOL', message));
    return this.#ended!;
  }
}
