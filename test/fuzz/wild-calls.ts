/**
 * Random arguments to all exports of the package, found by reflection. A call may only throw an error of the package or
 * the error of a user's callback, and must leave the pools consistent.
 */
import { setImmediate } from 'node:timers/promises';
import { inspect } from 'node:util';
import * as main from 'dmapool';
import { sharePool } from 'dmapool/shared';
import { indicesOf, isAllocated } from '../support/pools.ts';
import * as conformance from 'dmapool/conformance';
import * as e1000 from 'dmapool/drivers/e1000';
import * as ehci from 'dmapool/drivers/ehci';
import * as nvme from 'dmapool/drivers/nvme';
import * as kernel from 'dmapool/kernel';
import * as linux from 'dmapool/linux';
import * as pci from 'dmapool/pci';
import * as qemu from 'dmapool/qemu';
import * as trace from 'dmapool/trace';
import * as wasm from 'dmapool/wasm';
import { Random } from '../support/random.ts';
import { countOperations } from './operations.ts';

const ENTRY_POINTS: Readonly<Record<string, object>> = {
  dmapool: main,
  'dmapool/conformance': conformance,
  'dmapool/drivers/e1000': e1000,
  'dmapool/drivers/ehci': ehci,
  'dmapool/drivers/nvme': nvme,
  'dmapool/kernel': kernel,
  'dmapool/linux': linux,
  'dmapool/pci': pci,
  'dmapool/qemu': qemu,
  'dmapool/trace': trace,
  'dmapool/wasm': wasm,
};

/** Functions that are not called. */
const LEFT_OUT = new Set([
  // Starts a process; target `qmp` tests it.
  'dmapool/qemu.QemuMachine.start',
  // Rebinds drivers of the host if the argument is a device's address.
  'dmapool/linux.bindToVfio',
  'dmapool/linux.unbindFromVfio',
]);

/** Members that are declared protected or internal, but accessible in JavaScript. */
const NOT_PUBLIC = new Set([
  'constructor',
  'attach',
  'makeObject',
  'notOurs',
  'objectOf',
  'hasObject',
  'putObject',
  'isCurrent',
  'borrowScratch',
  'returnScratch',
  'checkCurrent',
  'viewOf',
  'reportLeaks',
]);

/** The error that callbacks in arguments throw. */
class OwnError extends Error {}

interface Call {
  readonly label: string;
  readonly run: (...args: unknown[]) => unknown;
}

const CALLS = 40;
/** Steps of each returned iterator. */
const STEPS = 3;

function isError(value: unknown): boolean {
  return typeof value === 'function' && (value === Error || value.prototype instanceof Error);
}

function isClass(value: unknown): boolean {
  return typeof value === 'function' && /^class\b/.test(Function.prototype.toString.call(value));
}

/** Returns the functions, constructors and static methods of the entry points. */
function exportedCalls(): Call[] {
  const calls: Call[] = [];
  for (const [entry, exports] of Object.entries(ENTRY_POINTS)) {
    for (const [name, value] of Object.entries(exports) as [string, unknown][]) {
      // The package constructs its errors; a user catches them.
      if (typeof value !== 'function' || isError(value) || LEFT_OUT.has(`${entry}.${name}`)) continue;
      const label = `${entry}.${name}`;
      if (!isClass(value)) {
        calls.push({ label, run: value as Call['run'] });
        continue;
      }
      const constructor = value as new (...args: unknown[]) => unknown;
      // A private constructor is reached through a static method only.
      if (!['DmaPool', 'DmaBlock', 'QemuMachine', 'PciFunction', 'Bar', 'ConfigSpace', 'Interrupts'].includes(name)) {
        if (entry === 'dmapool') calls.push({ label: `new ${label}`, run: (...args) => new constructor(...args) });
      }
      for (const key of Object.getOwnPropertyNames(value)) {
        const method: unknown = (value as unknown as Record<string, unknown>)[key];
        if (['length', 'name', 'prototype'].includes(key) || LEFT_OUT.has(`${label}.${key}`)) continue;
        if (typeof method === 'function') {
          calls.push({ label: `${label}.${key}`, run: (...args) => Reflect.apply(method, value, args) as unknown });
        }
      }
    }
  }
  return calls;
}

