/** The public interface of shared pools: {@link sharePool}, {@link attachPool}, {@link SharedPool}. */
import {
  checkFunction,
  checkInteger,
  isInstance,
  type OptionNames,
  reading,
  readOptions,
  typedArrayLength,
} from '../arguments.ts';
import { Device, isDevice, naturalAlignment } from '../device/device.ts';
import { makePool, openPool, plug, type PoolInside } from '../dma-pool.ts';
import { DmaArgumentError, DmaDestroyedError, DmaOutOfMemoryError, hex, isArray } from '../errors.ts';
import { DmaMappingError } from '../memory/errors.ts';
import type { CoherentAllocator, CoherentMemory, SharedRegion } from '../memory/coherent.ts';
import { observer } from '../memory/observer.ts';
import { type DmaBlock, type DmaPool, INSPECT } from '../pool/contract.ts';
import { makeHooks } from '../pool/debug.ts';
import { ABSENT, ALLOCATED, EMPTY, type ListControl, QUARANTINED } from '../pool/free-list.ts';
import { forgetAtExit } from '../pool/exit-report.ts';
import { PoolGeometry } from '../pool/geometry.ts';
import { OWN_TEXTS, type PoolModes } from '../pool/hooks.ts';
import { checkCurrent, objectOf } from '../pool/hot-path.ts';
import { LocalBackend } from '../pool/local-backend.ts';
import { PoolPages } from '../pool/pages.ts';
import { listPool } from '../pool/pools-attribute.ts';
import { labelOf } from '../pool/backend.ts';
import { SharedBackend } from './backend.ts';
import { SharedBook } from './book.ts';
import { Depot } from './depot.ts';
import { DmaSharingError } from './errors.ts';
import { checkHandle, PER_PAGE_ENTRY, type SharedPoolHandle } from './handle.ts';
import {
  attachControl,
  type Control,
  createControl,
  DESTROYED,
  H_CARVED,
  H_CORRUPTED,
  H_DEPOT,
  H_DEPOT_COUNT,
  H_FAILURES,
  H_HIGH_WATER,
  H_MAX_BLOCKS,
  H_MAX_PAGES,
  H_PAGES,
  H_PER_PAGE,
  H_QUARANTINED,
  H_STATE,
  H_WAITS,
  isShared,
  markOf,
  MAX_THREAD_PAIRS,
  MAX_SHARED_BLOCKS,
  VERSION,
} from './layout.ts';
import { PoolLock } from './lock.ts';
import { Recovery, type WorkerExit } from './recovery.ts';
import { releaseAll, surrender } from './surrender.ts';
import { currentThread, mayPark, type WatchableWorker } from './threads.ts';
import type { TransitEntry } from './transfers.ts';
import { WaitTickets } from './wait-tickets.ts';
import { Workers } from './workers.ts';

/** Options of {@link sharePool}. */
export interface ShareOptions {
  /**
   * Capacity of each worker's magazine in blocks, 2 to 65536. Default: adaptive. It starts at an eighth of `maxBlocks` (8
   * to 256), grows with the worker's bursts up to its share of `maxBlocks`, or beyond while no other worker allocates, and
   * shrinks back when other workers need blocks.
   */
  readonly magazine?: number;
}

/** Options of {@link attachPool}. */
export interface AttachOptions {
  /** This worker's device. Default: one with the properties in the handle, which logs to the console. */
  readonly device?: Device;
  /**
   * Opens memory that is no `SharedArrayBuffer`. For pools in memory of `dmapool/linux` and `dmapool/qemu`, use
   * `openSharedRegion` of `dmapool/linux`.
   */
  readonly openRegion?: (region: SharedRegion) => ArrayBuffer | SharedArrayBuffer;
}

const SHARE_OPTIONS: OptionNames<ShareOptions> = { magazine: true };
const ATTACH_OPTIONS: OptionNames<AttachOptions> = { device: true, openRegion: true };

/** Number of the worker that calls {@link sharePool}. */
const CREATOR = 1;
const MAX_MAGAZINE = 65_536;

/** Shared pools of this worker, so that a second {@link sharePool} returns the same object. */
const sharedPools = new WeakMap<DmaPool, SharedPool>();

