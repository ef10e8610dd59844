/**
 * The base class of all errors of this package, and the errors of arguments and pools. Each other part has its own errors:
 * `memory/errors.ts`, `device/errors.ts`, `shared/errors.ts`, `pci/error.ts`, `linux/error.ts`, `qemu/error.ts`,
 * `trace/error.ts`.
 *
 * One class for each kind of mistake, so that `instanceof` narrows, and one stable `code` for each reason, so that
 * programs and logs can tell them apart without reading messages. The table of codes is in `docs/errors.md`; a test keeps
 * the two equal.
 */

/** A stable code: never renamed or given another meaning. Each class of errors says which ones it has. */
export type DmaErrorCode = `ERR_DMAPOOL_${string}`;

/**
 * The base of every error of this package.
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
  /** Which mistake this is; never changes between versions. */
  readonly code: `ERR_DMAPOOL_${string}`;

  constructor(code: `ERR_DMAPOOL_${string}`, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.name = new.target.name;
  }
}

/** An argument is of the wrong type or out of its range; the message says which and what would be accepted. */
export class DmaArgumentError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_INVALID_ARGUMENT';
  /** The argument's name, as in the documentation. */
  readonly argument: string;

  /**
   * @param argument Its name.
   * @param value What was given. Only its type and, of plain values, its text go into the message.
   * @param accepted What would be accepted.
   * @param options `cause`: what the value itself threw; `message`: a message in place of the usual one.
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

/** Why there is no block. */
export type OutOfMemoryCode = 'ERR_DMAPOOL_NO_MEMORY' | 'ERR_DMAPOOL_LIMIT' | 'ERR_DMAPOOL_NO_FREE_BLOCK';

/**
 * No block can be had: the memory source is exhausted (`ERR_DMAPOOL_NO_MEMORY`), the pool's own limit is reached
 * (`ERR_DMAPOOL_LIMIT`), or none is free and the caller allowed no new page (`ERR_DMAPOOL_NO_FREE_BLOCK`).
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

/** A block was given that can't be used or freed this way; the call changed nothing. */
export class DmaBlockError extends DmaError {
  declare readonly code: BlockErrorCode;
  constructor(code: BlockErrorCode, message: string) {
    super(code, message);
  }
}

/** The pool was destroyed; it hands out nothing any more. */
export class DmaDestroyedError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_DESTROYED';
  constructor(message: string) {
    super('ERR_DMAPOOL_DESTROYED', message);
  }
}

/** A wait for a free block took longer than its `timeout`. */
export class DmaTimeoutError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_TIMEOUT';
  constructor(message: string) {
    super('ERR_DMAPOOL_TIMEOUT', message);
  }
}

/** An address as people who read kernel logs expect it: `0x` and lower-case hex digits. */
export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/** A text as it is, anything else as {@link describe} has it: to make an error must not fail. */
function text(value: unknown): string {
  return typeof value === 'string' ? value : describe(value);
}

/** The most characters of a text, and the most bits of a bigint, that a message quotes. */
const QUOTED = 200;

/**
 * A value as it stands in a message, whatever it is. Never throws and runs no code of the value's: no `toString`, getter or
 * proxy trap. A revoked proxy, which throws at every touch, is `an object` or `a function`.
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
 * `Array.isArray`, and false for a revoked proxy, for which that throws.
 *
 * @param value Anything.
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
 * What other code threw, as it stands in a message. Never throws, whatever it was.
 *
 * @param thrown What was caught.
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
