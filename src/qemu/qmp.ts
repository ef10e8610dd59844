/** The QEMU Machine Protocol: commands and events as lines of JSON (docs/interop/qmp-spec in QEMU's documentation). */
import type { Duplex } from 'node:stream';
import { DmaArgumentError } from '../errors.ts';
import { QemuError } from './error.ts';
import { LineSplitter } from './lines.ts';

/** What QMP greets with. */
interface Greeting {
  readonly QMP: { readonly version: { readonly qemu: { readonly major: number; readonly minor: number } } };
}

interface Message {
  readonly QMP?: unknown;
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
  readonly id?: number;
  readonly event?: string;
  readonly data?: Record<string, unknown>;
}

interface Pending {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

/** What the client tells its machine. */
export interface QmpEvents {
  readonly onEvent: (name: string, data: Record<string, unknown>) => void;
  readonly onHang: (message: string) => void;
}

export class QmpClient {
  readonly #stream: Duplex;
  readonly #timeout: number;
  readonly #events: QmpEvents;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #ended: Error | null = null;
  /** QEMU's version, once it is ready for commands. Never rejects: who ends the client knows why. */
  readonly greeted: Promise<{ readonly major: number; readonly minor: number }>;

  /** @param timeout Milliseconds for the answer to a command. */
  constructor(stream: Duplex, timeout: number, events: QmpEvents) {
    this.#stream = stream;
    this.#timeout = timeout;
    this.#events = events;
    let greet: (message: Message) => void;
    this.greeted = new Promise((resolve) => {
      greet = (message) => {
        resolve((message as unknown as Greeting).QMP.version.qemu);
      };
    });
    const lines = new LineSplitter((line) => {
      if (line === '') return;
      const message = JSON.parse(line) as Message;
      if (message.QMP !== undefined) greet(message);
      else this.#receive(message);
    });
    stream.setEncoding('utf8');
    stream.on('data', (chunk: string) => {
      lines.push(chunk);
    });
    stream.on('error', () => undefined);
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

  #receive(message: Message): void {
    if (message.event !== undefined) {
      this.#events.onEvent(message.event, message.data ?? {});
      return;
    }
    const pending = this.#pending.get(message.id ?? 0);
    if (pending === undefined) return;
    this.#pending.delete(message.id!);
    clearTimeout(pending.timer);
    if (message.error === undefined) {
      pending.resolve(message.return);
    } else {
      const text = `${pending.command} failed`;
      pending.reject(new QemuError('ERR_DMAPOOL_QEMU_COMMAND', text, message.error.desc));
    }
  }
}
