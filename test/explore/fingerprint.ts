/**
 * A fingerprint of the state of a simulation, in 53 bits: of the content of the shared arrays, and of all values that
 * each worker has read. A worker is deterministic, so the values that it read determine its position and its variables.
 *
 * Each write updates the fingerprint of the arrays: the cell's old value out, the new one in. A cell is identified by
 * its buffer and offset. Buffers are numbered in order of first use: those of `setup` globally, any other for each
 * worker separately, so that the numbers never depend on the schedule.
 */
/** The data that workers can share. */
export type AnyArray =
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | Float32Array
  | Float64Array
  | BigInt64Array
  | BigUint64Array;

const SEED = { a: 0x9e37_79b9 | 0, b: 0x85eb_ca77 | 0 };
const FACTOR = { a: 0x85eb_ca6b | 0, b: 0xc2b2_ae35 | 0 };

const float = new Float64Array(1);
const bits = new Int32Array(float.buffer);

function mix(hash: number, value: number, factor: number): number {
  const mixed = Math.imul(hash ^ value, factor);
  return Math.imul(mixed ^ (mixed >>> 15), 0x2c1b_3c6d) ^ (mixed >>> 13);
}

/** 32 bits of any primitive value; an object counts as nothing, since reads of its content are hashed separately. */
function bitsOf(value: unknown): number {
  switch (typeof value) {
    case 'number':
      if ((value | 0) === value) return value;
      float[0] = value;
      return Math.imul(bits[0]!, 31) ^ bits[1]!;
    case 'bigint':
      return Number(BigInt.asIntN(32, value)) ^ Math.imul(Number(BigInt.asIntN(32, value >> 32n)), 31);
    case 'string': {
      let hash = value.length;
      for (let at = 0; at < value.length; at++) hash = Math.imul(hash, 31) + value.charCodeAt(at);
      return hash | 0;
    }
    case 'boolean':
      return value ? 0x1234_5679 : 0x2345_6789;
    default:
      return value === undefined ? 0x3456_789b : 0x4567_89ab;
  }
}

export class Fingerprint {
  readonly #workers: number;
  readonly #knownA: Int32Array;
  readonly #knownB: Int32Array;
  #memoryA = 0;
  #memoryB = 0;
  /** Numbers of buffers: those of `setup` are at the last index. */
  readonly #buffers: WeakMap<ArrayBufferLike, number>[] = [];
  readonly #buffersMet: Int32Array;
  #lastArray: AnyArray | null = null;
  #lastWorker = -1;
  #lastBase = 0;

  constructor(workers: number) {
    this.#workers = workers;
    this.#knownA = new Int32Array(workers);
    this.#knownB = new Int32Array(workers);
    this.#buffersMet = new Int32Array(workers + 1);
  }

  /** Before `setup`. */
  reset(): void {
    for (let worker = 0; worker <= this.#workers; worker++) this.#buffers[worker] = new WeakMap();
    this.#buffersMet.fill(0);
    this.#lastArray = null;
  }

  /** After `setup`. */
  begin(): void {
    this.#knownA.fill(SEED.a);
    this.#knownB.fill(SEED.b);
    this.#memoryA = 0;
    this.#memoryB = 0;
  }

  /** Records that a worker read a value. */
  learn(worker: number, value: unknown): void {
    if (worker < 0) return;
    const found = bitsOf(value);
    this.#knownA[worker] = mix(this.#knownA[worker]!, found, FACTOR.a);
    this.#knownB[worker] = mix(this.#knownB[worker]!, found, FACTOR.b);
  }

  /** Numbers a buffer at its first use; worker -1 is `setup`. */
  meet(worker: number, buffer: ArrayBufferLike): number {
    const known =
      this.#buffers[this.#workers]!.get(buffer) ?? (worker < 0 ? undefined : this.#buffers[worker]!.get(buffer));
    if (known !== undefined) return known;
    const namer = worker < 0 ? this.#workers : worker;
    const number = (namer + 1) * 0x0100_0193 + this.#buffersMet[namer]!++ * 0x01f1_23bb;
    this.#buffers[namer]!.set(buffer, number);
    return number;
  }

  /** Records that a cell changed. */
  change(worker: number, array: AnyArray, index: number, before: unknown, after: unknown): void {
    if (worker < 0 || before === after) return;
    if (array !== this.#lastArray || worker !== this.#lastWorker) {
      this.#lastArray = array;
      this.#lastWorker = worker;
      this.#lastBase =
        Math.imul(this.meet(worker, array.buffer), 0x27d4_eb2f) + array.byteOffset * 8 + array.BYTES_PER_ELEMENT;
    }
    const cell = mix(this.#lastBase, index, FACTOR.b);
    const [old, now] = [bitsOf(before), bitsOf(after)];
    this.#memoryA ^= mix(cell, old, FACTOR.a) ^ mix(cell, now, FACTOR.a);
    this.#memoryB ^= mix(cell ^ SEED.b, old, FACTOR.b) ^ mix(cell ^ SEED.b, now, FACTOR.b);
  }

  /** The complete fingerprint; `extra` is further state to distinguish. */
  value(extra: number): number {
    let a = mix(this.#memoryA, extra, FACTOR.a);
    let b = mix(this.#memoryB, extra, FACTOR.b);
    for (let worker = 0; worker < this.#workers; worker++) {
      a = mix(a, this.#knownA[worker]!, FACTOR.a);
      b = mix(b, this.#knownB[worker]!, FACTOR.b);
    }
    return (a >>> 0) * 0x20_0000 + (b >>> 11);
  }
}
