/**
 * The base class of all errors of this package, and the errors of arguments and pools. Other layers declare their own:
 * `memory/errors.ts`, `device/errors.ts`, `shared/errors.ts`, `pci/error.ts`, `linux/error.ts`, `qemu/error.ts`,
 * `trace/error.ts`.
 *
 * A class for each kind of error, so that `instanceof` narrows types. A stable `code` for each reason, so that programs
 * and log filters need not parse messages. `docs/errors.md` lists all codes; a test compares the list with the sources.
 */

/** An error code. A code is never renamed, and never changes its meaning. Each error class declares its codes. */
export type DmaErrorCode = `ERR_DMAPOOL_${string}`;

/**
 * The base class of all errors of this package.
 *
 * @example
 * ```ts
 * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048 });
 * const block = pool.alloc();
 * pool.free(block);
 * try {
 *   pool.free(block);
 * } catch (error) {
 *   if (error instanceof DmaError && error.code === 'ERR_DMAPOOL_NOT_ALLOCATED') console.error(error.message);
 *   else throw error;
 * }
 * ```
 */
export class DmaError extends Error {
  /** The reason; stable across versions. */
  readonly code: `ERR_DMAPOOL_${string}`;

  constructor(code: `ERR_DMAPOOL_${string}`, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.name = new.target.name;
  }
}

/**
 * An argument has the wrong type or is out of range. The message names the argument, its value and the accepted values.
 */
export class DmaArgumentError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_INVALID_ARGUMENT';
  /** Name of the argument, as in the documentation. */
  readonly argument: string;

  /**
   * @param argument Name of the argument.
   * @param value The rejected value. The message quotes primitives; for objects and functions it gives only the type.
   * @param accepted Description of accepted values.
   * @param options `cause`: an error thrown by the value itself; `message`: replaces the default message.
   */
  constructor(
    argument: string,
    value: unknown,
    accepted: string,
    options: ErrorOptions & { readonly message?: string } = {},
  ) {
    const name = text(argument);
    const { message = `${name} is ${describe(value)}; accepted: ${text(accepted)}`, ...cause } = options;
    super('ERR_DMAPOOL_INVALID_ARGUMENT', message, cause);
    this.argument = name;
  }
}

/** The reasons of a {@link DmaOutOfMemoryError}. */
export type OutOfMemoryCode = 'ERR_DMAPOOL_NO_MEMORY' | 'ERR_DMAPOOL_LIMIT' | 'ERR_DMAPOOL_NO_FREE_BLOCK';

/**
 * No block is available: the memory source is exhausted (`ERR_DMAPOOL_NO_MEMORY`), the pool reached `maxBlocks`
 * (`ERR_DMAPOOL_LIMIT`), or no block is free and `grow` is false (`ERR_DMAPOOL_NO_FREE_BLOCK`).
 */
export class DmaOutOfMemoryError extends DmaError {
  declare readonly code: OutOfMemoryCode;
  constructor(code: OutOfMemoryCode, message: string) {
    super(code, message);
  }
}

/** The reasons of a {@link DmaBlockError}. */
export type BlockErrorCode =
  | 'ERR_DMAPOOL_NOT_ALLOCATED'
  | 'ERR_DMAPOOL_WRONG_POOL'
  | 'ERR_DMAPOOL_BAD_ADDRESS'
  | 'ERR_DMAPOOL_STALE_BLOCK'
  | 'ERR_DMAPOOL_UNALIGNED'
  | 'ERR_DMAPOOL_NOT_OWNER';

/** The block is not in a state that permits the call. The call changed nothing. */
export class DmaBlockError extends DmaError {
  declare readonly code: BlockErrorCode;
  constructor(code: BlockErrorCode, message: string) {
    super(code, message);
  }
}

/** The pool is destroyed. */
export class DmaDestroyedError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_DESTROYED';
  constructor(message: string) {
    super('ERR_DMAPOOL_DESTROYED', message);
  }
}

/** `allocWait` found no free block within its `timeout`, or the condition of `waitFor` was not true in time. */
export class DmaTimeoutError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_TIMEOUT';
  constructor(message: string) {
    super('ERR_DMAPOOL_TIMEOUT', message);
  }
}

/** Formats an address as in kernel logs: `0x` and lower-case hex digits. */
export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/**
 * Returns a string unchanged, and {@link describe} of any other value, so that the construction of an error can't fail.
 */
function text(value: unknown): string {
  return typeof value === 'string' ? value : describe(value);
}

/** Limit of quotes in messages: characters of a string, bits of a bigint. */
const QUOTED = 200;

/**
 * Formats any value for a message. Never throws, and runs no code of the value: no `toString`, getter or proxy trap. A
 * revoked proxy is `an object` or `a function`.
 */
export function describe(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value.length > QUOTED ? `${value.slice(0, QUOTED)}...` : value);
    case 'bigint':
      return BigInt.asIntN(QUOTED, value) === value ? `${value}n` : 'a large bigint';
    case 'function':
    case 'symbol':
      return `a ${typeof value}`;
    case 'object':
      return value === null ? 'null' : isArray(value) ? 'an array' : 'an object';
    default:
      return String(value);
  }
}

/**
 * Returns `Array.isArray(value)`, or false for a revoked proxy, where `Array.isArray` throws.
 *
 * @param value Value to test.
 *
 * @example
 * ```ts
 * console.log(isArray([1]), isArray({ length: 1 })); // true false
 * ```
 */
export function isArray(value: unknown): value is unknown[] {
  try {
    return Array.isArray(value);
  } catch {
    return false;
  }
}

/**
 * Formats a caught value for a message. Never throws.
 *
 * @param thrown The caught value.
 *
 * @example
 * ```ts
 * console.log(describeThrown(new RangeError('too far'))); // RangeError: too far
 * console.log(describeThrown(Object.create(null))); // an object
 * ```
 */
export function describeThrown(thrown: unknown): string {
  try {
    return String(thrown);
  } catch {
    return describe(thrown);
  }
}
