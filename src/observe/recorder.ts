/** {@link recordPool}: records the newest operations of a pool. */
import { checkInteger, type OptionNames, readOptions } from '../arguments.ts';
import { DmaExistsError } from '../device/errors.ts';
import { openPool } from '../dma-pool.ts';
import { DmaArgumentError } from '../errors.ts';
import type { DmaPool } from '../pool/contract.ts';
import { OperationRing, type RecordedOperation } from './ring.ts';
import { attachTap, detachTap, isRecorded } from './tap.ts';
import { describePool, endOf, traceText } from './trace-text.ts';

/** Options of {@link recordPool}. */
export interface RecordOptions {
  /** Capacity in operations, 64 to 2^24, raised to a power of two. The newest are kept. Default 65536. */
  readonly limit?: number;
  /** {@link PoolRecorder.handle} of the recorder in another worker of the shared pool. Both record into one ring. */
  readonly join?: RecorderHandle;
}

/** Lets another worker of a shared pool join a recording. Can be posted. */
export interface RecorderHandle {
  /** The ring. */
  readonly buffer: SharedArrayBuffer;
  /** Capacity in operations. */
  readonly limit: number;
}

const OPTIONS: OptionNames<RecordOptions> = { limit: true, join: true };
const LEAST = 64;
const MOST: number = 2 ** 24;
/** Rings of {@link recordPool} in this thread. The ring of `dmapool record` is not among them. */
const rings = new WeakSet<OperationRing>();

/** A ring for at least `limit` operations. */
export function createRing(limit: number): OperationRing {
  return new OperationRing(2 ** Math.ceil(Math.log2(limit)));
}

/**
 * A recording in progress. Every call of the pool takes the slow path until {@link PoolRecorder.stop}.
 *
 * @example
 * ```ts
 * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048 });
 * const recorder = recordPool(pool);
 * pool.alloc();
 * recorder.stop();
 * console.log(recorder.total, recorder.trace().startsWith('#dma_pool-trace v1')); // 1 true
 * ```
 */
export class PoolRecorder implements Disposable {
  /** The pool. */
  readonly pool: DmaPool;
  /** For `join` in other workers of a shared pool. */
  readonly handle: RecorderHandle;
  readonly #ring: OperationRing;
  #stopped = false;

  /** Use {@link recordPool}. @internal */
  constructor(pool: DmaPool, ring: OperationRing) {
    this.pool = pool;
    this.#ring = ring;
    this.handle = { buffer: ring.buffer, limit: ring.places };
    if (isRecorded(pool, (other) => rings.has(other))) {
      throw new DmaExistsError(`${pool.device.name}: pool ${pool.name} is recorded already`);
    }
    rings.add(ring);
    attachTap(pool, ring, 0);
  }

  /** Number of operations so far, modulo 2^32. */
  get total(): number {
    return this.#ring.total;
  }

  /** The newest operations, oldest first, of all workers that joined. */
  operations(): RecordedOperation[] {
    return this.#ring.read().map(({ kind, worker, index, time, site }) => ({ kind, worker, index, time, site }));
  }

  /** Ends the recording in this worker. The recorded operations stay readable. A second call does nothing. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    detachTap(this.pool, this.#ring);
  }

  /** {@link stop}, for `using`. */
  [Symbol.dispose](): void {
    this.stop();
  }

  /**
   * The recording as a trace in the format of docs/traces.md, for `dmapool replay` and `dmapool advise`. Blocks that were
   * allocated before the first operation in the ring are allocated first. In debug mode each line has the call's site.
   */
  trace(): string {
    const lost = Math.max(0, this.total - this.handle.limit);
    return traceText([{ ...describePool(this.pool, true), end: endOf(this.pool) }], this.#ring.read(), lost);
  }
}

/**
 * Records the operations of a pool from now on, in a ring with the newest ones. Transfers between workers are no
 * operations: the block stays allocated. The recording continues when the pool becomes shared.
 *
 * @param pool The pool; of a shared one, the operations of this worker and of those that `join`.
 * @param options Capacity of the ring.
 * @throws `DmaArgumentError` for wrong arguments; `DmaExistsError` if this worker records the pool already.
 *
 * @example
 * ```ts
 * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048 });
 * const recorder = recordPool(pool, { limit: 1024 });
 * pool.alloc().free();
 * recorder.stop();
 * console.log(recorder.operations().map(({ kind }) => kind)); // [ 'alloc', 'free' ]
 * ```
 */
export function recordPool(pool: DmaPool, options: RecordOptions = {}): PoolRecorder {
  const { limit = 65_536, join } = readOptions('options', options, OPTIONS);
  openPool(pool);
  if (join !== undefined) {
    if (!(join.buffer instanceof SharedArrayBuffer)) throw new DmaArgumentError('join', join, 'PoolRecorder.handle');
    return new PoolRecorder(pool, new OperationRing(join.limit, join.buffer));
  }
  checkInteger('limit', limit, LEAST, MOST);
  return new PoolRecorder(pool, createRing(limit));
}
