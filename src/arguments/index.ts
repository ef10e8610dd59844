/**
 * dmapool/arguments: the checks of arguments that this package makes, for drivers, memory sources and PCI backends of your
 * own, so that theirs are refused in the same words. Not needed to use pools.
 *
 * @module dmapool/arguments
 * @packageDocumentation
 */
export {
  checkBoolean,
  checkBytes,
  checkFunction,
  checkInteger,
  checkObject,
  checkSignal,
  isInstance,
  type OptionNames,
  reading,
  readOptions,
} from '../arguments.ts';
