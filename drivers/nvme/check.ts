import { DmaArgumentError } from 'dmapool';

/** Throws `DmaArgumentError` unless `value` is a whole number from `low` to `high`. */
export function checkInteger(argument: string, value: unknown, low: number, high: number): asserts value is number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < low || value > high) {
    throw new DmaArgumentError(argument, value, `a whole number from ${String(low)} to ${String(high)}`);
  }
}

/** Throws `DmaArgumentError` unless `value` is an object, as what users pass to be taken apart must be. */
export function checkObject(argument: string, value: unknown): asserts value is object {
  if (typeof value !== 'object' || value === null) throw new DmaArgumentError(argument, value, 'an object');
}
