/** Argument checks that the drivers share. */
import { DmaArgumentError } from 'dmapool';
import { isInstance } from 'dmapool/arguments';
import { PciFunction } from 'dmapool/pci';

/** @throws `DmaArgumentError` unless `value` is a `PciFunction`. */
export function checkFunctionOf(value: unknown): asserts value is PciFunction {
  if (!isInstance(value, PciFunction)) throw new DmaArgumentError('pci', value, 'a PciFunction');
}

/**
 * Passed by each driver's `open` to its constructor: `private` does not stop JavaScript from calling the constructor.
 */
export const CONSTRUCTOR_KEY: unique symbol = Symbol('driver constructor');

/**
 * @throws `DmaArgumentError` unless `key` is {@link CONSTRUCTOR_KEY}. A driver that is made by `new` would not be
 *   started.
 */
export function checkConstructorKey(key: unknown, name: string, instead: string): void {
  if (key !== CONSTRUCTOR_KEY) throw new DmaArgumentError(`new ${name}`, key, `${instead} instead`);
}
