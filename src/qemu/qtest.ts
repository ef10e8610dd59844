/**
 * The qtest protocol of QEMU: lines of text by which a test does what a processor would.
 *
 *     writel 0xfebf0014 0x460001   ->          posted: nobody waits for its answer
 *     readl 0xfebf001c             ->
 *                                  <-  OK      answers come in the order of the commands
 *                                  <-  IRQ raise 10         at any time
 *                                  <-  OK 0x1
 */
import type { Duplex } from 'node:stream';
import { QemuError } from './error.ts';
import { readLines } from './lines.ts';
import { type PeerEvents, quote } from './peer.ts';

/** The most characters of a line: the longest answer is that to `b64read` of 1 MiB, with 4 characters for 3 bytes. */
export const MAX_QTEST_LINE: number = 2 * 1024 * 1024;
/** Inputs of the I/O APIC, whose changes are told (Intel 82093AA data sheet, 1.0). */
const INTERRUPT_LINES = 24;

interface Expected {
  readonly command: string;
  readonly resolve: (answer: string) => void;
  readonly reject: (error: Error) => void;
}

interface Flush {
  /** Number of the answer that it waits for. */
  readonly at: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** Marks a posted command among the expected answers. */
const POSTED = null;
/** From this many answered entries on, the queue is cut. */
const COMPACT = 1024;

/** What the client tells its machine. */
export interface QtestEvents extends PeerEvents {
  /** An interrupt line changed. */
  readonly onIrq: (line: number, raised: boolean) => void;
}

export class QtestClient {
  readonly #stream: Duplex;
  readonly #timeout: number;
  readonly #events: QtestEvents;
  #queue: (Expected | typeof POSTED)[] = [];
  #head = 0;
  #sent = 0;
  #answered = 0;
  #flushes: Flush[] = [];
  /** The first failure of a posted command, until an awaited call tells of it. */
  #postedError: Error | null = null;
  #ended: Error | null = null;
  /** How many know that QEMU is busy with something else. */
  #patient = 0;
  #timer: NodeJS.Timeout | undefined;

  /** @param timeout Milliseconds without an answer after which QEMU hangs. */
  constructor(stream: Duplex, timeout: number, events: QtestEvents) {
    this.#stream = stream;
    this.#timeout = timeout;
    this.#events = events;
    readLines(stream, 'latin1', MAX_QTEST_LINE, {
      onLine: (line) => {
        this.#receive(line);
      },
      onTooLong: () => {
        this.#break(`a line of more than ${String(MAX_QTEST_LINE)} characters`);
      },
      onClosed: () => {
        events.onClosed();
      },
    });
  }

  /** Sends a command whose answer nobody waits for. It is on its way when this returns. */
  post(command: string): void {
    // As on hardware, a write to what is not there vanishes; the next awaited call says so.
    if (this.#ended !== null) return;
    this.#send(command, POSTED);
  }

  /** Sends a command and resolves to its answer without the `OK`. Rejects also with what a posted command failed with. */
  call(command: string): Promise<string> {
    if (this.#ended !== null) return Promise.reject(this.#ended);
    return new Promise((resolve, reject) => {
      this.#send(command, { command, resolve, reject });
    });
  }

  /**
   * Sends a command whose answer is read here. An answer that is none breaks the protocol.
   *
   * @param read Returns undefined for what can't be the answer.
   */
  async query<T>(command: string, read: (answer: string) => T | undefined): Promise<T> {
    const answer = await this.call(command);
    const value = read(answer);
    if (value === undefined) throw this.#break(`${quote(answer)} in answer to ${command}`);
    return value;
  }

  /** Resolves when all commands sent so far were answered. */
  async flush(): Promise<void> {
    if (this.#ended !== null) throw this.#ended;
    if (this.#answered < this.#sent) {
      await new Promise<void>((resolve, reject) => {
        this.#flushes.push({ at: this.#sent, resolve, reject });
      });
    }
    this.#throwPosted();
  }

  /** Runs an action during which QEMU may not answer for long, and is not taken for hung. */
  async withPatience<T>(action: () => Promise<T>): Promise<T> {
    this.#patient++;
    try {
      return await action();
    } finally {
      this.#patient--;
    }
  }

  /** Nothing is sent any more; all that waits is rejected. */
  end(error: Error): void {
    if (this.#ended !== null) return;
    this.#ended = error;
    clearTimeout(this.#timer);
    const waiting = this.#queue.slice(this.#head);
    this.#queue = [];
    this.#head = 0;
    for (const expected of waiting) expected?.reject(error);
    for (const flush of this.#flushes.splice(0)) flush.reject(error);
    this.#stream.destroy();
  }

  #send(command: string, expected: Expected | typeof POSTED): void {
    this.#queue.push(expected);
    this.#sent++;
    if (this.#timer === undefined) this.#watch();
    this.#stream.write(`${command}\n`, 'latin1');
  }

  /** Looks now and then whether answers come, as long as some are missing. */
  #watch(): void {
    const seen = this.#answered;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#ended !== null || this.#answered === this.#sent) return;
      if (this.#answered > seen || this.#patient > 0) {
        this.#watch();
        return;
      }
      const oldest = this.#queue[this.#head]?.command ?? 'a posted write';
      this.#events.onHang(`no answer to ${oldest} within ${String(this.#timeout)} ms`);
    }, this.#timeout);
  }

  #receive(line: string): void {
    const irq = /^IRQ (raise|lower) (\d{1,2})$/.exec(line);
    if (irq !== null && Number(irq[2]) < INTERRUPT_LINES) {
      this.#events.onIrq(Number(irq[2]), irq[1] === 'raise');
      return;
    }
    const word = /^(OK|FAIL|ERR)(?: |$)/.exec(line)?.[1];
    // An answer to no command: those to come would go to the wrong commands.
    if (word === undefined || this.#answered === this.#sent) {
      this.#break(`what answers no command, ${quote(line)}`);
      return;
    }
    const expected = this.#queue[this.#head]!;
    this.#queue[this.#head++] = POSTED;
    if (this.#head === this.#queue.length || this.#head >= COMPACT) {
      this.#queue.splice(0, this.#head);
      this.#head = 0;
    }
    this.#answered++;
    const failure = word === 'OK' ? null : this.#failure(expected, line);
    if (expected === POSTED) {
      this.#postedError ??= failure;
    } else if (failure !== null) {
      expected.reject(failure);
    } else {
      try {
        this.#throwPosted();
        expected.resolve(line.slice(3));
      } catch (error) {
        expected.reject(error as Error);
      }
    }
    while (this.#flushes.length > 0 && this.#flushes[0]!.at <= this.#answered) this.#flushes.shift()!.resolve();
  }

  #failure(expected: Expected | typeof POSTED, line: string): QemuError {
    return new QemuError('ERR_DMAPOOL_QEMU_COMMAND', `qtest refused ${expected?.command ?? 'a posted write'}`, line);
  }

  /** QEMU broke the protocol. Returns what everything that waits is rejected with. */
  #break(what: string): Error {
    const message = `it said on qtest ${what}`;
    this.#events.onBroken(message);
    this.end(new QemuError('ERR_DMAPOOL_QEMU_PROTOCOL', message));
    return this.#ended!;
  }

  #throwPosted(): void {
    const error = this.#postedError;
    this.#postedError = null;
    if (error !== null) throw error;
  }
}
