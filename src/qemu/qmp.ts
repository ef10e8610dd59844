/** The QEMU Machine Protocol: commands and events as lines of JSON (docs/interop/qmp-spec in QEMU's documentation). */
import type { Duplex } from 'node:stream';
import { DmaArgumentError } from '../errors.ts';
import { QemuError } from './error.ts';
import { readLines } from './lines.ts';
import { isRecord, type PeerEvents, quote } from './peer.ts';

/** The most characters of a line: QEMU's description of its whole protocol, the longest answer known, has 0.3 million. */
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

/** What the client tells its machine. */
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
  /** QEMU's version, once it is ready for commands. Never rejects: who ends the client knows why. */
  readonly greeted: Promise<QemuVersion>;

  /** @param timeout Milliseconds for the answer to a command. */
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
        this.#break(`a line of more than ${String(MAX_QMP_LINE)} characters`);
      },
      onClosed: () => {
        events.onClosed();
      },
    });
  }

  /**
   * Runs a command. Rejects with `ERR_DMAPOOL_QEMU_COMMAND` and QEMU's own words when it fails.
   *
   * @param timeout Milliseconds for the answer, of a command that may take longer than others.
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
      const expected = `values that go as JSON (${(error as Error).message})`;
      return Promise.reject(new DmaArgumentError('args', args, expected));
    }
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#events.onHang(`no answer to ${command} within ${String(timeout)} ms`);
      }, timeout);
      this.#pending.set(id, { command, resolve, reject, timer });
      this.#stream.write(`${line}\n`);
    });
  }

  /**
   * Runs a command whose answer is read here. An answer that is none breaks the protocol.
   *
   * @param read Returns undefined for what can't be the answer.
   */
  async query<T>(
    command: string,
    args: Readonly<Record<string, unknown>>,
    read: (answer: unknown) => T | undefined,
  ): Promise<T> {
    const answer = read(await this.execute(command, args));
    if (answer === undefined) throw this.#break(`an answer to ${command} that is not as its reference has it`);
    return answer;
  }

  /** Nothing is sent any more; all that waits is rejected. */
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
      // What it is then, is said below.
    }
    if (!isRecord(message)) this.#break(`what is no object of JSON, ${quote(line)}`);
    else if (message['QMP'] !== undefined) this.#greeting(message['QMP'], line);
    else if (message['event'] !== undefined) this.#event(message, line);
    else this.#answer(message, line);
  }

  #greeting(greeting: unknown, line: string): void {
    const version = isRecord(greeting) && isRecord(greeting['version']) ? greeting['version']['qemu'] : undefined;
    const { major, minor } = isRecord(version) ? version : {};
    if (this.#greet === null || !Number.isSafeInteger(major) || !Number.isSafeInteger(minor)) {
      this.#break(`a greeting that is none, ${quote(line)}`);
      return;
    }
    this.#greet({ major: major as number, minor: minor as number });
    this.#greet = null;
  }

  #event({ event, data = {} }: Readonly<Record<string, unknown>>, line: string): void {
    if (typeof event !== 'string' || !isRecord(data)) this.#break(`an event that is none, ${quote(line)}`);
    else this.#events.onEvent(event, data);
  }

  #answer(message: Readonly<Record<string, unknown>>, line: string): void {
    const { id, error } = message;
    const pending = typeof id === 'number' ? this.#pending.get(id) : undefined;
    const failed = isRecord(error) && typeof error['desc'] === 'string';
    if (pending === undefined || failed === Object.hasOwn(message, 'return')) {
      this.#break(`what answers no command, ${quote(line)}`);
      return;
    }
    this.#pending.delete(id as number);
    clearTimeout(pending.timer);
    if (failed) {
      const words = String(error['desc']);
      pending.reject(new QemuError('ERR_DMAPOOL_QEMU_COMMAND', `${pending.command} failed`, words));
    } else {
      pending.resolve(message['return']);
    }
  }

  /** QEMU broke the protocol. Returns what everything that waits is rejected with. */
  #break(what: string): Error {
    const message = `it said on QMP ${what}`;
    this.#events.onBroken(message);
    this.end(new QemuError('ERR_DMAPOOL_QEMU_PROTOCOL', message));
    return this.#ended!;
  }
}
