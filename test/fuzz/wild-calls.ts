/**
 * Random arguments to all exports of the package. A call may only throw an error of the package or the error of a user's
 * callback, and must leave the pools consistent.
 */
import { setImmediate } from 'node:timers/promises';
import { inspect } from 'node:util';
import { DmaError, type DmaPool } from 'dmapool';
import { indicesOf, isAllocated } from '../support/pools.ts';
import { Random } from '../support/random.ts';
import { countOperations } from './operations.ts';
import { type Call, callsOf, EXPORTED } from './wild-exports.ts';
import { OwnError, WildValues } from './wild-values.ts';

const CALLS = 40;
/** Steps of each returned iterator. */
const STEPS = 3;

class WildCase {
  readonly #random: Random;
  readonly #values: WildValues;
  readonly #violations: string[] = [];

  constructor(seed: number) {
    this.#random = new Random(seed);
    this.#values = new WildValues(this.#random);
  }

  async run(): Promise<void> {
    const { pools, device, memory, block } = this.#values;
    const calls = pools.flatMap((pool) => callsOf(`pool ${pool.name}`, pool));
    calls.push(...callsOf('device', device), ...callsOf('heap', memory));
    calls.push(...callsOf('block', block), ...callsOf('geometry', pools[0]!.geometry));
    for (let n = 0; n < CALLS; n++) {
      const call = this.#random.pick(this.#random.chance(0.5) ? EXPORTED : calls);
      const args = Array.from({ length: this.#random.below(4) }, () => this.#values.any());
      countOperations(1);
      this.#make(call, args);
      if (this.#violations.length > 0) break;
    }
    await setImmediate();
    if (this.#violations.length === 0) for (const pool of pools) this.#checkPool(pool);
    for (const pool of pools) pool.destroy();
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
      result.catch((error: unknown) => {
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
  #checkPool(pool: DmaPool): void {
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
      if (!(error instanceof DmaError)) throw error;
    }
  }
}

/** True for a shared pool: `trim` throws. A random call may have shared any pool. */
function isShared(pool: DmaPool): boolean {
  try {
    pool.trim();
    return false;
  } catch (error) {
    return error instanceof DmaError && error.code === 'ERR_DMAPOOL_NOT_TRIMMABLE';
  }
}

function isIterator(value: unknown): value is Iterator<unknown> {
  return typeof value === 'object' && value !== null && 'next' in value && typeof value.next === 'function';
}

/** True for errors of the package and of callbacks. */
function isAllowed(error: unknown): boolean {
  return error instanceof DmaError || error instanceof OwnError;
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
