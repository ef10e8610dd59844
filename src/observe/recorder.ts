/** {@link recordPool}: the last operations of a living pool, and a trace of them that `dmapool replay` takes. */
import { checkInteger, type OptionNames, readOptions } from '../arguments.ts';
import { openPool } from '../dma-pool.ts';
import { DmaExistsError } from '../device/errors.ts';
import { DmaArgumentError } from '../errors.ts';
import type { DmaPool } from '../pool/contract.ts';
import type { BlockHooks } from '../pool/hooks.ts';
import { LocalBackend } from '../pool/local-backend.ts';
import { SharedBackend } from '../shared/backend.ts';
import { BLOCK_STATE } from './format.ts';
import { openSlots, pageStates } from './blocks.ts';
import { OPERATION_KIND, OperationRing, type RecordedOperation } from './ring.ts';

/** How to record. */
export interface RecordOptions {
  /** Operations that are kept, the newest ones: 64 to 2^24, raised to a power of two. Default 65536. */
  readonly limit?: number;
  /** {@link PoolRecorder.handle} of the recorder in another worker of the shared pool: has this worker record there too. */
  readonly join?: RecorderHandle;
}

/** What another worker of a shared pool needs to take part in a recording. It goes through `postMessage`. */
export interface RecorderHandle {
  /** The ring. */
  readonly buffer: SharedArrayBuffer;
  /** Operations that it keeps. */
  readonly limit: number;
}

const OPTIONS: OptionNames<RecordOptions> = { limit: true, join: true };
const LEAST = 64;
const MOST: number = 2 ** 24;

/** Does what the pool's own hooks do, and records. */
class RecordingHooks implements BlockHooks {
  readonly renewsHandles: boolean;
  readonly quarantines: boolean;
  readonly inner: BlockHooks | null;
  readonly #ring: OperationRing;
  readonly #worker: number;

  constructor(inner: BlockHooks | null, ring: OperationRing, worker: number) {
    this.inner = inner;
    this.renewsHandles = inner?.renewsHandles ?? false;
    this.quarantines = inner?.quarantines ?? false;
    this.#ring = ring;
    this.#worker = worker;
  }

  pageOpened(slot: number): void {
    this.inner?.pageOpened(slot);
  }

  inspect(index: number): string | null {
    return this.inner === null ? null : this.inner.inspect(index);
  }

  allocated(index: number): void {
    this.inner?.allocated(index);
    this.#ring.push(OPERATION_KIND.alloc, this.#worker, index);
  }

  freed(index: number): void {
    this.#ring.push(OPERATION_KIND.free, this.#worker, index);
    this.inner?.freed(index);
  }

  scrub(index: number): void {
    this.inner?.scrub(index);
  }

  history(index: number): string {
    return this.inner?.history(index) ?? '';
  }

  holders(indices: readonly number[]): string {
    return this.inner?.holders(indices) ?? '';
  }
}

/**
 * A recording in progress. Stop it with {@link PoolRecorder.stop}: recorded calls take the slow path.
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
  readonly #hooks: RecordingHooks;
  readonly #backend: LocalBackend | SharedBackend;
  #stopped = false;

  /** Use {@link recordPool}. @internal */
  constructor(pool: DmaPool, ring: OperationRing) {
    this.pool = pool;
    this.#ring = ring;
    this.handle = { buffer: ring.buffer, limit: ring.places };
    const { backend } = openPool(pool);
    if (!(backend instanceof LocalBackend || backend instanceof SharedBackend)) {
      throw new DmaArgumentError('pool', pool, 'a pool that can be recorded');
    }
    if (backend.hooks instanceof RecordingHooks) {
      throw new DmaExistsError(`${pool.device.name}: pool ${pool.name} is recorded already`);
    }
    this.#backend = backend;
    this.#hooks = new RecordingHooks(backend.hooks, ring, backend instanceof SharedBackend ? backend.worker : 0);
    backend.setHooks(this.#hooks);
  }

  /** Operations so far, with those that are kept no more (modulo 2^32). */
  get total(): number {
    return this.#ring.total;
  }

  /** The operations that are kept, oldest first, of all workers that take part. */
  operations(): RecordedOperation[] {
    return this.#ring.read();
  }

  /** Ends the recording in this worker; what was recorded stays readable. A second call does nothing. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    // A pool that was shared meanwhile has a new backend.
    if (this.#backend.hooks === this.#hooks) this.#backend.setHooks(this.#hooks.inner);
  }

  /** {@link stop}, for `using`. */
  [Symbol.dispose](): void {
    this.stop();
  }

  /**
   * The recording as a trace in the format of docs/traces.md: `dmapool replay` sends it through fresh pools, and
   * `dmapool advise` reads it. Blocks that were allocated before the first operation that is kept are allocated first.
   */
  trace(): string {
    return traceText([this]);
  }
}

