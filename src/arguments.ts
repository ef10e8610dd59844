/**
 * dmapool/arguments: the checks of arguments that this package makes, for drivers, memory sources and PCI backends of your
 * own, so that theirs are refused in the same words. Not needed to use pools.
 *
 * @module dmapool/arguments
 * @packageDocumentation
 */
import { describe, DmaArgumentError, DmaError } from './errors.ts';

export { describeThrown, isArray } from './errors.ts';

/** The largest size of a block or allocation: INT_MAX, as in Linux's `dma_pool_create`. @internal */
export const INT_MAX = 0x7fff_ffff;

/**
 * Throws unless `value` is a whole number from `low` to `high`, both included.
 *
 * @param argument Its name, for the message.
 * @param value What was given.
 * @param low The least that is accepted; default 0.
 * @param high The most that is accepted; default `Number.MAX_SAFE_INTEGER`.
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
 * Throws unless `value` is an object, null apart.
 *
 * @param argument Its name, for the message.
 * @param value What was given.
 * @param accepted What would be accepted, for the message.
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
 * Throws unless `value` is true or false.
 *
 * @param argument Its name, for the message.
 * @param value What was given.
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
 * Throws unless `value` is a function.
 *
 * @param argument Its name, for the message.
 * @param value What was given.
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
 * Throws unless `value` is an `AbortSignal`, or undefined: signals are optional everywhere.
 *
 * @param argument Its name, for the message.
 * @param value What was given.
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
 * Throws unless `value` is a `Uint8Array` of `least` to `most` bytes.
 *
 * @param argument Its name, for the message.
 * @param value What was given.
 * @param least The fewest bytes that are accepted.
 * @param most The most bytes that are accepted.
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
  if (ArrayBuffer.isView(value) && value instanceof Uint8Array && value.length >= least && value.length <= most) return;
  const count = most === Infinity ? '' : ` of ${least === most ? '' : `${least} to `}${most} bytes`;
  throw new DmaArgumentError(argument, value, `a Uint8Array${count}`);
}

/**
 * `value instanceof type`, and false for a revoked proxy, for which the operator throws.
 *
 * @param value What was given.
 * @param type A class.
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
 * Runs `read`, which takes apart what the caller gave. What a getter or proxy of the caller's throws meanwhile becomes a
 * `DmaArgumentError` with it as the cause; a `DmaError` goes on as it is.
 *
 * @param argument Its name, for the message.
 * @param value What was given.
 * @param accepted What would be accepted, for the message.
 * @param read Reads what is wanted of it.
 * @returns What `read` returns.
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
 * The names of the options in `T`, all of them: true for a documented one, false for one that messages leave out.
 *
 * @example
 * ```ts
 * const names: OptionNames<{ depth?: number }> = { depth: true };
 * console.log(Object.keys(names)); // [ 'depth' ]
 * ```
 */
export type OptionNames<T> = { readonly [K in keyof T]-?: boolean };

/**
 * Reads an options object: each name once, getters included, into a plain object. Names that are not in `names` are refused;
 * inherited names count like own ones, symbols and the names that every object has do not count. An option that is
 * undefined is absent.
 *
 * @param argument Name of the object, for messages.
 * @param given What the caller gave.
 * @param names Every name that is accepted.
 * @throws `DmaArgumentError` for what is no object, for an unknown name (with the nearest one), and for an object that
 *   throws when it is read, with what it threw as the cause.
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
  const documented = Object.keys(known).filter((name) => known[name]);
  const accepted = `an object with ${documented.join(', ')}`;
  checkObject(argument, given, accepted);
  return reading(argument, given, accepted, () => {
    for (const name in given) {
      if (!Object.hasOwn(known, name) && !(name in Object.prototype)) {
        throw unknownOption(argument, given, name, documented);
      }
    }
    const read: Record<string, unknown> = {};
    for (const name of Object.keys(known)) {
      const value = (given as Readonly<Record<string, unknown>>)[name];
      if (value !== undefined) read[name] = value;
    }
    return read as T;
  });
}

function unknownOption(argument: string, given: object, name: string, names: readonly string[]): DmaArgumentError {
  const near = nearest(name.slice(0, 20).toLowerCase(), names);
  const guess = near === undefined ? ';' : `; did you mean ${near}?`;
  const [path, where] = argument === 'options' ? [name, ''] : [`${argument}.${name}`, ` of ${argument}`];
  const accepted = names.join(', ');
  const message = `unknown option ${describe(name)}${where}${guess} accepted: ${accepted}`;
  return new DmaArgumentError(path, given, accepted, { message });
}

/** The name that begins with the most letters of `wrong`, two at least. */
function nearest(wrong: string, names: readonly string[]): string | undefined {
  if (wrong.length < 2) return undefined;
  return names.find((name) => name.toLowerCase().startsWith(wrong)) ?? nearest(wrong.slice(0, -1), names);
}

/** True for 1, 2, 4, ... up to 2^53. Free of 32-bit operators, so that large boundaries are judged right. @internal */
export function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(value) && value >= 1 && 2 ** Math.round(Math.log2(value)) === value;
}

/** Throws unless `value` is a text, and one that `pattern` matches. @internal */
export function checkText(
  argument: string,
  value: unknown,
  pattern = /(?:)/,
  accepted = 'a text',
): asserts value is string {
  if (typeof value !== 'string' || !pattern.test(value)) throw new DmaArgumentError(argument, value, accepted);
}

/** Throws unless `value` is a power of two from `low` to `high`, a power of two itself. @internal */
export function checkPowerOfTwo(argument: string, value: unknown, low: number, high: number): void {
  if (!isPowerOfTwo(value as number) || (value as number) < low || (value as number) > high) {
    throw new DmaArgumentError(argument, value, `a power of two from ${low} to 2^${Math.log2(high)}`);
  }
}

/** The smallest power of two that is not below `value`; `value` from 1 to 2^53. @internal */
export function ceilPowerOfTwo(value: number): number {
  const power = 2 ** Math.ceil(Math.log2(value));
  // log2 of a number just above a power of two may round down to it.
  return power < value ? power * 2 : power;
}

/** `value` raised to the next multiple of `multiple`. @internal */
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
 * @internal
 */
export function typedArrayLength(kind: 'Int32Array' | 'Float64Array', value: unknown): number {
  return kindOf(value) === kind ? (lengthOf(value) as number) : -1;
}
