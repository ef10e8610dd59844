/**
 * The qtest protocol of QEMU: lines of text that perform a CPU's accesses.
 *
 *     writel 0xfebf0014 0x460001   ->          posted: no caller waits for the reply
 *     readl 0xfebf001c             ->
 *                                  <-  OK      replies come in the order of the commands
 *                                  <-  IRQ raise 10         at any time
 *                                  <-  OK 0x1
 */
import type { Duplex } from 'node:stream';
import { QemuError } from './error.ts';
import { readLines } from './lines.ts';
import { type PeerEvents, quote } from './peer.ts';

/** Maximum characters of a line. The longest reply, to `b64read` of 1 MiB, has 4 characters for 3 bytes. */
export const MAX_QTEST_LINE: number = 2 * 1024 * 1024;
/** I/O APIC inputs, whose changes QEMU reports (Intel 82093AA data sheet, 1.0). */
const INTERRUPT_LINES = 24;

interface Expected {
  readonly command: string;
  readonly resolve: (reply: string) => void;
  readonly reject: (error: Error) => void;
}

interface Flush {
  /** The count of replies that completes the flush. */
  readonly at: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** Marks a posted command in the queue of expected replies. */
const POSTED = null;
/** Number of answered commands at the start of the queue that triggers its compaction. */
const COMPACT = 1024;

/** Events that the client reports to its machine. */
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
  /** First failure of a posted command, until the next awaited call throws it. */
  #postedError: Error | null = null;
  #ended: Error | null = null;
  /** Number of actions that suspend the timeout. */
  #suspensions = 0;
  #timer: NodeJS.Timeout | undefined;
  /** Only outstanding replies keep this process alive. */
  #isUnreferenced = false;

  /** @param timeout Milliseconds without any reply after which QEMU counts as hung. */
  constructor(stream: Duplex, timeout: number, events: QtestEvents) {
    this.#stream = stream;
    this.#timeout = timeout;
    this.#events = events;
    readLines(stream, 'latin1', MAX_QTEST_LINE, {
      onLine: (line) => {
        this.#receive(line);
      },
      onTooLong: () => {
        this.#break(`a line exceeds ${String(MAX_QTEST_LINE)} characters`);
      },
      onClosed: () => {
        events.onClosed();
      },
    });
  }

  /** Sends a posted command: no caller waits for its reply. */
  post(command: string): void {
    // As on hardware, a write to an absent device has no effect. The next awaited call reports the end.
    if (this.#ended !== null) return;
    this.#send(command, POSTED);
  }

  /** Sends a command and resolves to its reply without the `OK`. Rejects also with the failure of a posted command. */
  call(command: string): Promise<string> {
    if (this.#ended !== null) return Promise.reject(this.#ended);
    return new Promise((resolve, reject) => {
      this.#send(command, { command, resolve, reject });
    });
  }

  /**
   * Sends a command and parses its reply. An invalid reply is a protocol violation.
   *
   * @param parse Returns undefined for an invalid reply.
   */
  async query<T>(command: string, parse: (reply: string) => T | undefined): Promise<T> {
    const reply = await this.call(command);
    const value = parse(reply);
    if (value === undefined) throw this.#break(`reply to ${command}: ${quote(reply)}`);
    return value;
  }

  /** Resolves when all commands sent so far have their replies. */
  async flush(): Promise<void> {
    if (this.#ended !== null) throw this.#ended;
    if (this.#answered < this.#sent) {
      await new Promise<void>((resolve, reject) => {
        this.#flushes.push({ at: this.#sent, resolve, reject });
      });
    }
    this.#throwPosted();
  }

  /** Suspends the timeout during an action that may keep QEMU from replying. */
  async suspendTimeout<T>(action: () => Promise<T>): Promise<T> {
    this.#suspensions++;
    try {
      return await action();
    } finally {
      this.#suspensions--;
    }
  }

  /** From now on this process stays alive for outstanding replies only. */
  unref(): void {
    this.#isUnreferenced = true;
    if (this.#answered === this.#sent) this.#timer?.unref();
  }

  /** Stops sending and rejects all pending commands. */
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
    else if (this.#isUnreferenced) this.#timer.ref();
    this.#stream.write(`${command}\n`, 'latin1');
  }

  /** Checks for progress at intervals while replies are outstanding. */
  #watch(): void {
    const seen = this.#answered;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#ended !== null || this.#answered === this.#sent) return;
      if (this.#answered > seen || this.#suspensions > 0) {
        this.#watch();
        return;
      }
      const oldest = this.#queue[this.#head]?.command ?? 'a posted write';
      this.#events.onHang(`no reply to ${oldest} within ${String(this.#timeout)} ms`);
    }, this.#timeout);
  }

  #receive(line: string): void {
    const irq = /^IRQ (raise|lower) (\d{1,2})$/.exec(line);
    if (irq !== null && Number(irq[2]) < INTERRUPT_LINES) {
      this.#events.onIrq(Number(irq[2]), irq[1] === 'raise');
      return;
    }
    const word = /^(OK|FAIL|ERR)(?: |$)/.exec(line)?.[1];
    // A surplus reply would shift all later ones.
    if (word === undefined || this.#answered === this.#sent) {
      this.#break(`reply to no command: ${quote(line)}`);
      return;
    }
    const expected = this.#queue[this.#head]!;
    this.#queue[this.#head++] = POSTED;
    if (this.#head === this.#queue.length || this.#head >= COMPACT) {
      this.#queue.splice(0, this.#head);
      this.#head = 0;
    }
    this.#answered++;
    if (this.#isUnreferenced && this.#answered === this.#sent) this.#timer?.unref();
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

  /** Handles a protocol violation. Returns the error that rejects all pending commands. */
  #break(what: string): Error {
    const message = `protocol violation on qtest: ${what}`;
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
