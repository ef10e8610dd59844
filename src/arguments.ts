/**
 * dmapool/arguments: the argument checks of this package, for drivers, memory sources and PCI backends outside it, so
 * that all of them reject bad arguments with the same messages. Pool users do not need it.
 *
 * @module dmapool/arguments
 * @packageDocumentation
 */
import { describe, DmaArgumentError, DmaError } from './errors.ts';

export { describeThrown, isArray } from './errors.ts';

/** Largest size of a block or allocation: INT_MAX, as in Linux's `dma_pool_create`. @internal */
export const INT_MAX = 0x7fff_ffff;

/**
 * Checks that `value` is a whole number from `low` to `high`, inclusive.
 *
 * @param argument Name of the argument, for the message.
 * @param value Value to check.
 * @param low Smallest accepted value. Default 0.
 * @param high Largest accepted value. Default `Number.MAX_SAFE_INTEGER`.
 * @throws `DmaArgumentError`
 *
 * @example
 * ```ts
 * checkInteger('depth', 64, 1, 1024);
 * ```
 */
export function checkInteger(
  argument: string,
  value: unknown,
  low = 0,
  high: number = Number.MAX_SAFE_INTEGER,
): asserts value is number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < low || value > high) {
    throw new DmaArgumentError(argument, value, `a whole number from ${low} to ${high}`);
  }
}

/**
 * Checks that `value` is an object and not null.
 *
 * @param argument Name of the argument, for the message.
 * @param value Value to check.
 * @param accepted Description of accepted values, for the message.
 * @throws `DmaArgumentError`
 *
 * @example
 * ```ts
 * checkObject('ring', { depth: 64 });
 * ```
 */
export function checkObject(argument: string, value: unknown, accepted = 'an object'): asserts value is object {
  if (typeof value !== 'object' || value === null) throw new DmaArgumentError(argument, value, accepted);
}

/**
 * Checks that `value` is a boolean.
 *
 * @param argument Name of the argument, for the message.
 * @param value Value to check.
 * @throws `DmaArgumentError`
 *
 * @example
 * ```ts
 * checkBoolean('promiscuous', false);
 * ```
 */
export function checkBoolean(argument: string, value: unknown): asserts value is boolean {
  if (typeof value !== 'boolean') throw new DmaArgumentError(argument, value, 'true or false');
}

/**
 * Checks that `value` is a function.
 *
 * @param argument Name of the argument, for the message.
 * @param value Value to check.
 * @throws `DmaArgumentError`
 *
 * @example
 * ```ts
 * checkFunction('onPacket', () => undefined);
 * ```
 */
export function checkFunction(argument: string, value: unknown): void {
  if (typeof value !== 'function') throw new DmaArgumentError(argument, value, 'a function');
}

/**
 * Checks that `value` is an `AbortSignal` or undefined.
 *
 * @param argument Name of the argument, for the message.
 * @param value Value to check.
 * @throws `DmaArgumentError`
 *
 * @example
 * ```ts
 * checkSignal('signal', AbortSignal.timeout(1000));
 * ```
 */
export function checkSignal(argument: string, value: unknown): asserts value is AbortSignal | undefined {
  if (value !== undefined && !isInstance(value, AbortSignal))
    throw new DmaArgumentError(argument, value, 'an AbortSignal');
}

/**
 * Checks that `value` is a `Uint8Array` of `least` to `most` bytes.
 *
 * @param argument Name of the argument, for the message.
 * @param value Value to check.
 * @param least Smallest accepted length, in bytes. Default 0.
 * @param most Largest accepted length, in bytes. Default: no limit.
 * @throws `DmaArgumentError`
 *
 * @example
 * ```ts
 * checkBytes('mac', new Uint8Array(6), 6, 6);
 * ```
 */
export function checkBytes(
  argument: string,
  value: unknown,
  least = 0,
  most: number = Number.POSITIVE_INFINITY,
): asserts value is Uint8Array {
  if (isUint8Array(value) && value.length >= least && value.length <= most) return;
  const count = most === Infinity ? '' : ` of ${least === most ? '' : `${least} to `}${most} bytes`;
  throw new DmaArgumentError(argument, value, `a Uint8Array${count}`);
}

/** True for a genuine `Uint8Array`; false for a proxy. @internal */
export function isUint8Array(value: unknown): value is Uint8Array {
  return ArrayBuffer.isView(value) && value instanceof Uint8Array;
}

/**
 * Returns `value instanceof type`, or false for a revoked proxy, where the operator throws.
 *
 * @param value Value to test.
 * @param type Class to test for.
 *
 * @example
 * ```ts
 * console.log(isInstance(new Map(), Map)); // true
 * ```
 */
export function isInstance<T>(
  value: unknown,
  type: { readonly prototype: T; [Symbol.hasInstance](value: unknown): boolean },
): value is T {
  try {
    return value instanceof type;
  } catch {
    return false;
  }
}

/**
 * Runs `read`, which reads properties of a caller's object. If a getter or proxy trap throws, throws a
 * `DmaArgumentError` with that error as the cause. A `DmaError` passes unchanged.
 *
 * @param argument Name of the argument, for the message.
 * @param value The caller's object.
 * @param accepted Description of accepted values, for the message.
 * @param read Reads the object.
 * @returns The result of `read`.
 * @throws `DmaArgumentError`
 *
 * @example
 * ```ts
 * const target = { name: 'eth0', dmaMask: 0xffff_ffff };
 * const { name } = reading('target', target, 'an object with a name', () => ({ name: target.name }));
 * console.log(name); // eth0
 * ```
 */