/** Returns the methods and accessors of an object and its prototypes. */
function callsOf(label: string, object: object): Call[] {
  const calls: Call[] = [];
  for (let at: object = object; at !== Object.prototype && at !== null; at = Object.getPrototypeOf(at) as object) {
    for (const key of Reflect.ownKeys(at)) {
      const property = Object.getOwnPropertyDescriptor(at, key)!;
      if (NOT_PUBLIC.has(String(key))) continue;
      const method: unknown = property.value;
      if (typeof method === 'function') {
        calls.push({
          label: `${label}.${String(key)}`,
          run: (...args) => Reflect.apply(method, object, args) as unknown,
        });
      } else if (property.get !== undefined) {
        calls.push({ label: `${label}.${String(key)}`, run: () => Reflect.get(object, key) as unknown });
      }
    }
  }
  return calls;
}

const EXPORTED = exportedCalls();

class WildCase {
  readonly #random: Random;
  readonly #violations: string[] = [];
  readonly #memory = new main.HeapMemory({ limit: 64 * 4096 });
  readonly #device: main.Device;
  readonly #pools: main.DmaPool[] = [];
  readonly #values: unknown[];

  constructor(seed: number) {
    const random = new Random(seed);
    this.#random = random;
    const log = { error: ignore, warn: ignore, info: ignore };
    this.#device = new main.Device({ name: 'wild', memory: this.#memory, log });
    const make = (name: string, options: main.DmaPoolOptions): main.DmaPool => {
      const pool = main.DmaPool.create(name, this.#device, options);
      this.#pools.push(pool);
      return pool;
    };
    const plain = make('plain', { size: 64, maxBlocks: 40 });
    const debug = make('debug', { size: 100, debug: true, maxBlocks: 20 });
    const shared = make('shared', { size: 64, maxBlocks: 100 });
    const handle = sharePool(shared).handle;
    plain.freeIndex(plain.allocIndex());
    const block = plain.alloc();
    this.#values = [
      plain,
      debug,
      shared,
      this.#device,
      this.#memory,
      block,
      debug.alloc(),
      shared.alloc(),
      block.index,
      block.dma,
      handle,
      this.#device.allocCoherent(100),
      plain.geometry,
    ];
  }

  #wild(depth = 0): unknown {
    const random = this.#random;
    switch (random.below(depth > 1 ? 4 : 13)) {
      case 0:
        return random.pick([undefined, null, true, false, NaN, -0, -1, 0.5, Infinity, 1n, 0n, Symbol('wild')]);
      case 1:
        return random.pick([0, 1, 2, 3, 16, 64, 4096, 2 ** 29, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53 - 1, 2 ** 53]);
      case 2:
        return random.pick(['', '0', 'wild', 'kernel', 'atomic', '\0', '__proto__', 'x'.repeat(5000)]);
      case 3:
      case 4:
        return random.pick(this.#values);
      case 5:
        return random.pick([{}, [], Object.create(null) as object, new Date(0), /wild/, new Map(), ignore, own]);
      case 6:
        return this.#array();
      case 7:
        return this.#proxy();
      case 8:
        return this.#signal();
      case 9:
        return [this.#wild(depth + 1), this.#wild(depth + 1)];
      default:
        return this.#options(depth);
    }
  }

  #array(): unknown {
    const random = this.#random;
    const length = random.below(8);
    const detached = new Int32Array(4);
    if (random.chance(0.2)) structuredClone(detached, { transfer: [detached.buffer] });
    const plain = Int32Array.from({ length }, () => random.below(40) - 2);
    return random.pick<unknown>([
      plain,
      detached,
      new Float64Array(length),
      new Uint8Array(length),
      new Int32Array(new SharedArrayBuffer(16)),
      new DataView(new ArrayBuffer(length)),
      Object.create(Int32Array.prototype) as object,
      Object.freeze([...plain]),
      this.#callingArray(plain),
      this.#callingArray(new Float64Array(length)),
    ]);
  }

