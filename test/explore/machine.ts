/**
 * The simulated machine on which instrumented code runs (named `$` there): memory, waits, the clock. It has one thread,
 * so memory is sequentially consistent. Each operation's last argument is the `yield` before it, and is ignored.
 */
import { SimulationError } from './errors.ts';
import type { AnyArray, Fingerprint } from './fingerprint.ts';
import type { Site } from './sites.ts';

/** Code that is the same for numbers and bigints is written once, for numbers. */
type Cells = Int32Array;

/** The form of instrumented code: it yields sites, or one of the values below. */
export type Thread = Generator<number, unknown>;
/** Yielded instead of a site: the worker waits in `Atomics.wait`. */
export const WAITING = -1;
/** Yielded instead of a site: the reporter has nothing to report. */
export const IDLE = -2;

export const READY = 0;
export const BLOCKED = 1;
export const RESTING = 2;
export const DONE = 3;
export const KILLED = 4;

const generatorPrototype: object = Object.getPrototypeOf(
  Object.getPrototypeOf(
    (function* (): Generator<undefined> {
      yield undefined;
    })(),
  ) as object,
) as object;

export class Machine {
  readonly #sites: readonly Site[];
  /** Keeps fingerprints only on request: they cost as much as everything else. */
  #fingerprint: Fingerprint | null = null;

  /** The running worker; -1 before and after the schedule. */
  current = -1;
  clock = 0;
  status: Int8Array = new Int8Array(0);
  /** Bits of the workers that were woken in this step. */
  woken = 0;
  /** When set, called for every access. */
  trace: ((text: string) => void) | null = null;

  readonly #waitArray: (Cells | null)[] = [];
  readonly #waitIndex: number[] = [];
  readonly #deadline: number[] = [];
  readonly #wakeResult: ('ok' | 'timed-out')[] = [];
  #queue: number[] = [];

  constructor(sites: readonly Site[]) {
    this.#sites = sites;
  }

  /** Before `setup`. */
  reset(workers: number, fingerprint: Fingerprint | null): void {
    this.current = -1;
    this.clock = 0;
    this.woken = 0;
    if (this.status.length !== workers) this.status = new Int8Array(workers);
    this.status.fill(READY);
    this.#queue.length = 0;
    this.#wakeResult.length = 0;
    this.#fingerprint = fingerprint;
    fingerprint?.reset();
  }

  // ---- waits, as the scheduler sees them

  /** The time at which the worker's wait times out. */
  deadline(worker: number): number {
    return this.#deadline[worker]!;
  }

  /** Ends a wait. */
  wake(worker: number, result: 'ok' | 'timed-out'): void {
    this.#queue = this.#queue.filter((other) => other !== worker);
    this.#wakeResult[worker] = result;
    this.#waitArray[worker] = null;
    this.status[worker] = READY;
    this.woken |= 1 << worker;
  }

  /** Removes a killed worker from the queue: a notify goes to others, as it does when a thread ends. */
  forget(worker: number): void {
    this.#queue = this.#queue.filter((other) => other !== worker);
    this.status[worker] = KILLED;
  }

  /** The wait of a worker, for messages. */
  describeWait(worker: number): string {
    return `worker ${String(worker)} waits for index ${String(this.#waitIndex[worker])}`;
  }

  // ---- calls

  isGenerator(value: unknown): value is Thread {
    return (
      typeof value === 'object' && value !== null && Object.prototype.isPrototypeOf.call(generatorPrototype, value)
    );
  }

  /** Runs code outside the schedule to its end. */
  run(value: unknown): unknown {
    if (!this.isGenerator(value)) return value;
    const { value: result, done } = drain(value);
    if (!done) throw new SimulationError('setup, check and code that is not instrumented must not wait');
    return result;
  }

  /** Passes on the result of a call at a place that cannot wait for a generator, after a check that it is none. */
  checked(site: number, value: unknown): unknown {
    if (this.isGenerator(value))
      throw new SimulationError(`${this.#at(site)}: calls a function that yields, unforeseen`);
    return value;
  }

