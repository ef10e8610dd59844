/** The state of a random history of the allocator: its devices, its pools with their models, and the calls so far. */
import assert from 'node:assert/strict';
import { Device, dmaBitMask, DmaError, type DmaPool, type DmaPoolOptions } from 'dmapool';
import type { PoolModel } from '../pool/pool-model.ts';
import { Random } from '../support/random.ts';
import { FuzzSource, SourceBroke } from './fuzz-source.ts';

export interface Held {
  readonly index: number;
  readonly dma: number;
  readonly bytes: Uint8Array;
  readonly stamp: number;
}

export interface Waiting {
  /** Position in the order of the queue; NaN for nested calls, whose order is not observable. */
  number: number;
  readonly controller: AbortController;
}

/** A pool and its model. */
export interface Subject {
  readonly name: string;
  readonly pool: DmaPool;
  readonly device: Device;
  readonly options: DmaPoolOptions;
  readonly managed: boolean;
  readonly held: Map<number, Held>;
  readonly waiting: Set<Waiting>;
  /** Addresses of free blocks that the faulty device wrote to. */
  readonly corrupted: Set<number>;
  /** Null in a loose history. */
  readonly model: PoolModel | null;
  state: 'open' | 'destroyed' | 'gone';
  shared: boolean;
  /** Number of the wait that was served last. */
  served: number;
}

export const PAGE = 4096;
export const MASKS: readonly number[] = [24, 32, 33, 64];
/** Lines of the history's log in the report of a failure. */
const SHOWN = 25;

export class HistoryState {
  readonly random: Random;
  readonly isStrict: boolean;
  /** Share of the calls of the source and the log that run an operation. */
  readonly calling: number;
  /** Number of operations that are not nested. */
  readonly steps: number;
  readonly source: FuzzSource;
  readonly devices: readonly Device[];
  readonly subjects: Subject[] = [];
  readonly violations: string[] = [];
  /** Devices with a running detach, which destroys their pools one by one. */
  readonly detaching = new Set<Device>();
  /** Devices with a running reclaim. */
  readonly reclaiming = new Set<Device>();
  depth = 0;
  /** Nested operations since the last check. */
  nested = 0;
  stamp = 0;
  waits = 0;
  readonly #lines: string[] = [];

  /**
   * @param steps Maximum number of operations.
   * @param onCall Called in each call of the source and of the devices' log, as user code.
   */
  constructor(seed: number, steps: number, onCall: (from: string) => void) {
    const random = new Random(seed);
    this.random = random;
    this.isStrict = random.chance(0.4);
    this.calling = this.isStrict ? 0 : random.pick([0, 0.05, 0.3, 0.6]);
    this.steps = Math.min(steps, 20 + random.below(random.pick([40, 200, 600])));
    const pages = 1 + random.below(random.pick([4, 12, 40]));
    const failing = random.pick([0, 0, 0.05, 0.3]);
    const memory = new FuzzSource(random, { limit: pages * PAGE, pageSize: PAGE, failing });
    this.source = memory;
    memory.onCall = () => {
      onCall('source');
    };
    const say = (): void => {
      onCall('log');
    };
    const log = { error: say, warn: say, info: say };
    this.devices = Array.from({ length: 1 + random.below(3) }, (_, n) => {
      return new Device({ name: `dev${String(n)}`, memory, dmaMask: dmaBitMask(random.pick(MASKS)), log });
    });
  }

  /** The most recent operations, for the report of a failure. */
  get lines(): readonly string[] {
    return this.#lines.slice(-SHOWN);
  }

  note(line: string): void {
    this.#lines.push(`${'  '.repeat(this.depth)}${line}`);
    if (this.#lines.length > 4 * SHOWN) this.#lines.splice(0, 2 * SHOWN);
  }

  /** Records and throws a violation. The pool or device may swallow the exception of a nested call. */
  violated(message: string): never {
    this.violations.push(message);
    throw new assert.AssertionError({ message });
  }

  /** True while a running detach may or may not have destroyed the pool. */
  isEnding({ device, managed }: Subject): boolean {
    return managed && this.detaching.has(device);
  }

  anySubject(): Subject | undefined {
    const alive = this.subjects.filter(({ state, held }) => state !== 'gone' || held.size > 0);
    return alive.length === 0 ? undefined : this.random.pick(alive);
  }

  anyHeld({ held }: Subject): Held | undefined {
    return held.size === 0 ? undefined : [...held.values()][this.random.below(Math.min(held.size, 20))];
  }
}

/** Runs a call that may throw an expected error. Returns true if it did. */
export function fails(isExpected: (error: unknown) => boolean, call: () => void): boolean {
  try {
    call();
    return false;
  } catch (error) {
    if (isExpected(error)) return true;
    throw error;
  }
}

export function isOfSource(error: unknown): boolean {
  return error instanceof SourceBroke;
}

export function hasCode(code: DmaError['code']): (error: unknown) => boolean {
  return (error) => error instanceof DmaError && error.code === code;
}