  /** Returns an array that calls a pool or throws when it is accessed. */
  #callingArray(target: Int32Array | Float64Array): unknown {
    const pool = this.#random.pick(this.#pools);
    const random = this.#random;
    const call = (): void => {
      if (random.chance(0.2)) throw new OwnError('the array');
      if (random.chance(0.5)) pool.tryAllocIndex();
    };
    return new Proxy(target, {
      get: (of, key) => {
        if (key !== 'length') call();
        return Reflect.get(of, key, of) as unknown;
      },
      set: (of, key, value) => {
        call();
        return Reflect.set(of, key, value, of);
      },
    });
  }

  #proxy(): unknown {
    const random = this.#random;
    const { proxy, revoke } = Proxy.revocable(random.pick<object>([{}, [], ignore, this.#device]), {});
    if (random.chance(0.5)) {
      revoke();
      return proxy;
    }
    return new Proxy(
      {},
      {
        get: () => {
          throw new OwnError('a getter');
        },
        has: () => {
          throw new OwnError('a trap');
        },
        ownKeys: () => {
          throw new OwnError('a trap');
        },
        getPrototypeOf: () => {
          throw new OwnError('a trap');
        },
      },
    );
  }

  /** Returns a signal with methods that may throw. */
  #signal(): unknown {
    const random = this.#random;
    const controller = new AbortController();
    const { signal } = controller;
    if (random.chance(0.3)) controller.abort(new OwnError('aborted'));
    if (random.chance(0.3)) Object.defineProperty(signal, 'addEventListener', { value: own });
    if (random.chance(0.3)) Object.defineProperty(signal, 'removeEventListener', { value: own });
    if (random.chance(0.1)) Object.defineProperty(signal, 'throwIfAborted', { value: own });
    return signal;
  }

  #options(depth: number): object {
    const random = this.#random;
    const keys = [
      'size',
      'align',
      'boundary',
      'maxBlocks',
      'node',
      'debug',
      'initOnAlloc',
      'initOnFree',
      'name',
      'path',
    ];
    keys.push(
      'parent',
      'memory',
      'dmaMask',
      'numaNode',
      'log',
      'device',
      'openRegion',
      'magazine',
      'signal',
      'timeout',
    );
    keys.push('zero', 'grow', 'limit', 'step', 'pageSize', 'buffer', 'byteOffset', 'dma', 'length', 'index', 'aling');
    const options: Record<string, unknown> = {};
    for (let n = random.below(5); n > 0; n--) options[random.pick(keys)] = this.#wild(depth + 1);
    if (random.chance(0.5)) options['size'] = 64;
    if (random.chance(0.3)) options['name'] = 'wild';
    // A valid handle with one random field.
    if (random.chance(0.15))
      return { ...(this.#values[10] as object), [random.pick(HANDLE_KEYS)]: this.#wild(depth + 1) };
    return options;
  }

  async run(): Promise<void> {
    const calls = this.#pools.flatMap((pool) => callsOf(`pool ${pool.name}`, pool));
    calls.push(...callsOf('device', this.#device), ...callsOf('heap', this.#memory));
    calls.push(...callsOf('block', this.#values[5] as object), ...callsOf('geometry', this.#pools[0]!.geometry));
    for (let n = 0; n < CALLS; n++) {
      const call = this.#random.pick(this.#random.chance(0.5) ? EXPORTED : calls);
      const args = Array.from({ length: this.#random.below(4) }, () => this.#wild());
      countOperations(1);
      this.#make(call, args);
      if (this.#violations.length > 0) break;
    }
    await setImmediate();
    if (this.#violations.length === 0) for (const pool of this.#pools) this.#checkPool(pool);
    for (const pool of this.#pools) pool.destroy();
    const [violation] = this.#violations;
    if (violation !== undefined) throw new Error(violation);
  }

  #make({ label, run }: Call, args: readonly unknown[]): void {
    const checkError = (how: string, error: unknown): void => {
      if (isAllowed(error) || (label.startsWith('dmapool/trace.') && isOfFiles(error))) return;
      this.#violations.push(`${label}(…) ${how} ${named(error)}\n  arguments: ${shown(args)}`);
    };
    const follow = (result: unknown): void => {
      if (!(result instanceof Promise)) return;
      result.then(ignore, (error: unknown) => {
        checkError('was rejected with', error);
      });
    };
    try {
      const result = run(...args);
      follow(result);
      // A generator checks its arguments in the first step.
      if (isIterator(result)) for (let n = 0; n < STEPS; n++) follow(result.next());
    } catch (error) {
      checkError('threw', error);
    }
  }

  /** Checks the counts, and that no block can be allocated twice. */
  #checkPool(pool: main.DmaPool): void {
    const out = [...indicesOf(pool)];
    const { active, blocks } = pool.statistics();
    const fail = (message: string): void => {
      this.#violations.push(`after wild calls: pool ${pool.name}: ${message}`);
    };
    // In a shared pool, blocks in transit are active, but not allocated by this worker.
    if (isShared(pool) ? active < out.length : active !== out.length) {
      fail(`${String(active)} active, but ${String(out.length)} allocated`);
    }
    if (active > blocks) fail(`${String(active)} active of ${String(blocks)} blocks`);
    const seen = new Set(out);
    try {
      for (let index = pool.tryAllocIndex(); index >= 0; index = pool.tryAllocIndex()) {
        if (seen.has(index)) {
          fail('a block was allocated twice');
          return;
        }
        seen.add(index);
      }
      for (const index of seen) if (isAllocated(pool, index)) pool.freeIndex(index);
    } catch (error) {
      if (!(error instanceof main.DmaError)) throw error;
    }
  }
}

const HANDLE_KEYS = [
  'dmapool',
  'name',
  'size',
  'align',
  'boundary',
  'pageSize',
  'node',
  'maxBlocks',
  'magazine',
  'device',
];
HANDLE_KEYS.push('mostMagazine', 'control', 'buffers', 'pages', 'debug', 'initOnAlloc', 'initOnFree');

function ignore(): void {
  // A callback without an effect.
}

function own(): never {
  throw new OwnError('a function');
}

/** True for a shared pool: `trim` throws. A random call may have shared any pool. */
function isShared(pool: main.DmaPool): boolean {
  try {
    pool.trim();
    return false;
  } catch (error) {
    return error instanceof main.DmaError && error.code === 'ERR_DMAPOOL_NOT_TRIMMABLE';
  }
}

function isIterator(value: unknown): value is Iterator<unknown> {
  return typeof value === 'object' && value !== null && 'next' in value && typeof value.next === 'function';
}

/** True for errors of the package and of callbacks. */
function isAllowed(error: unknown): boolean {
  return error instanceof main.DmaError || error instanceof OwnError;
}

/** True for errors of the file system, which the readers of traces pass on as documented. */
function isOfFiles(error: unknown): boolean {
  return error instanceof Error && 'syscall' in error && error.syscall === 'open';
}

function named(error: unknown): string {
  return error instanceof Error ? `${error.name}: ${error.message.slice(0, 120)}` : `no error: ${typeof error}`;
}

function shown(args: readonly unknown[]): string {
  try {
    return args.map((arg) => inspect(arg, { depth: 0, breakLength: Infinity }).slice(0, 200)).join(', ');
  } catch {
    return '(inspect threw)';
  }
}

export async function callWildly(seed: number): Promise<void> {
  await new WildCase(seed).run();
}
