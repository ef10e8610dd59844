/** Checks of arguments that the drivers have in common. */
import { DmaArgumentError } from 'dmapool';
import { isInstance } from 'dmapool/arguments';
import { PciFunction } from 'dmapool/pci';

/** Throws unless `value` is an open PCI function. */
export function checkFunctionOf(value: unknown): asserts value is PciFunction {
  if (!isInstance(value, PciFunction)) throw new DmaArgumentError('pci', value, 'a PciFunction');
}

/** What the drivers give to their own private constructors, which JavaScript can call. */
export const MAKING: unique symbol = Symbol('making a driver');

/** Throws unless a constructor was called with {@link MAKING}: what it makes is not started. */
export function checkMaking(key: unknown, name: string, instead: string): void {
  if (key !== MAKING) throw new DmaArgumentError(`new ${name}`, key, `${instead} in its place`);
}