/**
 * One worker's access to a shared pool. `pool` allocates from the same blocks in every worker, as fast as a pool of one
 * thread. A block belongs to the worker that allocated or accepted it, and only that worker may free it.
 *
 * @example
 * ```ts
 * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048, maxBlocks: 1024 });
 * const shared = sharePool(pool); // worker.postMessage(shared.handle), and in the worker attachPool(handle)
 * const ticket = shared.transfer(pool.alloc()); // for another worker's accept(ticket)
 * console.log(shared.inTransit().length); // 1
 * const [block] = shared.recall([ticket]); // no worker has accepted it
 * pool.free(block!);
 * ```
 */
export class SharedPool<N extends string = string> {
  /** The pool. */
  readonly pool: DmaPool<N>;
  /** Post it to other workers, and call {@link attachPool} there. */
  readonly handle: SharedPoolHandle;
  /** Number of this worker in the pool, 1 to 62, for messages. */
  readonly worker: number;
  /**
   * Number of this thread, for {@link reportWorkerExit}: the platform's, else a random one. A Web Worker should post it to
   * its parent thread after it attached.
   */
  readonly thread: number;
  readonly #inside: PoolInside<N>;
  readonly #backend: SharedBackend;

  /** Use {@link sharePool} or {@link attachPool}. @internal */
  constructor(pool: DmaPool<N>, backend: SharedBackend) {
    this.pool = pool;
    this.#inside = openPool(pool);
    this.#backend = backend;
    this.handle = backend.handle;
    this.worker = backend.worker;
    this.thread = backend.thread;
  }