export function reading<R>(argument: string, value: unknown, accepted: string, read: () => R): R {
  try {
    return read();
  } catch (error) {
    if (isInstance(error, DmaError)) throw error;
    throw new DmaArgumentError(argument, value, accepted, { cause: error });
  }
}

/**
 * Maps each option name of `T` to true if messages list it, or to false for an undocumented option.
 *
 * @example
 * ```ts
 * const names: OptionNames<{ depth?: number }> = { depth: true };
 * console.log(Object.keys(names)); // [ 'depth' ]
 * ```
 */
export type OptionNames<T> = { readonly [K in keyof T]-?: boolean };

/**
 * Copies an options object into a plain object. Reads each option once, getters included. Omits options whose value is
 * undefined.
 *
 * Rejects names that are not in `names`, inherited names included. Ignores symbols and the names of
 * `Object.prototype`.
 *
 * @param argument Name of the object, for messages.
 * @param given The caller's object.
 * @param names All accepted names.
 * @throws `DmaArgumentError` if `given` is not an object, if it has an unknown option (the message suggests the
 *   nearest name), or if reading it throws (the error is the cause).
 *
 * @example
 * ```ts
 * const { depth = 64 } = readOptions<{ depth?: number }>('options', { depth: 8 }, { depth: true });
 * console.log(depth); // 8
 * ```
 */
export function readOptions<T extends object>(argument: string, given: unknown, names: OptionNames<T>): T {
  checkObject('names', names);
  const known = names as Readonly<Record<string, boolean>>;
  // The list of names is built for a message only: drivers read options for each request.
  if (typeof given !== 'object' || given === null) throw new DmaArgumentError(argument, given, acceptedOptions(known));
  try {
    for (const name in given) {
      // `in` also accepts the names of Object.prototype.
      if (!(name in known)) throw unknownOption(argument, given, name, documented(known));
    }
    const read: Record<string, unknown> = {};
    for (const name in known) {
      const value = (given as Readonly<Record<string, unknown>>)[name];
      if (value !== undefined) read[name] = value;
    }
    return read as T;
  } catch (error) {
    return reading(argument, given, acceptedOptions(known), () => {
      throw error;
    });
  }
}

function acceptedOptions(known: Readonly<Record<string, boolean>>): string {
  return `an object with ${documented(known)}`;
}

function documented(known: Readonly<Record<string, boolean>>): string {
  return Object.keys(known)
    .filter((name) => known[name])
    .join(', ');
}

function unknownOption(argument: string, given: object, name: string, accepted: string): DmaArgumentError {
  const near = nearest(name.slice(0, 20).toLowerCase(), accepted.split(', '));
  const guess = near === undefined ? ';' : `; did you mean ${near}?`;
  const [path, where] = argument === 'options' ? [name, ''] : [`${argument}.${name}`, ` of ${argument}`];
  const message = `unknown option ${describe(name)}${where}${guess} accepted: ${accepted}`;
  return new DmaArgumentError(path, given, accepted, { message });
}

/** The name with the longest common prefix with `wrong`, if that has at least two characters. */
function nearest(wrong: string, names: readonly string[]): string | undefined {
  if (wrong.length < 2) return undefined;
  return names.find((name) => name.toLowerCase().startsWith(wrong)) ?? nearest(wrong.slice(0, -1), names);
}

/** True for 1, 2, 4, ... up to 2^53. Uses no 32-bit operators, because boundaries may exceed 32 bits. @internal */
export function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(value) && value >= 1 && ceilPowerOfTwo(value) === value;
}

/** Checks that `value` is a string that matches `pattern`. @internal */
export function checkText(
  argument: string,
  value: unknown,
  pattern = /(?:)/,
  accepted = 'a string',
): asserts value is string {
  if (typeof value !== 'string' || !pattern.test(value)) throw new DmaArgumentError(argument, value, accepted);
}

/** Checks that `value` is a power of two from `low` to `high`. `high` must be a power of two. @internal */
export function checkPowerOfTwo(argument: string, value: unknown, low: number, high: number): void {
  if (!isPowerOfTwo(value as number) || (value as number) < low || (value as number) > high) {
    throw new DmaArgumentError(argument, value, `a power of two from ${low} to 2^${Math.log2(high)}`);
  }
}

/** The smallest power of two that is at least `value`. `value` ranges from 1 to 2^53. @internal */
export function ceilPowerOfTwo(value: number): number {
  let power = 1;
  while (power < value) power *= 2;
  return power;
}

/** `value` rounded up to a multiple of `multiple`. @internal */
export function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}

const TypedArray = Object.getPrototypeOf(Int32Array.prototype) as object;
const kindOf = getter(Symbol.toStringTag);
const lengthOf = getter('length');

/** Converts a getter of typed arrays to a function. Engines inline a bound `call`, but not `Reflect.apply`. */
function getter(key: 'length' | typeof Symbol.toStringTag): (array: unknown) => unknown {
  const descriptor = Object.getOwnPropertyDescriptor(TypedArray, key)!;
  // eslint-disable-next-line @typescript-eslint/unbound-method -- Bound to `call`, which passes a receiver.
  return Function.prototype.call.bind(descriptor.get!) as (array: unknown) => unknown;
}

/**
 * Returns the length of a genuine typed array of this kind (0 if its buffer is detached), or -1 for any other value: a
 * proxy, an object with a borrowed prototype, an array of another kind.
 *
 * Runs no code of `value`. Accesses to elements below the returned length run none either, even if a subclass overrides
 * methods.
 * @internal
 */
export function typedArrayLength(kind: 'Int32Array' | 'Float64Array', value: unknown): number {
  return kindOf(value) === kind ? (lengthOf(value) as number) : -1;
}