  /** A yield point at an unsupported place: harmless as long as no worker runs. */
  outside(site: number): void {
    if (this.current >= 0) throw new SimulationError(`${this.#at(site)}: a worker can't be interrupted here`);
  }

  /** The same for a call. */
  atOnce(site: number, value: unknown): unknown {
    if (!this.isGenerator(value)) return value;
    this.outside(site);
    return this.run(value);
  }

  /** The same for a function that other code calls. */
  callback(site: number, action: unknown): unknown {
    if (typeof action !== 'function') return action;
    const atOnce = (value: unknown): unknown => this.atOnce(site, value);
    return function (this: unknown, ...args: unknown[]): unknown {
      return atOnce(Reflect.apply(action, this, args));
    };
  }

  #at(site: number): string {
    const { place, text } = this.#sites[site]!;
    return `${place}: ${text}`;
  }

  // ---- plain memory

  get(array: Cells, index: number): unknown {
    const value = array[index];
    this.#fingerprint?.learn(this.current, value);
    return value;
  }

  put(array: Cells, index: number, value: number): number {
    if (this.#fingerprint === null && this.trace === null) return (array[index] = value);
    const before = array[index];
    array[index] = value;
    this.#note(array, index, before);
    return value;
  }

  bulk(array: AnyArray | DataView, method: string, args: unknown[]): unknown {
    const call = (): unknown => {
      const action: unknown = Reflect.get(array, method);
      if (typeof action !== 'function') throw new TypeError(`no ${method}`);
      return Reflect.apply(action, array, args) as unknown;
    };
    if (this.#fingerprint === null && this.trace === null) return call();
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    const before = bytes.slice();
    const result = call();
    const fingerprint = this.#fingerprint;
    if (fingerprint !== null) {
      // Recorded by elements, as single writes are: a fill and equal writes must give the same state.
      const cells = array instanceof DataView ? bytes : array;
      const old =
        array instanceof DataView ? before : (Reflect.construct(cells.constructor, [before.buffer]) as AnyArray);
      for (let index = 0; index < cells.length; index++) {
        fingerprint.change(this.current, cells, index, old[index], cells[index]);
      }
    }
    this.trace?.('');
    return result;
  }

  /** Records that a worker received a typed array from a call. */
  seen(value: unknown): unknown {
    const fingerprint = this.#fingerprint;
    if (fingerprint === null) return value;
    if (Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView))) {
      for (const element of value as unknown as Iterable<unknown>) fingerprint.learn(this.current, element);
    } else {
      fingerprint.learn(this.current, value);
    }
    return value;
  }

  /** Records a new buffer. */
  made(buffer: ArrayBufferLike): ArrayBufferLike {
    this.#fingerprint?.meet(this.current, buffer);
    return buffer;
  }

  #note(array: Cells, index: number, before: unknown, result?: unknown): void {
    const after = array[index];
    const fingerprint = this.#fingerprint;
    if (fingerprint !== null) {
      if (result !== undefined) fingerprint.learn(this.current, result);
      fingerprint.change(this.current, array, index, before, after);
    }
    if (this.trace === null) return;
    const value = before === after ? String(after) : `${String(before)} -> ${String(after)}`;
    this.trace(`[${String(index)}] ${value}`);
  }

  // ---- Atomics: they check their arguments and throw like the originals

  load(array: Cells, index: number): number {
    const value = Atomics.load(array, index);
    if (this.#fingerprint !== null || this.trace !== null) this.#note(array, index, value, value);
    return value;
  }

  store(array: Cells, index: number, value: number): number {
    const before = array[index];
    const result = Atomics.store(array, index, value);
    if (this.#fingerprint !== null || this.trace !== null) this.#note(array, index, before);
    return result;
  }

  compareExchange(array: Cells, index: number, expected: number, value: number): number {
    const before = Atomics.compareExchange(array, index, expected, value);
    if (this.#fingerprint !== null || this.trace !== null) this.#note(array, index, before, before);
    return before;
  }

  exchange(array: Cells, index: number, value: number): number {
    const before = Atomics.exchange(array, index, value);
    if (this.#fingerprint !== null || this.trace !== null) this.#note(array, index, before, before);
    return before;
  }

  add(array: Cells, index: number, value: number): number {
    const before = Atomics.add(array, index, value);
    if (this.#fingerprint !== null || this.trace !== null) this.#note(array, index, before, before);
    return before;
  }

  sub(array: Cells, index: number, value: number): number {
    const before = Atomics.sub(array, index, value);
    if (this.#fingerprint !== null || this.trace !== null) this.#note(array, index, before, before);
    return before;
  }

  and(array: Cells, index: number, value: number): number {
    const before = Atomics.and(array, index, value);
    if (this.#fingerprint !== null || this.trace !== null) this.#note(array, index, before, before);
    return before;
  }

  or(array: Cells, index: number, value: number): number {
    const before = Atomics.or(array, index, value);
    if (this.#fingerprint !== null || this.trace !== null) this.#note(array, index, before, before);
    return before;
  }

  xor(array: Cells, index: number, value: number): number {
    const before = Atomics.xor(array, index, value);
    if (this.#fingerprint !== null || this.trace !== null) this.#note(array, index, before, before);
    return before;
  }

  // ---- waits and time

  /** Called at once, so that the `yield` before it is inside the call's arguments, as for all others. */
  *wait(array: Cells, index: number, expected: number, timeout: number | undefined): Generator<number, string> {
    const worker = this.current;
    if (worker < 0) throw new SimulationError('only workers may wait');
    // Throws for invalid arguments; returns at once in any case.
    const found = Atomics.wait(array, index, expected, 0) === 'not-equal';
    if (this.trace !== null) this.trace(`[${String(index)}] ${String(array[index])}${found ? '' : ', waits'}`);
    this.#fingerprint?.learn(worker, found);
    if (found) return 'not-equal';
    this.#waitArray[worker] = array;
    this.#waitIndex[worker] = index;
    this.#deadline[worker] =
      this.clock + (timeout === undefined || Number.isNaN(timeout) ? Infinity : Math.max(timeout, 0));
    this.#fingerprint?.learn(worker, this.#deadline[worker]);
    this.status[worker] = BLOCKED;
    this.#queue.push(worker);
    yield WAITING;
    const result = this.#wakeResult[worker]!;
    this.#fingerprint?.learn(worker, result);
    return result;
  }

  notify(array: Cells, index: number, count: number | undefined): number {
    Atomics.notify(array, index, 0);
    const most = count ?? Infinity;
    let woken = 0;
    const address = array.byteOffset + index * array.BYTES_PER_ELEMENT;
    for (const worker of [...this.#queue]) {
      if (woken >= most) break;
      const other = this.#waitArray[worker]!;
      if (other.buffer !== array.buffer) continue;
      if (other.byteOffset + this.#waitIndex[worker]! * other.BYTES_PER_ELEMENT !== address) continue;
      this.wake(worker, 'ok');
      woken++;
    }
    this.#fingerprint?.learn(this.current, woken);
    if (this.trace !== null) this.trace(`[${String(index)}] wakes ${String(woken)}`);
    return woken;
  }

  now(): number {
    this.#fingerprint?.learn(this.current, this.clock);
    return this.clock;
  }

  /** The state that scheduling depends on, besides memory and the values that workers read. */
  hash(): number {
    let hash = this.clock | 0;
    // The order of waiters matters: they are woken first come, first served.
    for (const worker of this.#queue) hash = Math.imul(hash, 37) + worker + 1;
    for (let worker = 0; worker < this.status.length; worker++) {
      const late = this.status[worker] === READY && this.#wakeResult[worker] === 'timed-out';
      hash = Math.imul(hash, 31) + this.status[worker]! * 2 + (late ? 1 : 0);
    }
    return Math.imul(hash, 31) + this.woken;
  }
}

function drain(thread: Thread): { value: unknown; done: boolean } {
  for (;;) {
    const next = thread.next();
    if (next.done === true) return { value: next.value, done: true };
    if (next.value < 0) return { value: undefined, done: false };
  }
}
