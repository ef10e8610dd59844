/** Sharing a pool with other workers: {@link sharePool}, {@link attachPool}, and what a worker can do with such a pool. */
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
  MAX_KIN,
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

/** How to share a pool. */
export interface ShareOptions {
  /**
   * Most free blocks that a worker keeps at hand, 2 to 65536. Default: it adapts, from an eighth of `maxBlocks` (8 to
   * 256) up to the worker's share of it while nobody misses them, and back when somebody does.
   */
  readonly magazine?: number;
}

/** How to attach to a shared pool. */
export interface AttachOptions {
  /** This worker's device. Default: one made from what the handle says, which logs to the console. */
  readonly device?: Device;
  /**
   * How to see memory that is no `SharedArrayBuffer`: for pools on memory of QEMU machines and of the system, the function
   * `openSharedRegion` of `dmapool/linux`.
   */
  readonly openRegion?: (region: SharedRegion) => ArrayBuffer | SharedArrayBuffer;
}

const SHARE_OPTIONS: OptionNames<ShareOptions> = { magazine: true };
const ATTACH_OPTIONS: OptionNames<AttachOptions> = { device: true, openRegion: true };

/** Worker number of the one who shares. */
const CREATOR = 1;
const MOST_MAGAZINE = 65_536;

/** Shared pools of this worker, so that sharing twice gives the same object. */
const sharedPools = new WeakMap<DmaPool, SharedPool>();

/**
 * One worker's side of a shared pool. `pool` is the same pool in every worker, on the same blocks; its calls are as fast as
 * those of a pool of one thread. A block belongs to the worker that allocated or accepted it, and only that worker may
 * free it.
 *
 * @example
 * ```ts
 * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048, maxBlocks: 1024 });
 * const shared = sharePool(pool); // worker.postMessage(shared.handle), and in the worker attachPool(handle)
 * const ticket = shared.transfer(pool.alloc()); // for another worker's accept(ticket)
 * console.log(shared.inTransit().length); // 1
 * const [block] = shared.recall([ticket]); // none has accepted it
 * pool.free(block!);
 * ```
 */
export class SharedPool<N extends string = string> {
  /** The pool. */
  readonly pool: DmaPool<N>;
  /** What other workers need to attach: post it to them, and call {@link attachPool} there. */
  readonly handle: SharedPoolHandle;
  /** Number of this worker in the pool, from 1 up, for messages. */
  readonly worker: number;
  /**
   * Number of this thread, for {@link reportWorkerExit}: the platform's, or where it has none, a random one. A Web Worker
   * posts it to the thread that made it as soon as it has attached.
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
   * Puts a block in transit to another worker: the one that calls {@link accept} with the ticket owns it then. Until then
   * no worker may free it, and this one can {@link recall} it.
   *
   * @param block An allocated one of this worker.
   * @returns The ticket: a whole number below 2^53, good for one `accept`.
   * @throws `DmaBlockError` as `free`; `ERR_DMAPOOL_NOT_OWNER` when the block is another worker's.
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

  /** {@link transferIndex} for many: puts a ticket for each of `from[0..count)` into `tickets`. All of them, or none. */
  transferIndexBulk(from: Int32Array, tickets: Float64Array, count?: number): void {
    const wanted = ticketCount(tickets, from, count, 'indices');
    for (let i = 0; i < wanted; i++) {
      try {
        tickets[i] = this.#backend.transfer(from[i]!);
      } catch (error) {
        // No other worker has the tickets yet. Not a recall, which may fail where the lock can't be had.
        for (let k = 0; k < i; k++) this.#backend.accept(tickets[k]!);
        throw error;
      }
    }
  }