  /**
   * Puts a block in transit. The worker that calls {@link accept} with the ticket becomes its owner. Until then no worker
   * may free the block, and this worker can {@link recall} it.
   *
   * @param block A block that this worker has allocated.
   * @returns The ticket, valid for one `accept`: an integer, 0 to 2^53 - 1.
   * @throws `DmaBlockError` as `free`; `ERR_DMAPOOL_NOT_OWNER` when another worker owns the block.
   */
  transfer(block: DmaBlock<N>): number {
    checkCurrent(this.#inside.hot, block);
    return this.#backend.transfer(block.index);
  }

  /** {@link transfer} in the index form. */
  transferIndex(index: number): number {
    checkInteger('index', index, 0, MAX_SHARED_BLOCKS);
    return this.#backend.transfer(index);
  }

  /** {@link transferIndex} for all of `from[0..count)`, or none. Stores the tickets in `tickets`. */
  transferIndexBulk(from: Int32Array, tickets: Float64Array, count?: number): void {
    const wanted = ticketCount(tickets, from, count, 'indices');
    for (let i = 0; i < wanted; i++) {
      try {
        tickets[i] = this.#backend.transfer(from[i]!);
      } catch (error) {
        // No other worker has the tickets yet. `recall` needs the lock and could fail.
        for (let k = 0; k < i; k++) this.#backend.accept(tickets[k]!);
        throw error;
      }
    }
  }

  /**
   * Accepts a block in transit: this worker becomes its owner, and sees all earlier writes of the giver to it. The giver
   * may accept its own ticket.
   *
   * @param ticket The result of {@link transfer} in the giver.
   * @throws {@link DmaSharingError} `ERR_DMAPOOL_BAD_TICKET` when the block is not in transit: it was accepted or recalled, or
   *   its giver died.
   */
  accept(ticket: number): DmaBlock<N> {
    return objectOf(this.#inside.hot, this.#backend.accept(ticket));
  }

  /** {@link accept} in the index form. */
  acceptIndex(ticket: number): number {
    return this.#backend.accept(ticket);
  }

  /** {@link acceptIndex} for all of `tickets[0..count)`, or none. Stores the indices in `into`. */
  acceptIndexBulk(tickets: Float64Array, into: Int32Array, count?: number): void {
    this.#backend.acceptAll(tickets, into, ticketCount(tickets, into, count, 'tickets'));
  }

  /** Blocks in transit from this worker, ascending by index. */
  inTransit(): readonly TransitEntry[] {
    return this.#backend.inTransit();
  }

  /**
   * Recalls blocks in transit, for example those meant for a worker that died. This worker is their owner again. Each block
   * is either recalled or accepted, never both.
   *
   * @param tickets Tickets of the blocks. Skips those not in transit from this worker. Default: all blocks in transit from
   *   this worker.
   * @returns The recalled blocks.
   * @throws `DmaArgumentError` for anything else; `DmaTimeoutError` when a worker that is not marked dead holds the pool's
   *   lock. A call that throws changes nothing.
   */
  recall(tickets?: readonly number[]): DmaBlock<N>[] {
    return this.recallIndex(tickets).map((index) => objectOf(this.#inside.hot, index));
  }

  /** {@link recall} in the index form. */
  recallIndex(tickets?: readonly number[]): number[] {
    return this.#backend.recall(tickets === undefined ? undefined : readTickets(tickets));
  }

  /**
   * Frees the blocks that exited workers had allocated. Call it when no device writes to them any more, for example after
   * a reset. `device.reclaim()` includes it.
   *
   * @returns The number of blocks.
   */
  reclaim(): number {
    return this.#backend.reclaim();
  }

  /**
   * Monitors a worker for exit. At its exit, its free blocks return to the pool; the blocks that it had allocated are
   * reported and kept until {@link reclaim}. Node, Bun and Deno announce new workers, so workers that this thread creates
   * after `sharePool` or `attachPool` need no call.
   *
   * @param worker A Worker of `node:worker_threads` that has not exited.
   * @throws `DmaArgumentError` for anything else.
   * @throws `DmaOutOfMemoryError` `ERR_DMAPOOL_LIMIT` when 1024 threads are watched. The worker is monitored, but the
   *   workers that it creates are not recovered at its exit.
   *
   * @example
   * ```ts
   * import { Worker } from 'node:worker_threads';
   *
   * const worker = new Worker('setInterval(() => {}, 1000)', { eval: true });
   * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048, maxBlocks: 1024 });
   * const shared = sharePool(pool);
   * shared.watchWorker(worker); // created before sharePool()
   * await worker.terminate();
   * ```
   */
  watchWorker(worker: WatchableWorker): void {
    this.#backend.watchWorker(worker);
  }

  /**
   * Calls `listener` for each worker that this worker recovers, after its free blocks returned to the pool. The device's
   * log reports errors of `listener`.
   *
   * @returns A function that removes the listener.
   *
   * @example
   * ```ts
   * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048, maxBlocks: 1024 });
   * const shared = sharePool(pool);
   * const removeListener = shared.onWorkerExit(({ worker, out }) => {
   *   if (out.length > 0) console.error(`worker ${String(worker)} exited with ${String(out.length)} blocks`);
   * });
   * removeListener();
   * ```
   */
  onWorkerExit(listener: (exit: WorkerExit) => void): () => void {
    return this.#backend.onWorkerExit(listener);
  }

  /**
   * Reports the exit of a thread that the runtime does not report: a Web Worker, after `terminate()`.
   *
   * Call it only for a thread that has exited. If the thread is alive, its calls throw `ERR_DMAPOOL_DECLARED_ENDED` from its
   * next slow call or turn of its event loop on; until then it may allocate blocks that other workers also allocate.
   *
   * @param thread Number of the thread: its `SharedPool.thread`, or the worker's `threadId`.
   * @returns The exits of its workers. Empty if they were reported before, or if the lock is not available; then
   *   {@link onWorkerExit} reports them later.
   * @throws {@link DmaSharingError} `ERR_DMAPOOL_THREAD_ALIVE` for the caller's thread, its ancestors, and threads whose
   *   `Worker` object is watched: their exit event is the only report.
   *
   * @example
   * ```ts
   * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048, maxBlocks: 1024 });
   * const shared = sharePool(pool);
   * const thread = 7; // SharedPool.thread of the Web Worker, which posted it here
   * // webWorker.terminate();
   * for (const { worker, out } of shared.reportWorkerExit(thread)) console.log(worker, out.length);
   * ```
   */
  reportWorkerExit(thread: number): readonly WorkerExit[] {
    checkInteger('thread', thread, 0, Number.MAX_SAFE_INTEGER);
    return this.#backend.reportWorkerExit(thread);
  }

  /** The text that `console.log` prints. @internal */
  [INSPECT](): string {
    const { name, device } = this.pool;
    const count = this.inTransit().length;
    return `SharedPool ${name} of ${device.name}: worker ${String(this.worker)}, ${String(count)} in transit from it`;
  }
}

/**
 * Shares a pool with other workers.
 *
 * Allocates all pages for `maxBlocks` blocks at once. Each worker has a magazine of free blocks, so `alloc` and `free` are as
 * fast as in a pool of one thread.
 *
 * @param pool A pool with `maxBlocks`; blocks may be allocated. For a pool that is shared already, returns its `SharedPool`.
 * @param options Capacity of the magazines.
 * @throws {@link DmaSharingError} `ERR_DMAPOOL_NOT_SHAREABLE` without `maxBlocks`; while the pool has waiters; from the memory
 *   source or log during another call; or when the runtime or the memory source can't share memory.
 * @throws `DmaOutOfMemoryError` when the source has not enough pages. A call that throws changes nothing.
 *
 * @example
 * ```ts
 * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048, maxBlocks: 1024 });
 * const shared = sharePool(pool);
 * console.log(shared.handle.name, shared.worker); // rx 1
 * ```
 */
export function sharePool<N extends string>(pool: DmaPool<N>, options: ShareOptions = {}): SharedPool<N> {
  const { magazine } = readOptions('options', options, SHARE_OPTIONS);
  const inside = openPool(pool);
  const known = sharedPools.get(pool) as SharedPool<N> | undefined;
  if (known !== undefined) return known;
  // A backend is either local or shared, and all shared pools are in `sharedPools`.
  if (!(inside.backend instanceof LocalBackend)) throw new DmaArgumentError('pool', pool, 'a pool of this thread');
  const backend = share(inside, inside.backend, magazine);
  plug(inside, { backend, book: backend.book });
  return remember(pool, backend);
}

function remember<N extends string>(pool: DmaPool<N>, backend: SharedBackend): SharedPool<N> {
  const shared = new SharedPool(pool, backend);
  sharedPools.set(pool, shared);
  observer?.made(pool);
  return shared;
}

/**
 * Replaces a local backend by a shared one. Allocates all pages now, so that any worker can open the next one without a
 * message. Untouched pages usually have no physical memory.
 */
function share<N extends string>(
  pool: PoolInside<N>,
  local: LocalBackend,
  wantedMagazine: number | undefined,
): SharedBackend {
  const { name, device, geometry, node, maxBlocks, list, modes } = pool;
  const label = labelOf(pool);
  const refuse = (why: string): DmaSharingError => new DmaSharingError('ERR_DMAPOOL_NOT_SHAREABLE', `${label}: ${why}`);
  if (typeof SharedArrayBuffer === 'undefined') {
    throw refuse('the runtime has no SharedArrayBuffer (a web page needs cross-origin isolation)');
  }
  if (maxBlocks > MAX_SHARED_BLOCKS) {
    throw refuse(`create it with maxBlocks <= ${String(MAX_SHARED_BLOCKS)}: sharePool() allocates all pages`);
  }
  const magazine = wantedMagazine ?? Math.min(256, Math.max(8, maxBlocks >> 3));
  const mostMagazine = wantedMagazine ?? Math.max(magazine, Math.min(MAX_MAGAZINE, maxBlocks));
  checkInteger('magazine', magazine, 2, MAX_MAGAZINE);
  const perPage = geometry.blocksPerPage;
  const { debug, initOnAlloc, initOnFree } = modes;
  // All work that may fail or calls the memory source comes before the local backend loses its memory.
  const { memories, opened, prepared } = surrender(local, perPage, Math.ceil(maxBlocks / perPage), refuse, (pages) => {
    const control = createControl(maxBlocks, perPage, pages.length);
    const book = debug === null ? null : new SharedBook(control.words.length);
    return { control, book, ...describePages(label, device.memory, pages) };
  });
  const { control, book, buffers, table } = prepared;
  fillControl(control, list, opened, perPage, maxBlocks);
  const { failures, waits, corrupted } = local.statistics();
  control.header[H_FAILURES] = failures;
  control.header[H_WAITS] = waits;
  control.header[H_CORRUPTED] = corrupted;
  new Workers(control.header).claim(currentThread());
  if (book !== null && pool.book !== null) {
    for (let index = 0; index < opened * perPage; index++) book.copy(index, pool.book);
  }
  const handle: SharedPoolHandle = {
    dmapool: VERSION,
    name,
    size: geometry.size,
    align: geometry.align,
    boundary: geometry.boundary,
    pageSize: device.memory.pageSize,
    node,
    maxBlocks,
    magazine,
    mostMagazine,
    device: { name: device.name, path: device.path, dmaMask: device.dmaMask, numaNode: device.numaNode },
    control: control.buffer,
    buffers,
    pages: table,
    debug:
      book === null ? null : { quarantine: debug?.quarantine ?? true, sites: debug?.sites ?? true, book: book.buffer },
    initOnAlloc,
    initOnFree,
  };
  return new SharedBackend({
    name,
    device,
    geometry,
    maxBlocks,
    pages: local.pages,
    control,
    list,
    worker: CREATOR,
    magazine,
    mostMagazine,
    mayPark: mayPark(),
    handle,
    hooks: makeHooks(name, geometry.blockSize, local.pages, modes, book),
    release: () => {
      releaseAll(device, memories, geometry.allocation, () => {
        forgetAtExit(pool);
      });
    },
  });
}

/** The buffers and the table of pages for a handle. */
function describePages(
  label: string,
  source: CoherentAllocator,
  pages: readonly CoherentMemory[],
): { buffers: (SharedArrayBuffer | SharedRegion)[]; table: Float64Array<ArrayBuffer> } {
  const known: (ArrayBuffer | SharedArrayBuffer)[] = [];
  const buffers: (SharedArrayBuffer | SharedRegion)[] = [];
  const table = new Float64Array(pages.length * PER_PAGE_ENTRY);
  for (const [page, { dma, buffer, byteOffset }] of pages.entries()) {
    let at = known.indexOf(buffer);
    if (at < 0) {
      at = known.push(buffer) - 1;
      buffers.push(buffer instanceof SharedArrayBuffer ? buffer : regionOf(label, source, buffer));
    }
    table.set([dma, at, byteOffset], page * PER_PAGE_ENTRY);
  }
  return { buffers, table };
}

/** Describes memory that `postMessage` can't share. */
function regionOf(label: string, memory: CoherentAllocator, buffer: ArrayBuffer): SharedRegion {
  if (typeof memory.shareBuffer !== 'function') {
    throw new DmaSharingError(
      'ERR_DMAPOOL_NOT_SHAREABLE',
      `${label}: memory source ${memory.name} can't share its memory`,
    );
  }
  return memory.shareBuffer(buffer);
}

/** Moves the local free list to the depot. Allocated blocks become those of the creator. */
function fillControl(control: Control, list: ListControl, opened: number, perPage: number, maxBlocks: number): void {
  const { header, words, owners } = control;
  const blocks = opened * perPage;
  const order: number[] = [];
  for (let index = list.top; index >= 0; index = list.word(index)!) order.push(index);
  const listed = new Set(order);
  for (let index = 0; index < blocks; index++) {
    if (list.word(index) === ALLOCATED) {
      words[index] = markOf(CREATOR);
      owners[index] = CREATOR;
    } else if (list.word(index) === QUARANTINED) {
      words[index] = QUARANTINED;
      header[H_QUARANTINED] = header[H_QUARANTINED]! + 1;
    } else if (!listed.has(index)) {
      order.push(index);
    }
  }
  // The last page may have blocks beyond the limit.
  const usable = Math.min(order.length, maxBlocks - list.out);
  for (const [i, index] of order.entries()) {
    words[index] = i >= usable ? ABSENT : i + 1 < usable ? order[i + 1]! : EMPTY;
  }
  header[H_DEPOT] = usable > 0 ? order[0]! : EMPTY;
  header[H_DEPOT_COUNT] = usable;
  header[H_CARVED] = blocks;
  header[H_PAGES] = opened;
  header[H_HIGH_WATER] = list.mostOut;
  list.replaceWords(words);
  list.fitObjects();
  list.setTop(EMPTY);
  list.addOwned(list.out - list.owned);
}

/**
 * Attaches this worker to a shared pool.
 *
 * @param handle A {@link SharedPool.handle} that another worker posted.
 * @param options This worker's device, and how to open its memory.
 * @throws `DmaArgumentError` for anything else, or a handle of another version of this package.
 * @throws `DmaOutOfMemoryError` `ERR_DMAPOOL_LIMIT` when 62 workers are attached, or when 1024 threads are watched and this
 *   thread is not one of them.
 * @throws `DmaDestroyedError` after the pool was destroyed. A call that throws changes nothing.
 *
 * @example
 * ```ts
 * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048, maxBlocks: 1024 });
 * const { handle } = sharePool(pool);
 * const attached = attachPool<'rx'>(handle); // in another worker, usually
 * console.log(attached.worker); // 2
 * attached.pool.destroy(); // detaches
 * ```
 */
export function attachPool<N extends string = string>(
  handle: SharedPoolHandle,
  options: AttachOptions = {},
): SharedPool<N> {
  const attached = openHandle(handle, options);
  const { device, geometry } = attached;
  const { name, node, maxBlocks, debug, initOnAlloc, initOnFree } = attached.handle;
  const modes: PoolModes = { debug, initOnAlloc, initOnFree, texts: OWN_TEXTS };
  let backend!: SharedBackend;
  const pool = makePool({ name: name as N, device, geometry, node, maxBlocks, modes }, (list) => {
    backend = attachBackend(attached, modes, list);
    return { backend, book: backend.book };
  });
  const inside = openPool(pool);
  try {
    listPool(inside);
  } catch (error) {
    backend.destroy();
    throw error;
  }
  return remember(pool, backend);
}

/** A checked handle and this worker's view of it. */
interface Attached {
  readonly device: Device;
  readonly geometry: PoolGeometry;
  readonly handle: SharedPoolHandle;
  readonly control: Control;
  /** The handle's buffers, opened in this worker. */
  readonly buffers: readonly (ArrayBuffer | SharedArrayBuffer)[];
}

/** Reads and checks a handle. {@link attachBackend} claims the worker slot. */
function openHandle(given: unknown, options: AttachOptions): Attached {
  const { device, openRegion } = readOptions('options', options, ATTACH_OPTIONS);
  if (device !== undefined && !isDevice(device)) throw new DmaArgumentError('device', device, 'a Device');
  if (openRegion !== undefined) checkFunction('openRegion', openRegion);
  const handle = checkHandle(given);
  const control = attachControl(handle.control);
  const { size, align, boundary, pageSize } = handle;
  const geometry = new PoolGeometry({ size, align, boundary, pageSize });
  const buffers = handle.buffers.map((buffer) => openBuffer(handle.name, buffer, openRegion));
  checkAgainst(handle, control, geometry, buffers);
  return {
    device: device ?? new Device({ ...handle.device, memory: new NoMemory(pageSize) }),
    handle,
    control,
    geometry,
    buffers,
  };
}

/** Opens one of a handle's buffers in this worker. */
function openBuffer(
  pool: string,
  buffer: unknown,
  openRegion: AttachOptions['openRegion'],
): ArrayBuffer | SharedArrayBuffer {
  if (isShared(buffer)) return buffer;
  // A plain ArrayBuffer would be a copy.
  const isRegion = reading('handle: buffers', buffer, 'a SharedPool.handle received through postMessage', () => {
    return typeof (buffer as Partial<SharedRegion> | null | undefined)?.kind === 'string';
  });
  if (!isRegion)
    throw new DmaArgumentError('handle: buffers', buffer, 'a SharedPool.handle received through postMessage');
  if (openRegion === undefined) {
    throw new DmaSharingError(
      'ERR_DMAPOOL_NOT_SHAREABLE',
      `pool ${pool} needs the option openRegion; see openSharedRegion of dmapool/linux`,
    );
  }
  const opened: unknown = openRegion(buffer as SharedRegion);
  if (isInstance(opened, ArrayBuffer) || isShared(opened)) return opened;
  throw new DmaArgumentError('openRegion', opened, 'a function that returns a buffer');
}

/** Throws for an inconsistent handle, which would cause accesses outside the pool's memory. */
function checkAgainst(
  handle: SharedPoolHandle,
  control: Control,
  geometry: PoolGeometry,
  buffers: readonly (ArrayBuffer | SharedArrayBuffer)[],
): void {
  const { header } = control;
  const wrong = (what: string): DmaArgumentError =>
    new DmaArgumentError(`handle: ${what}`, handle, 'a SharedPool.handle received through postMessage');
  if (handle.dmapool !== VERSION) throw wrong('version');
  if (handle.maxBlocks !== header[H_MAX_BLOCKS] || geometry.blocksPerPage !== header[H_PER_PAGE])
    throw wrong('geometry');
  checkInteger('handle: magazine', handle.magazine, 2, MAX_MAGAZINE);
  checkInteger('handle: mostMagazine', handle.mostMagazine, handle.magazine, MAX_MAGAZINE);
  const { debug } = handle;
  if (debug !== null && debug.book.byteLength < SharedBook.bytesFor(control.words.length)) throw wrong('debug');
  if (handle.pages.length !== header[H_MAX_PAGES]! * PER_PAGE_ENTRY) throw wrong('pages');
  for (let at = 0; at < handle.pages.length; at += PER_PAGE_ENTRY) {
    const [dma, number, byteOffset] = handle.pages.subarray(at, at + PER_PAGE_ENTRY) as unknown as number[];
    const buffer = buffers[number!];
    if (buffer === undefined || !Number.isSafeInteger(dma) || !Number.isSafeInteger(byteOffset)) {
      throw wrong('pages');
    }
    if (byteOffset! < 0 || byteOffset! + geometry.allocation > buffer.byteLength) throw wrong('pages');
  }
}

/** Claims a worker slot and creates the backend. */
function attachBackend(
  { device, geometry, handle, control, buffers }: Attached,
  modes: PoolModes,
  list: ListControl,
): SharedBackend {
  const { name, pageSize, maxBlocks, magazine, mostMagazine } = handle;
  const label = labelOf({ name, device });
  const pages = new PoolPages(label, geometry, naturalAlignment(geometry.allocation, pageSize));
  for (let at = 0; at < handle.pages.length; at += PER_PAGE_ENTRY) {
    pages.add({
      dma: handle.pages[at]!,
      buffer: buffers[handle.pages[at + 1]!]!,
      byteOffset: handle.pages[at + 2]!,
      size: geometry.allocation,
    });
  }
  const book = handle.debug === null ? null : new SharedBook(control.words.length, handle.debug.book);
  const hooks = makeHooks(name, geometry.blockSize, pages, modes, book);
  const workers = new Workers(control.header);
  // After all checks of arguments, because every later failure must release the slot.
  const worker = claimSlot(label, workers);
  try {
    if (Atomics.load(control.header, H_STATE) === DESTROYED) {
      throw new DmaDestroyedError(`${label} was destroyed`);
    }
    const lock = new PoolLock(control.header, worker, mayPark());
    if (lock.acquire()) {
      const depot = new Depot(control);
      new Recovery(control, workers, depot, new WaitTickets(control.header), hooks).rebuildFreeList();
    }
    lock.release();
    list.replaceWords(control.words);
    return new SharedBackend({
      name,
      device,
      geometry,
      maxBlocks,
      pages,
      control,
      list,
      worker,
      magazine,
      mostMagazine,
      mayPark: mayPark(),
      handle,
      hooks,
      release: null,
    });
  } catch (error) {
    workers.release(worker);
    throw error;
  }
}

function claimSlot(label: string, workers: Workers): number {
  const thread = currentThread();
  if (workers.unrecorded() > 0 && !workers.isRecorded(thread) && !workers.hasThread(thread)) {
    throw new DmaOutOfMemoryError(
      'ERR_DMAPOOL_LIMIT',
      `${label}: ${String(MAX_THREAD_PAIRS)} threads are watched, but not this one: no worker could recover its blocks`,
    );
  }
  const worker = workers.claim(thread);
  if (worker === 0) throw new DmaOutOfMemoryError('ERR_DMAPOOL_LIMIT', `${label}: too many workers are attached`);
  return worker;
}

/** The memory source of workers that attach: it has no pages besides those of the pool. */
class NoMemory implements CoherentAllocator {
  readonly name: string = 'attached';
  readonly pageSize: number;

  constructor(pageSize: number) {
    this.pageSize = pageSize;
  }

  allocCoherent(): null {
    return null;
  }

  freeCoherent(memory: CoherentMemory): void {
    throw new DmaMappingError('ERR_DMAPOOL_NOT_MAPPED', `no memory at ${hex(memory.dma)} was allocated here`);
  }
}

/** Copies an array of tickets, reading each element once. */
function readTickets(tickets: readonly number[]): number[] {
  const accepted = 'an array of tickets from transfer()';
  if (!isArray(tickets)) throw new DmaArgumentError('tickets', tickets, accepted);
  return reading('tickets', tickets, accepted, () => [...tickets]);
}

/** The checked `count`; default: the length of the array that `whole` names. */
function ticketCount(
  tickets: Float64Array,
  indices: Int32Array,
  count: number | undefined,
  whole: 'tickets' | 'indices',
): number {
  const ticketRoom = typedArrayLength('Float64Array', tickets);
  if (ticketRoom < 0) throw new DmaArgumentError('tickets', tickets, 'a Float64Array');
  const indexRoom = typedArrayLength('Int32Array', indices);
  if (indexRoom < 0) throw new DmaArgumentError('indices', indices, 'an Int32Array');
  const wanted = count ?? (whole === 'tickets' ? ticketRoom : indexRoom);
  checkInteger('count', wanted, 0, Math.min(ticketRoom, indexRoom));
  return wanted;
}
