import { DmaArgumentError } from './errors.ts';

/** The largest size of a block or allocation: INT_MAX, as in Linux's `dma_pool_create`. */
export const INT_MAX = 0x7fff_ffff;

/** Throws unless `value` is a whole number from `low` to `high`, both included. */
export function checkInteger(argument: string, value: unknown, low: number, high: number): asserts value is number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < low || value > high) {
    throw new DmaArgumentError(argument, value, `a whole number from ${String(low)} to ${String(high)}`);
  }
}

/** True for 1, 2, 4, ... up to 2^53. Free of 32-bit operators, so that large boundaries are judged right. */
export function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(value) && value >= 1 && Number.isInteger(Math.log2(value)) && 2 ** Math.log2(value) === value;
}

/** The smallest power of two that is not below `value`; `value` from 1 to 2^53. */
export function ceilPowerOfTwo(value: number): number {
  const power = 2 ** Math.ceil(Math.log2(value));
  // log2 of a number just above a power of two may round down to it.
  return power < value ? power * 2 : power;
}

/** `value` raised to the next multiple of `multiple`. */
export function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}

const TypedArray = Object.getPrototypeOf(Int32Array.prototype) as object;
const kindOf = getter(Symbol.toStringTag);
const lengthOf = getter('length');

/** A getter of typed arrays as a function. Bound, since engines inline that where they do not inline Reflect.apply. */
function getter(key: 'length' | typeof Symbol.toStringTag): (array: unknown) => unknown {
  const descriptor = Object.getOwnPropertyDescriptor(TypedArray, key)!;
  // eslint-disable-next-line @typescript-eslint/unbound-method -- It is bound to call, which gives it a receiver each time.
  return Function.prototype.call.bind(descriptor.get!) as (array: unknown) => unknown;
}

/**
 * The length of a true typed array of this kind, 0 if its buffer is detached; -1 for anything else: a proxy, an object
 * with a borrowed prototype, an array of another kind. Runs no code of the array: reads and writes of its elements below
 * this length run none either, whatever a subclass overrides.
 */
export function typedArrayLength(kind: 'Int32Array' | 'Float64Array', value: unknown): number {
  return kindOf(value) === kind ? (lengthOf(value) as number) : -1;
}
