/** Invalid arguments of every kind, and calls with them. */
import { DmaError } from 'dmapool';

/** Throws at every access; only `typeof` works. */
export function revoked(target: object = {}): object {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
}

/** Throws when any property is read. */
export function throwing(): object {
  return new Proxy(
    {},
    {
      get: () => {
        throw new Error('a getter that throws');
      },
    },
  );
}

/** Each creates a new value, so that no call sees the effects of an earlier one. */
export const WILD: readonly (() => unknown)[] = [
  (): unknown => undefined,
  (): unknown => null,
  (): unknown => true,
  (): unknown => NaN,
  (): unknown => -1,
  (): unknown => 1.5,
  (): unknown => 2 ** 53,
  (): unknown => Infinity,
  (): unknown => 1n,
  (): unknown => 'x',
  (): unknown => '',
  (): unknown => Symbol('wild'),
  (): unknown => ({}),
  (): unknown => Object.create(null) as unknown,
  (): unknown => [],
  (): unknown => [null],
  (): unknown => revoked(),
  (): unknown => revoked(() => undefined),
  (): unknown => revoked([]),
  throwing,
  (): unknown => ({ toString: 1, valueOf: 1 }),
  (): unknown => () => undefined,
  (): unknown => Map,
  (): unknown => new Uint8Array(3),
  (): unknown => new Map(),
  (): unknown => Promise.resolve(),
];

/** A function to call: `name` for messages, `call` with any arguments. */
export interface Callable {
  readonly name: string;
  readonly call: (args: readonly unknown[]) => unknown;
}

const isFunction = (value: unknown): value is (...args: unknown[]) => unknown => typeof value === 'function';

/** True for a class, which can only be called with `new`. */
export function isClass(value: unknown): value is new (...args: unknown[]) => unknown {
  return isFunction(value) && /^class\b/.test(Function.prototype.toString.call(value));
}

export function isErrorClass(value: unknown): boolean {
  return isClass(value) && (value.prototype as unknown) instanceof Error;
}

/**
 * The callable exports of a module: functions, constructors, static methods. Constructors of errors are excluded: an
 * error's message may be any value.
 */
export function exportedCalls(specifier: string, module: Readonly<Record<string, unknown>>): Callable[] {
  return Object.entries(module).flatMap(([key, value]): Callable[] => {
    const name = `${specifier}: ${key}`;
    if (!isFunction(value) || isErrorClass(value)) return [];
    if (!isClass(value)) return [{ name, call: (args) => value(...args) }];
    return [{ name: `${specifier}: new ${key}`, call: (args) => new value(...args) }, ...methods(name, value)];
  });
}

/** The callable members of an object: its own methods and those of its prototypes, and its getters. */
export function instanceCalls(name: string, instance: object): Callable[] {
  const calls = new Map<PropertyKey, Callable>();
  for (let at: object = instance; at !== Object.prototype; at = Object.getPrototypeOf(at) as object) {
    for (const { key, callable } of keyed(name, at, instance)) if (!calls.has(key)) calls.set(key, callable);
  }
  return [...calls.values()];
}

function methods(name: string, holder: object): Callable[] {
  return keyed(name, holder, holder).map(({ callable }) => callable);
}

function keyed(name: string, holder: object, self: object): { key: PropertyKey; callable: Callable }[] {
  return Reflect.ownKeys(holder).flatMap((key): { key: PropertyKey; callable: Callable }[] => {
    const { value, get } = Object.getOwnPropertyDescriptor(holder, key) as { value?: unknown; get?: () => unknown };
    const callable = { name: `${name}.${String(key)}` };
    if (get !== undefined) return [{ key, callable: { ...callable, call: () => get.call(self) } }];
    if (key === 'constructor' || !isFunction(value) || isClass(value)) return [];
    return [{ key, callable: { ...callable, call: (args) => value.apply(self, [...args]) } }];
  });
}

/** A call whose promise was not settled at once. */
export interface Pending {
  readonly name: string;
  readonly promise: Promise<unknown>;
}

/** The outcome of a call: null if it is allowed, else the thrown or rejected value. */
export interface Outcome {
  readonly untyped: unknown;
}

/**
 * Makes a call and awaits its result, promises and generators included. Resolves once the promise is settled or has
 * been pending for some turns of the event loop; `pending` then receives it.
 */
export async function outcomeOf(
  { name, call }: Callable,
  args: readonly unknown[],
  isTyped: (error: unknown) => boolean,
  pending: Pending[],
): Promise<Outcome | null> {
  try {
    const result = call(args);
    // No `await` here: the promise may be a wait that only ends with its pool.
    if (result instanceof Promise) {
      const settled = result.then(
        () => null,
        (error: unknown) => ({ untyped: error }),
      );
      const first = await Promise.race([settled, turns(3)]);
      if (first === undefined) pending.push({ name, promise: result });
      else if (first !== null && !isTyped(first.untyped)) return first;
    } else if (isGenerator(result)) {
      for (let i = 0; i < 3; i++) await result.next();
      await result.return?.(undefined);
    }
    return null;
  } catch (error) {
    return isTyped(error) ? null : { untyped: error };
  }
}

function isGenerator(value: unknown): value is AsyncGenerator | Generator {
  return Object.prototype.toString.call(value).endsWith('Generator]');
}

/** Resolves to undefined after some turns of the event loop. */
async function turns(count: number): Promise<undefined> {
  for (let i = 0; i < count; i++) {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  }
}

/** True for the package's own errors, and for system errors about a file. */
export function isTypedError(error: unknown, classes: readonly (new (...args: never[]) => unknown)[] = []): boolean {
  if (error instanceof DmaError || classes.some((type) => error instanceof type)) return true;
  return error instanceof Error && 'syscall' in error;
}
