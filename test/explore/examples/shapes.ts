/** Code of every shape that is instrumented: the original and the instrumented code must have the same results. */

interface Sink {
  add(value: number): number;
  readonly name: string;
}

type Action = (value: number) => number;

export class ArraySink implements Sink {
  readonly name = 'array';
  readonly #cells: Int32Array;
  #next = 0;
  /** An arrow function as a property: `this` is bound. */
  readonly put = (value: number): number => (this.#cells[this.#next++] = value);

  constructor(cells: Int32Array) {
    this.#cells = cells;
  }

  add(value: number, times?: number): number;
  add(value: string): string;
  add(value: number | string, times = 1): number | string {
    if (typeof value === 'string') return value;
    for (let time = 0; time < times; time++) this.put(value + time);
    return this.#next;
  }

  get count(): number {
    return this.#next;
  }

  static sum(cells: Int32Array): number {
    return ArraySink.#fold(cells, cells.length);
  }

  static #fold(cells: Int32Array, length: number): number {
    return length === 0 ? 0 : Atomics.load(cells, length - 1) + ArraySink.#fold(cells, length - 1);
  }
}

/** Never yields, but is called through the same interface. */
class CountingSink implements Sink {
  readonly name = 'counting';
  #count = 0;
  add(): number {
    return ++this.#count;
  }
}

abstract class Base {
  protected readonly cells: Int32Array;
  constructor(cells: Int32Array) {
    this.cells = cells;
  }
  abstract step(): number;
  twice(): number {
    return this.step() + this.step();
  }
  protected bump(by: number): number {
    return (this.cells[0] = this.cells[0]! + by);
  }
}

class Derived extends Base {
  step(): number {
    return super.bump(3);
  }
}

function apply(action: Action, values: readonly number[]): number[] {
  const results: number[] = [];
  for (const value of values) results.push(action(value));
  return results;
}

function maybe(sink: Sink | null, value: number): number | undefined {
  return sink?.add(value);
}

function cleanUp(cells: Int32Array): string {
  try {
    cells[0] = 1;
    throw new RangeError('out');
  } catch (error) {
    cells[0]! += 10;
    return error instanceof RangeError ? `caught ${String(cells[0])}` : 'other';
  } finally {
    cells[1] = cells[0]! * 2;
  }
}

function order(cells: Int32Array): number[] {
  const log: number[] = [];
  const note = (value: number): number => {
    log.push(value);
    Atomics.add(cells, 9, 1);
    return value;
  };
  cells[note(1)] = note(2) + note(3);
  cells[note(4)]! += note(5);
  Atomics.compareExchange(cells, note(6), note(0), note(7));
  log.push(cells[note(1)]!++, ++cells[1]!, cells[1]!--, cells[1]!);
  return log;
}

function* numbers(): Generator<number> {
  yield 1;
  yield 2;
}

const TABLE: { readonly actions: readonly Action[] } = { actions: [(value) => value + 1, (value) => value * 2] };

function describeAll(cells: Int32Array): unknown[] {
  const sink = new ArraySink(cells);
  const big = new BigInt64Array(2);
  const bytes = new Uint8Array(8);
  const derived = new Derived(new Int32Array(1));
  big[0]!++;
  big[1] = big[0]! << 40n;
  bytes.fill(7, 2, 4).set([1, 2], 5);
  new DataView(bytes.buffer).setUint16(0, 0x1234, true);
  const literal: Sink = {
    name: 'literal',
    add: (value) => Atomics.add(cells, 8, value),
  };
  const sinks: readonly Sink[] = [sink, new CountingSink(), literal];
  return [
    sinks.map((each) => each.name),
    sink.add(5, 2),
    sink.add('text'),
    maybe(sink, 4),
    maybe(new CountingSink(), 4),
    maybe(null, 4),
    maybe(literal, 4),
    apply((value) => Atomics.add(cells, 7, value), [1, 2]),
    apply((value) => value + 1, [1, 2]),
    apply(sink.put, [8]),
    sink.count,
    derived.twice(),
    cleanUp(new Int32Array(2)),
    order(new Int32Array(10)),
    [...numbers()],
    TABLE.actions[0]!(4),
    Array.from(big).map(String),
    Array.from(bytes),
    ArraySink.sum(cells),
    Atomics.wait(cells, 0, 12345, 10),
    Atomics.notify(cells, 0),
  ];
}

/** All results, in a form that can be compared. */
export function shapes(): unknown[] {
  const cells = new Int32Array(new SharedArrayBuffer(64));
  return [...describeAll(cells), Array.from(cells)];
}