  /**
   * Accepts a block in transit: it is this worker's now. What the giver wrote to the block before is seen here. The giver
   * may accept its own ticket, too.
   *
   * @param ticket What {@link transfer} returned in the other worker.
   * @throws {@link DmaSharingError} `ERR_DMAPOOL_BAD_TICKET` when the block is not in transit: accepted or recalled already, or
   *   its giver died.
   */
  accept(ticket: number): DmaBlock<N> {
    return objectOf(this.#inside.hot, this.#backend.accept(ticket));
  }

  /** {@link accept} in the index form. */
  acceptIndex(ticket: number): number {
    return this.#backend.accept(ticket);
  }

  /** {@link acceptIndex} for many: accepts all of `tickets[0..count)` and puts their indices into `into`, or none. */
  acceptIndexBulk(tickets: Float64Array, into: Int32Array, count?: number): void {
    this.#backend.acceptAll(tickets, into, ticketCount(tickets, into, count, 'tickets'));
  }

  /** Blocks in transit: those that this worker gave and none has accepted, ascending by index. */
  inTransit(): readonly TransitEntry[] {
    return this.#backend.inTransit();
  }

  /**
   * Takes back blocks in transit, such as those for a worker that died: they are this worker's again, as if it had not
   * given them. Each block is either recalled here or accepted elsewhere, never both.
   *
   * @param tickets Which ones. Those that are not in transit from this worker (any more) are skipped: they were accepted.
   *   Default: all that this worker gave.
   * @returns The blocks that were recalled.
   * @throws `DmaArgumentError` for what is no ticket; `DmaTimeoutError` when another worker that is not known to be
   *   dead holds the pool's lock. Nothing is changed then.
   */
  recall(tickets?: readonly number[]): DmaBlock<N>[] {
    return this.recallIndex(tickets).map((index) => objectOf(this.#inside.hot, index));
  }

  /** {@link recall} in the index form. */
  recallIndex(tickets?: readonly number[]): number[] {
    return this.#backend.recall(tickets === undefined ? undefined : readTickets(tickets));
  }

  /**
   * Takes back what dead workers had allocated. For when no device writes there any more, such as after its reset;
   * `device.reclaim()` does it too.
   *
   * @returns How many blocks.
   */
  reclaim(): number {
    return this.#backend.reclaim();
  }

  /**
   * Monitors a worker for exit: its free blocks come back then, and what it had allocated is reported and kept until
   * {@link reclaim}. Workers that this thread makes after `sharePool` or `attachPool` are watched without a call where the
   * runtime announces them (Node, Bun, Deno).
   *
   * @param worker A Worker of `node:worker_threads` that has not exited yet.
   * @throws `DmaArgumentError` for anything else.
   * @throws `DmaOutOfMemoryError` `ERR_DMAPOOL_LIMIT` when 1024 threads are watched. Its exit is seen all the same,
   *   but not as the end of the workers that it makes.
   *
   * @example
   * ```ts
   * import { Worker } from 'node:worker_threads';
   *
   * const worker = new Worker('setInterval(() => {}, 1000)', { eval: true });
   * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048, maxBlocks: 1024 });
   * const shared = sharePool(pool);
   * shared.watchWorker(worker); // made before the pool was shared
   * await worker.terminate();
   * ```
   */
  watchWorker(worker: WatchableWorker): void {
    this.#backend.watchWorker(worker);
  }

  /**
   * Calls `listener` for each worker whose exit is settled here, after its free blocks came back. What it throws goes to
   * the device's log.
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
   * Reports that a thread ended, where nothing else can: for Web Workers, after `terminate()`.
   *
   * The report is taken as true unless the thread is known to live. A worker that lives all the same is out of the pool:
   * each of its calls throws `ERR_DMAPOOL_DECLARED_ENDED` from its next slow call or turn of its event loop on. Until then it
   * may allocate blocks of its magazine that others get too.
   *
   * @param thread Its number: `SharedPool.thread` there, or the worker's `threadId`.
   * @returns What it had allocated; empty if that is known already, or if the lock can't be had now: then it is settled
   *   later, and {@link onWorkerExit} tells.
   * @throws {@link DmaSharingError} `ERR_DMAPOOL_THREAD_ALIVE` for the caller's own thread, one above it, or one whose `Worker`
   *   object is watched by a worker of the pool: its exit alone counts.
   *
   * @example
   * ```ts
   * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048, maxBlocks: 1024 });
   * const shared = sharePool(pool);
   * const thread = 7; // SharedPool.thread there, which the Web Worker posted here
   * // webWorker.terminate();
   * for (const { worker, out } of shared.reportWorkerExit(thread)) console.log(worker, out.length);
   * ```
   */
  reportWorkerExit(thread: number): readonly WorkerExit[] {
    checkInteger('thread', thread, 0, Number.MAX_SAFE_INTEGER);
    return this.#backend.reportWorkerExit(thread);
  }

  /** What `console.log` shows. @internal */
  [INSPECT](): string {
    const { name, device } = this.pool;
    const count = this.inTransit().length;
    return `SharedPool ${name} of ${device.name}: worker ${String(this.worker)}, ${String(count)} in transit from it`;
  }
}

/**
 * Shares a pool with other workers.
 *
 * All pages that the pool may ever have (`maxBlocks`) are reserved now. Each worker keeps a magazine of free blocks, so that
 * `alloc` and `free` are as fast as in a pool of one thread.
 *
 * @param pool A pool with `maxBlocks`, with or without allocated blocks; or one that is shared already, for which the same
 *   `SharedPool` is returned.
 * @param options How many free blocks a worker keeps.
 * @throws {@link DmaSharingError} `ERR_DMAPOOL_NOT_SHAREABLE` without `maxBlocks`, while a caller waits, from within the memory
 *   source or log in the middle of another call, or where the runtime or the memory source can't share memory.
 * @throws `DmaOutOfMemoryError` when the source has not enough pages. Nothing is changed by a call that throws.
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
  // A pool has either a local backend or a shared one, and the shared ones are known.
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
 * Turns the backend of one thread into a shared one. All pages that the pool may ever have are taken from the source now,
 * so that any worker can open the next one without a message; what was never touched costs the system no memory.
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
    throw refuse('there is no SharedArrayBuffer here (a web page needs cross-origin isolation)');
  }
  if (maxBlocks > MAX_SHARED_BLOCKS) {
    throw refuse(
      `create it with maxBlocks, at most ${String(MAX_SHARED_BLOCKS)}: all its pages are reserved when it is shared`,
    );
  }
  const magazine = wantedMagazine ?? Math.min(256, Math.max(8, maxBlocks >> 3));
  const mostMagazine = wantedMagazine ?? Math.max(magazine, Math.min(MOST_MAGAZINE, maxBlocks));
  checkInteger('magazine', magazine, 2, MOST_MAGAZINE);
  const perPage = geometry.blocksPerPage;
  const { debug, initOnAlloc, initOnFree } = modes;
  // All that may fail, or that calls the memory source, comes before the pool gives up its memory.
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

/** Where the pages are, as it stands in the handle. */
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

/** How workers find memory that does not travel by itself. */
function regionOf(label: string, memory: CoherentAllocator, buffer: ArrayBuffer): SharedRegion {
  if (typeof memory.shareBuffer !== 'function') {
    throw new DmaSharingError(
      'ERR_DMAPOOL_NOT_SHAREABLE',
      `${label}: memory source ${memory.name} gives memory that no other worker can see`,
    );
  }
  return memory.shareBuffer(buffer);
}

/** The list of the one thread becomes the depot; what is out stays out, with the one who shares. */
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
  // A page may have more blocks than the limit allows.
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
 * Attaches to a pool that another worker shares.
 *
 * @param handle {@link SharedPool.handle} there, as it came through `postMessage`.
 * @param options This worker's device, if it is to be another one than the handle describes.
 * @throws `DmaArgumentError` for anything else, or a handle of another version of this package.
 * @throws `DmaOutOfMemoryError` `ERR_DMAPOOL_LIMIT` when 62 workers are attached already, or when 1024 threads are
 *   watched and this one is not among them.
 * @throws `DmaDestroyedError` after the pool's destroy. Nothing is changed by an attach that fails.
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
  const pool = makePool({ name: name as N, device, geometry, node, maxBlocks, modes }, (list) => {
    const backend = attachBackend(attached, modes, list);
    return { backend, book: backend.book };
  });
  const inside = openPool(pool);
  try {
    listPool(inside);
  } catch (error) {
    inside.backend.destroy();
    throw error;
  }
  return remember(pool, inside.backend as SharedBackend);
}

/** What an attached pool is made of. */
interface Attached {
  readonly device: Device;
  readonly geometry: PoolGeometry;
  readonly handle: SharedPoolHandle;
  readonly control: Control;
  /** The handle's buffers, as this worker sees them. */
  readonly buffers: readonly (ArrayBuffer | SharedArrayBuffer)[];
}

/** Reads a handle; the worker's slot is taken by {@link attachBackend}. */
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

/** A handle's buffer, as this worker sees it. */
function openBuffer(
  pool: string,
  buffer: unknown,
  openRegion: AttachOptions['openRegion'],
): ArrayBuffer | SharedArrayBuffer {
  if (isShared(buffer)) return buffer;
  // What lies in a plain buffer would be a copy.
  const isRegion = reading('handle: buffers', buffer, 'SharedPool.handle, as it came through postMessage', () => {
    return typeof (buffer as Partial<SharedRegion> | null | undefined)?.kind === 'string';
  });
  if (!isRegion)
    throw new DmaArgumentError('handle: buffers', buffer, 'SharedPool.handle, as it came through postMessage');
  if (openRegion === undefined) {
    throw new DmaSharingError(
      'ERR_DMAPOOL_NOT_SHAREABLE',
      `pool ${pool} lies in memory of the system; attach with { openRegion: openSharedRegion } of dmapool/linux`,
    );
  }
  const opened: unknown = openRegion(buffer as SharedRegion);
  if (isInstance(opened, ArrayBuffer) || isShared(opened)) return opened;
  throw new DmaArgumentError('openRegion', opened, 'a function that gives a buffer');
}

/** Throws if a handle was put together wrongly: a worker would read and write where it should not. */
function checkAgainst(
  handle: SharedPoolHandle,
  control: Control,
  geometry: PoolGeometry,
  buffers: readonly (ArrayBuffer | SharedArrayBuffer)[],
): void {
  const { header } = control;
  const wrong = (what: string): DmaArgumentError =>
    new DmaArgumentError(`handle: ${what}`, handle, 'SharedPool.handle, as it came through postMessage');
  if (handle.dmapool !== VERSION) throw wrong('version');
  if (handle.maxBlocks !== header[H_MAX_BLOCKS] || geometry.blocksPerPage !== header[H_PER_PAGE])
    throw wrong('geometry');
  checkInteger('handle: magazine', handle.magazine, 2, MOST_MAGAZINE);
  checkInteger('handle: mostMagazine', handle.mostMagazine, handle.magazine, MOST_MAGAZINE);
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

/** Takes a worker's slot and makes its side of the pool. */
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
  // The last thing that can fail for a reason in the arguments came before: a slot is somebody's until it is released.
  const worker = claimSlot(label, workers);
  try {
    if (Atomics.load(control.header, H_STATE) === DESTROYED) {
      throw new DmaDestroyedError(`${label} was destroyed; there is nothing to attach to`);
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
  if (workers.missed() > 0 && !workers.isRecorded(thread) && !workers.hasThread(thread)) {
    throw new DmaOutOfMemoryError(
      'ERR_DMAPOOL_LIMIT',
      `${label}: ${String(MAX_KIN)} threads are watched, and this one is not among them: nobody could recover its blocks`,
    );
  }
  const worker = workers.claim(thread);
  if (worker === 0) throw new DmaOutOfMemoryError('ERR_DMAPOOL_LIMIT', `${label}: too many workers are attached`);
  return worker;
}

/** In place of a memory source in workers that attach: the pool's pages are all there are. */
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

/** Tickets of the user's array, read once. */
function readTickets(tickets: readonly number[]): number[] {
  const accepted = 'an array of tickets from transfer()';
  if (!isArray(tickets)) throw new DmaArgumentError('tickets', tickets, accepted);
  return reading('tickets', tickets, accepted, () => [...tickets]);
}

/** How many of both arrays: `count`, or all of the one that `whole` names. */
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