/**
 * Records the operations of a pool from now on, in a ring that keeps the newest ones. Blocks that are moved between
 * workers by transfer and accept stay allocated, and are no operations.
 *
 * @param pool The pool; of a shared one the operations of this worker, and of those that `join`.
 * @param options How many operations are kept.
 * @throws `DmaArgumentError` for wrong arguments; `DmaExistsError` when this worker records the pool already.
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
  if (join !== undefined) {
    if (!(join.buffer instanceof SharedArrayBuffer)) throw new DmaArgumentError('join', join, 'PoolRecorder.handle');
    return new PoolRecorder(pool, new OperationRing(join.limit, join.buffer));
  }
  checkInteger('limit', limit, LEAST, MOST);
  openPool(pool);
  return new PoolRecorder(pool, new OperationRing(2 ** Math.ceil(Math.log2(limit))));
}

/** Blocks that are allocated now. */
function allocatedNow(pool: DmaPool): Set<number> {
  const inside = openPool(pool);
  const found = new Set<number>();
  for (const slot of openSlots(inside)) {
    for (const [n, byte] of pageStates(inside, slot).entries()) {
      const kind = byte >> 6;
      if (kind === BLOCK_STATE.allocated || kind === BLOCK_STATE.transit) {
        found.add(slot * inside.geometry.blocksPerPage + n);
      }
    }
  }
  return found;
}

interface Consistent {
  readonly steps: readonly RecordedOperation[];
  /** How many of them were put in front. */
  readonly before: number;
}

interface Step extends RecordedOperation {
  readonly pool: number;
}

/**
 * Operations that fit together: those that must have been before the first one that is kept are put in front. A block that
 * comes twice without a free between was taken back from a dead worker, so the free is put in.
 */
function consistent(pool: DmaPool, operations: readonly RecordedOperation[]): Consistent {
  const first = operations[0]?.time ?? Date.now();
  const out = new Set<number>();
  const before: RecordedOperation[] = [];
  const steps: RecordedOperation[] = [];
  const seen = new Set<number>();
  for (const operation of operations) {
    const { index, kind } = operation;
    if (kind === 'free' && !out.has(index)) {
      if (seen.has(index)) continue;
      before.push({ kind: 'alloc', worker: operation.worker, index, time: first });
    } else if (kind === 'alloc' && out.has(index)) {
      steps.push({ ...operation, kind: 'free' });
    }
    seen.add(index);
    if (kind === 'alloc') out.add(index);
    else out.delete(index);
    steps.push(operation);
  }
  for (const index of allocatedNow(pool)) {
    if (!seen.has(index)) before.push({ kind: 'alloc', worker: 0, index, time: first });
  }
  before.sort((a, b) => a.index - b.index);
  return { steps: [...before, ...steps], before: before.length };
}

/** Recordings of several pools as one trace. Pools are independent, so between them the times decide. */
export function traceText(recorders: readonly PoolRecorder[]): string {
  const whole = recorders.map((recorder) => consistent(recorder.pool, recorder.operations()));
  const steps = merge(whole.map((each, pool) => each.steps.map((operation): Step => ({ ...operation, pool }))));
  const start = steps[0]?.time ?? 0;
  const counts = { alloc: 0, free: 0 };
  for (const { kind } of steps) counts[kind]++;
  const lost = recorders.reduce((sum, recorder) => sum + Math.max(0, recorder.total - recorder.handle.limit), 0);
  const lines = [
    '#dma_pool-trace v1',
    '#scenario\trecorded by dmapool/observe',
    `#loss\t${lost} older operations`,
    // Of each pool, how many of its first allocations were made before the recording.
    `#before\t${whole.map(({ before }) => before).join(' ')}`,
    `#counts\tcreate=${recorders.length} alloc=${counts.alloc} free=${counts.free} destroy=0`,
    ...recorders.map(({ pool }, number) => createLine(number, pool)),
  ];
  const books = recorders.map(({ pool }) => new PageBook(pool));
  for (const step of steps) lines.push(books[step.pool]!.line(step, start));
  return `${lines.join('\n')}\n`;
}

/** Takes the oldest first, and keeps the order within each. */
function merge(all: readonly (readonly Step[])[]): Step[] {
  if (all.length === 1) return [...all[0]!];
  const at = all.map(() => 0);
  const merged: Step[] = [];
  const total = all.reduce((sum, { length }) => sum + length, 0);
  while (merged.length < total) {
    let next = -1;
    for (const [n, steps] of all.entries()) {
      const time = steps[at[n]!]?.time;
      if (time !== undefined && (next < 0 || time < all[next]![at[next]!]!.time)) next = n;
    }
    merged.push(all[next]![at[next]!]!);
    at[next] = at[next]! + 1;
  }
  return merged;
}

/** Names go into lines: the format has no other control characters, and no slash in a device's name. */
function plain(text: string): string {
  return text.replace(/[\p{Cc}/]/gu, '_').slice(0, 1024);
}

function createLine(number: number, { device, geometry, name }: DmaPool): string {
  const { size, align, boundary, blockSize, allocation, effectiveBoundary } = geometry;
  const fields = [size, align, boundary, blockSize, allocation, effectiveBoundary];
  return ['0', '0', 'create', number, plain(device.name), plain(name), ...fields].join('\t');
}

/** Numbers blocks and pages as the format wants them: by first appearance. */
class PageBook {
  readonly #pool: DmaPool;
  readonly #blocks = new Map<number, number>();
  readonly #pages = new Map<number, number>();
  readonly #inUse = new Map<number, number>();

  constructor(pool: DmaPool) {
    this.#pool = pool;
  }

  line({ index, kind, pool, time, worker }: Step, start: number): string {
    const { geometry } = this.#pool;
    const slot = Math.floor(index / geometry.blocksPerPage);
    const page = numberOf(this.#pages, slot);
    const block = numberOf(this.#blocks, index);
    const inUse = (this.#inUse.get(slot) ?? 0) + (kind === 'alloc' ? 1 : -1);
    this.#inUse.set(slot, inUse);
    const offset = geometry.offsetOf(index - slot * geometry.blocksPerPage);
    const dma = this.#dmaOf(index).toString(16);
    const ns = Math.max(0, Math.round((time - start) * 1e6));
    const begin = [ns, worker, kind, pool];
    if (kind === 'free') return [...begin, block, page, offset, dma, inUse, 0].join('\t');
    return [...begin, 'K', block, page, offset, dma, inUse, '0', 0, 0].join('\t');
  }

  /** 0 where the page was given back meanwhile. */
  #dmaOf(index: number): number {
    return Math.max(0, openPool(this.#pool).backend.pages.dmaOf(index));
  }
}

function numberOf(numbers: Map<number, number>, key: number): number {
  const known = numbers.get(key) ?? numbers.size;
  numbers.set(key, known);
  return known;
}
