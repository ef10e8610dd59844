import {
  checkBoolean,
  checkInteger,
  checkObject,
  type OptionNames,
  readOptions,
  typedArrayLength,
} from './arguments.ts';
import { type Device, isDevice } from './device/device.ts';
import { NUMA_NO_NODE } from './device/mask.ts';
import type { DmaError } from './errors.ts';
import { DmaArgumentError, DmaBlockError, DmaSharingError, hex, isArray } from './errors.ts';
import { QUARANTINED } from './pool/free-list.ts';
import {
  borrowScratch,
  hasObject,
  HotPath,
  isCurrent,
  MAX_BLOCKS,
  objectOf,
  openList,
  putObject,
  returnScratch,
  setObjectMaker,
  setSlowPath,
} from './pool/hot-path.ts';
import { type DmaBlock, isBlock, makeBlock } from './pool/block.ts';
import { type DebugBook, LocalBook } from './pool/debug.ts';
import type { DebugOptions } from './pool/debug.ts';
import { debugByEnvironment, forgetAtExit, reportAtExit } from './pool/exit-report.ts';
import { type GeometryOptions, PoolGeometry } from './pool/geometry.ts';
import { makeHooks, type PoolModes } from './pool/modes.ts';
import { listPool, unlistPool } from './pool/pools-attribute.ts';
import type { Gfp, PoolCounts } from './pool/backend.ts';
import type { PoolStatistics } from './pool/statistics.ts';
import {
  type AttachOptions,
  attachStore,
  openHandle,
  SHARE_OPTIONS,
  type ShareOptions,
  shareStore,
} from './shared/shared-pool.ts';
import type { SharedPoolHandle } from './shared/handle.ts';
import type { DeathReport } from './shared/core.ts';
import type { WatchableWorker } from './shared/threads.ts';
import type { PoolStore, Sharing } from './pool/backend.ts';
import { UnsharedStore } from './pool/local-backend.ts';
import type { WaitOptions } from './pool/waiting.ts';
import type { Wording } from './pool/wording.ts';

/** Block objects made in one go. */
const MADE_AT_ONCE = 64;

/** Given by the calls that make pools; JavaScript can call a private constructor, and such a pool would have no store. */
const MAKING: unique symbol = Symbol('making a pool');

/** True for a pool: not for a look-alike, nor for a proxy of one. */
export let isPool: (value: unknown) => value is DmaPool;

/** What a pool is made of, besides its name and device. */
export interface DmaPoolOptions extends Omit<GeometryOptions, 'pageSize'> {
  /** Most blocks that may be out at one time, 1 to 2^30-1. Default: as many as the memory source can hold. */
  readonly maxBlocks?: number;
  /** NUMA node its pages should come from (Linux: `dma_pool_create_node`). Default: the device's. */
  readonly node?: number;
  /** Debug mode. Default: off, or what the environment variable `DMAPOOL_DEBUG` says. */
  readonly debug?: boolean | DebugOptions;
  /** Zero every block when it is handed out (Linux: `init_on_alloc`). Default false. */
  readonly initOnAlloc?: boolean;
  /** Zero every block when it comes back (Linux: `init_on_free`). Default false. */
  readonly initOnFree?: boolean;
  /** For `dmapool/kernel`. @internal */
  readonly wording?: Wording;
}

const POOL_OPTIONS: OptionNames<DmaPoolOptions> = {
  size: true,
  align: true,
  boundary: true,
  maxBlocks: true,
  node: true,
  debug: true,
  initOnAlloc: true,
  initOnFree: true,
  wording: false,
};
const DEBUG_OPTIONS: OptionNames<DebugOptions> = { quarantine: true, sites: true };

/**
 * Equal, aligned blocks of coherent memory for one device (Linux: `struct dma_pool`).
 *
 * Blocks of a fresh page come out in ascending order of address; a freed block is the next one out. A new page is taken
 * only when no block is free; pages go back at `destroy` or `trim`, never by themselves. Every free is checked, always.
 *
 * @example
 * ```ts
 * using device = new Device({ name: '0000:00:02.0' });
 * using pool = DmaPool.create('ehci_qtd', device, { size: 96, align: 32, boundary: 4096 });
 * const qtd = pool.zalloc();
 * qtd.view.setUint32(0, 0x1, true); // no next qTD
 * console.log(qtd.dma % 32); // 0
 * pool.free(qtd);
 * ```
 */
export class DmaPool<N extends string = string>
  extends HotPath<DmaBlock<N>>
  implements Disposable, Iterable<DmaBlock<N>>
{
  #store!: PoolStore;
  /** What debug mode remembers of each block; null when it is off. */
  #book: DebugBook | null = null;
  readonly #modes: PoolModes;
  #forgetManaged: (() => boolean) | null = null;

  /** Name, as given; shown in messages and in the device's `pools` attribute. */
  readonly name: N;
  /** The device that its blocks are for. */
  readonly device: Device;
  /** How its pages are cut. */
  readonly geometry: PoolGeometry;
  /** NUMA node its pages are asked for; -1: none in particular. */
  readonly node: number;
  /** Most blocks that may be out at one time. */
  readonly maxBlocks: number;

  private constructor(
    key: symbol,
    name: N,
    device: Device,
    geometry: PoolGeometry,
    node: number,
    maxBlocks: number,
    modes: PoolModes,
  ) {
    super(new Int32Array(0));
    if (key !== MAKING) throw new DmaArgumentError('new DmaPool', key, 'DmaPool.create() in its place');
    setObjectMaker<DmaBlock<N>>(this, (index) => this.#makeObject(index));
    this.#modes = modes;
    this.name = name;
    this.device = device;
    this.geometry = geometry;
    this.node = node;
    this.maxBlocks = maxBlocks;
  }

  static #make<const N extends string>(name: N, device: Device, options: DmaPoolOptions): DmaPool<N> {
    const { size, align = 0, boundary = 0 } = options;
    const geometry = new PoolGeometry({ size, align, boundary, pageSize: device.memory.pageSize });
    const { maxBlocks = MAX_BLOCKS, node = device.numaNode, initOnAlloc = false, initOnFree = false } = options;
    const { debug: debugWanted = debugByEnvironment(), wording = 'own' } = options;
    checkInteger('maxBlocks', maxBlocks, 1, MAX_BLOCKS);
    checkInteger('node', node, NUMA_NO_NODE, 1023);
    checkBoolean('initOnAlloc', initOnAlloc);
    checkBoolean('initOnFree', initOnFree);
    if (wording !== 'own' && wording !== 'linux') throw new DmaArgumentError('wording', wording, 'own or linux');
    const modes: PoolModes = { debug: debugOptions(debugWanted), initOnAlloc, initOnFree, wording };
    const pool = new DmaPool(MAKING, name, device, geometry, node, maxBlocks, modes);
    const list = openList(pool);
    const onGone = (): void => {
      forgetAtExit(pool);
    };
    const store = new UnsharedStore({ name, device, geometry, node, maxBlocks, list, onGone, wording });
    pool.#book = modes.debug === null ? null : new LocalBook();
    const hooks = makeHooks(name, geometry.blockSize, store.pages, modes, pool.#book);
    if (hooks !== null) store.setHooks(hooks);
    pool.#store = store;
    setSlowPath(pool, store);
    return pool;
  }

  /**
   * Creates a pool (Linux: `dma_pool_create`). It takes no page until a block is wanted.
   *
   * @param name Shown in messages and in the `pools` attribute, which cuts it to 31 bytes.
   * @param device Who will use the blocks.
   * @param options Size, align, boundary, and how the pool behaves.
   * @throws {@link DmaArgumentError} that names the argument and what would be accepted.
   * @throws {@link DmaExistsError} when it is the device's first pool and somebody else's attribute is called `pools`.
   */
  static create<const N extends string>(name: N, device: Device, options: DmaPoolOptions): DmaPool<N> {
    if (typeof name !== 'string' || name === '' || hasControlCharacter(name)) {
      throw new DmaArgumentError('name', name, 'a text that is not empty, without control characters');
    }
    if (!isDevice(device)) throw new DmaArgumentError('device', device, 'a Device');
    const pool = DmaPool.#make(name, device, readOptions('options', options, POOL_OPTIONS));
    listPool(device, pool, (most) => pool.#idlePages(most));
    if (pool.#book !== null) reportAtExit(pool);
    return pool;
  }

  /**
   * {@link DmaPool.create}, and the pool is destroyed by `device.detach()` (Linux: `dmam_pool_create`), in its turn:
   * what was made managed last goes first.
   */
  static createManaged<const N extends string>(name: N, device: Device, options: DmaPoolOptions): DmaPool<N> {
    const pool = DmaPool.create(name, device, options);
    pool.#forgetManaged = device.addAction(() => {
      pool.destroy();
    });
    return pool;
  }

  #makeObject(index: number): DmaBlock<N> {
    const book = this.#book;
    if (book !== null) return putObject(this, index, makeBlock(this, index, book.generationOf(index)));
    // A whole run of the page at once: neighbours in the page become neighbours in the heap, and making objects stays
    // rare, so that the engine does not take it for the usual case while a pool is new.
    const { blocksPerPage } = this.geometry;
    const slot = Math.floor(index / blocksPerPage);
    const first = index - ((index - slot * blocksPerPage) % MADE_AT_ONCE);
    const end = Math.min(first + MADE_AT_ONCE, (slot + 1) * blocksPerPage);
    for (let i = first; i < end; i++) if (!hasObject(this, i)) putObject(this, i, makeBlock(this, i, 0));
    return objectOf(this, index);
  }

  protected override notOurs(block: unknown): DmaError {
    if (!isBlock(block)) return new DmaArgumentError('block', block, `a block of pool ${this.name}`);
    const { index, pool, generation } = block;
    const where = `${this.device.name}: pool ${this.name}`;
    if (pool !== this) {
      return new DmaBlockError(
        'ERR_DMAPOOL_WRONG_POOL',
        `${where}: block ${String(index)} belongs to pool ${pool.name} of ${pool.device.name}`,
      );
    }
    if (this.#store.gone) return this.#store.badFree(index);
    return new DmaBlockError(
      'ERR_DMAPOOL_STALE_BLOCK',
      `${where}: this handle of block ${String(index)} is not the current one: ` +
        `${this.#whatHappened(index, generation)}${this.#store.history(index)}`,
    );
  }

  /** How a handle of block `index` came to be an old one. */
  #whatHappened(index: number, generation: number): string {
    const word = openList(this).word(index);
    if (word === QUARANTINED) {
      return 'the block was freed, was written to while it was free, and is in quarantine: nobody gets it any more';
    }
    const now = this.#book?.generationOf(index) ?? generation;
    if (now !== generation) {
      return `the block was freed and handed out again since (handle of generation ${String(generation)}, now ${String(now)})`;
    }
    return 'the block was freed and its page was given back since';
  }

  /** True while `block` is this pool's, handed out, and the handle is the current one. */
  owns(block: DmaBlock<N>): boolean {
    return isBlock(block) && isCurrent(this, block) && this.isAllocated(block.index);
  }

  /**
   * Takes `count` blocks and puts them into `into[0..count)`: all of them, or none and an error. They are the same
   * blocks, in the same order, as `count` single calls would give.
   *
   * @param gfp `atomic`: do not take a new page from the memory source.
   * @throws as {@link alloc}
   */
  allocBulk(into: DmaBlock<N>[], count: number, gfp: Gfp = 'kernel'): void {
    checkBulk('into', into, count, MAX_BLOCKS);
    const taken = borrowScratch(this, count);
    try {
      this.allocIndexBulk(taken, count, gfp);
      this.#toBlocks(taken, into, count);
    } finally {
      returnScratch(this, taken);
    }
  }

  /** {@link allocBulk}, but false when there are not enough blocks to be had. */
  tryAllocBulk(into: DmaBlock<N>[], count: number, gfp: Gfp = 'kernel'): boolean {
    checkBulk('into', into, count, MAX_BLOCKS);
    const taken = borrowScratch(this, count);
    try {
      if (!this.tryAllocIndexBulk(taken, count, gfp)) return false;
      this.#toBlocks(taken, into, count);
      return true;
    } finally {
      returnScratch(this, taken);
    }
  }

  #toBlocks(taken: Int32Array, into: DmaBlock<N>[], count: number): void {
    try {
      for (let i = 0; i < count; i++) into[i] = objectOf(this, taken[i]!);
    } catch {
      // One by one: the array may be a proxy whose code has freed some.
      for (let i = 0; i < count; i++) if (this.isAllocated(taken[i]!)) this.freeIndex(taken[i]!);
      throw new DmaArgumentError('into', into, 'an array that can be written to');
    }
  }

  /**
   * Gives `blocks[0..count)` back, as `count` single calls would: all of them, or none and an error.
   *
   * @param count Default: all of `blocks`.
   * @throws as {@link free}; a block that stands there twice is not allocated the second time.
   */
  freeBulk(blocks: readonly DmaBlock<N>[], count?: number): void {
    const wanted = checkBulk('blocks', blocks, count, isArray(blocks) ? blocks.length : 0);
    const going = borrowScratch(this, wanted);
    try {
      for (let i = 0; i < wanted; i++) {
        const block = blocks[i]!;
        if (!isCurrent(this, block)) throw this.notOurs(block);
        going[i] = block.index;
      }
      this.freeIndexBulk(going, wanted);
    } finally {
      returnScratch(this, going);
    }
  }

  /**
   * Waits for a block: the next one that comes free, or that memory can be had for. Who came first is served first, and
   * nobody else gets a block while somebody waits.
   *
   * A queued wait keeps the process alive, as a timer does, until it is served or fails.
   *
   * @param options How long to wait, what ends the wait early, and whether the block has to be zero.
   * @throws (rejects) the signal's reason; {@link DmaTimeoutError}; {@link DmaDestroyedError} when the pool is destroyed
   *   meanwhile; what the memory source throws.
   *
   * @example
   * ```ts
   * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048, maxBlocks: 1 });
   * const first = pool.alloc();
   * setTimeout(() => pool.free(first), 10);
   * const block = await pool.allocWait({ timeout: 1000 });
   * console.log(block === first); // true
   * ```
   */
  allocWait(options: WaitOptions = {}): Promise<DmaBlock<N>> {
    return this.#store.wait((index) => objectOf(this, index), options);
  }

  /** Opens pages until `count` blocks can be had without a new page. @throws as {@link alloc} */
  reserve(count: number): void {
    this.#store.reserve(count);
  }

  /** Gives back every page of which no block is out or in quarantine; returns how many. Old handles of theirs are void. */
  trim(): number {
    return this.#store.trim();
  }

  /**
   * The block that contains a DMA address, such as one that a device reports as done; null if none that is out does. O(1).
   *
   * @param dma Any address, not only a block's first.
   */
  blockAt(dma: number): DmaBlock<N> | null {
    const index = this.indexAt(dma);
    return index < 0 ? null : objectOf(this, index);
  }

  /** {@link blockAt} in the index form; -1 if no block that is out contains `dma`. */
  indexAt(dma: number): number {
    checkInteger('dma', dma, 0, Number.MAX_SAFE_INTEGER);
    const index = this.#store.pages.indexAt(dma);
    return index >= 0 && this.isAllocated(index) ? index : -1;
  }

  /**
   * Frees the block that begins at a DMA address, for code that keeps only that.
   *
   * @param dma Its first address.
   * @throws {@link DmaBlockError} `ERR_DMAPOOL_BAD_ADDRESS` when no block of the pool begins there; else as {@link free}.
   */
  freeAt(dma: number): void {
    checkInteger('dma', dma, 0, Number.MAX_SAFE_INTEGER);
    this.#store.checkNotGone();
    const index = this.#store.pages.indexAt(dma);
    const start = index < 0 ? -1 : this.#store.dmaOf(index);
    if (start !== dma) {
      const where = index < 0 ? 'in no block of it' : `inside block ${String(index)}, which begins at ${hex(start)}`;
      throw new DmaBlockError(
        'ERR_DMAPOOL_BAD_ADDRESS',
        `${this.device.name}: pool ${this.name}: ${hex(dma)} is ${where}`,
      );
    }
    this.freeIndex(index);
  }

  /** Byte offset of block `index` in its page. @throws {@link DmaArgumentError} for an index that is in none of its pages. */
  offsetOf(index: number): number {
    this.#store.pages.check(index);
    return this.#store.pages.offsetOf(index);
  }

  /** Throws unless the handle is the current one of its block; for {@link DmaBlock}. @internal */
  checkCurrent(block: DmaBlock<N>): void {
    if (!isCurrent(this, block)) throw this.notOurs(block);
  }

  /** A block's memory, for {@link DmaBlock}. @internal @throws {@link DmaBlockError} for a handle that is not the current one. */
  viewOf(block: DmaBlock<N>): Uint8Array<ArrayBuffer | SharedArrayBuffer> {
    this.checkCurrent(block);
    return this.#store.bytesOf(block.index);
  }

  /** The blocks that are out, in ascending order of index. Blocks may be freed while iterating. */
  *[Symbol.iterator](): IterableIterator<DmaBlock<N>> {
    for (const index of this.indices()) yield objectOf(this, index);
  }

  /** Indices of the blocks that are out, ascending. */
  *indices(): IterableIterator<number> {
    for (let index = 0; index < this.#store.pages.limit; index++) if (this.isAllocated(index)) yield index;
  }

  // ---- one pool, many workers

  /**
   * Shares the pool with other workers, and returns a handle to post to them. There `DmaPool.attach(handle)` gives the
   * same pool, on the same blocks. Called again, or in a worker that attached, it gives a handle for workers of that one.
   *
   * All pages that the pool may ever have (`maxBlocks`) are reserved now. Each worker keeps some free blocks at hand (a
   * magazine), so that taking and giving are as fast as in a pool of one thread.
   *
   * @param options How many free blocks a worker keeps at hand.
   * @throws {@link DmaSharingError} `ERR_DMAPOOL_NOT_SHAREABLE` without `maxBlocks`, while somebody waits, from within the
   *   memory source or log in the middle of another call, or where the
   *   runtime or the memory source can't share memory.
   * @throws {@link DmaOutOfMemoryError} when the source has not so many pages. Nothing is changed then.
   *
   * @example
   * ```ts
   * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048, maxBlocks: 1024 });
   * const handle = pool.share(); // worker.postMessage(handle), and in the worker DmaPool.attach(handle)
   * console.log(handle.name); // rx
   * ```
   */
  share(options: ShareOptions = {}): SharedPoolHandle {
    const { magazine } = readOptions('options', options, SHARE_OPTIONS);
    const store = this.#store;
    if (store instanceof UnsharedStore) {
      const { name, device, geometry, node, maxBlocks } = this;
      const list = openList(this);
      const shared = shareStore(
        { name, device, geometry, node, maxBlocks, store, list, modes: this.#modes, book: this.#book },
        magazine,
      );
      this.#store = shared;
      if (this.#book !== null) this.#book = shared.book;
      setSlowPath(this, shared);
    }
    return this.#sharing.handle();
  }

  /**
   * Attaches to a pool that another worker shares.
   *
   * @param handle What `share()` gave there, as it came through `postMessage`.
   * @param options This worker's device, if it is to be another one than the handle describes.
   * @throws {@link DmaArgumentError} for anything else, or a handle of another version of this package.
   * @throws {@link DmaOutOfMemoryError} `ERR_DMAPOOL_LIMIT` when 62 workers are attached already, or when 1024 threads are
   *   watched and this one is not among them.
   * @throws {@link DmaDestroyedError} after the pool's destroy. Nothing is changed by an attach that fails.
   */
  static attach<N extends string = string>(handle: SharedPoolHandle, options: AttachOptions = {}): DmaPool<N> {
    const attached = openHandle(handle, options);
    const { name, node, maxBlocks } = attached.handle;
    const pool = new DmaPool(MAKING, name as N, attached.device, attached.geometry, node, maxBlocks, attached.handle);
    const store = attachStore(attached, openList(pool));
    pool.#store = store;
    pool.#book = store.book;
    setSlowPath(pool, store);
    try {
      listPool(attached.device, pool, () => 0);
    } catch (error) {
      store.destroy();
      throw error;
    }
    return pool;
  }

  get #sharing(): Sharing {
    const { sharing } = this.#store;
    if (sharing === null) {
      throw new DmaSharingError(
        'ERR_DMAPOOL_NOT_SHARED',
        `${this.device.name}: pool ${this.name} is not shared; call share() first`,
      );
    }
    return sharing;
  }

  /**
   * Puts a block on its way to another worker: who calls `accept` with the number returned owns it then, and nobody may
   * free it until then. It stays this worker's if this one dies first.
   *
   * @param block One that is out, and this worker's.
   * @returns A whole number below 2^53, good for one `accept`.
   * @throws {@link DmaBlockError} as {@link free}, `ERR_DMAPOOL_NOT_OWNER` when it is another worker's.
   */
  transfer(block: DmaBlock<N>): number {
    if (!isBlock(block) || !isCurrent(this, block)) throw this.notOurs(block);
    return this.#sharing.transfer(block.index);
  }

  /** {@link transfer} in the index form. */
  transferIndex(index: number): number {
    checkInteger('index', index, 0, MAX_BLOCKS);
    return this.#sharing.transfer(index);
  }

  /**
   * Takes a block that another worker put on its way. What that one wrote to the block is seen here.
   *
   * @param ticket What {@link transfer} returned there.
   * @throws {@link DmaBlockError} `ERR_DMAPOOL_BAD_TICKET` when it is not on its way: accepted already, or its giver died.
   */
  accept(ticket: number): DmaBlock<N> {
    return objectOf(this, this.#sharing.accept(ticket));
  }

  /** {@link accept} in the index form. */
  acceptIndex(ticket: number): number {
    return this.#sharing.accept(ticket);
  }

  /**
   * {@link transferIndex} for many: puts a ticket for each of `from[0..count)` into `tickets`. All of them, or none.
   */
  transferIndexBulk(from: Int32Array, tickets: Float64Array, count?: number): void {
    const sharing = this.#sharing;
    const going = ticketCount(tickets, from, count, 'indices');
    for (let i = 0; i < going; i++) {
      try {
        tickets[i] = sharing.transfer(from[i]!);
      } catch (error) {
        // What is on its way comes back, for nobody has its ticket yet.
        for (let k = 0; k < i; k++) sharing.accept(tickets[k]!);
        throw error;
      }
    }
  }

  /** {@link acceptIndex} for many: takes all of `tickets[0..count)` and puts their indices into `into`, or none. */
  acceptIndexBulk(tickets: Float64Array, into: Int32Array, count?: number): void {
    const sharing = this.#sharing;
    sharing.acceptAll(tickets, into, ticketCount(tickets, into, count, 'tickets'));
  }

  /**
   * Has the end of a worker noticed: its free blocks come back, and what it had out is reported and kept until
   * {@link reclaim}. Workers that this thread makes after `share` or `attach` are watched by themselves where the runtime
   * tells of them (Node, Bun, Deno).
   *
   * @param worker A Worker of `node:worker_threads` that was not ended yet.
   * @throws {@link DmaArgumentError} for anything else.
   * @throws {@link DmaOutOfMemoryError} `ERR_DMAPOOL_LIMIT` when 1024 threads are watched. Its end is noticed all the
   *   same, but not as the end of the workers that it makes.
   */
  watch(worker: WatchableWorker): void {
    this.#sharing.watch(worker);
  }

  /**
   * Calls `listener` for each worker whose end is settled here, after its free blocks came back. What it throws goes to
   * the device's log.
   *
   * @returns A function that ends it.
   */
  onDeath(listener: (report: DeathReport) => void): () => void {
    return this.#sharing.onDeath(listener);
  }

  /**
   * Says that a thread ended, where nothing else can: for Web Workers, after `terminate()`.
   *
   * It is believed unless the thread is known to live. A worker that lives all the same is out of the pool: it sees so at
   * its next slow call or turn of its event loop, and each of its calls then throws `ERR_DMAPOOL_DECLARED_ENDED`. Until
   * then it may hand out blocks of its magazine that others get too.
   *
   * @param thread Its number there: `pool.thread`, or the worker's `threadId`.
   * @returns What it had out; empty if that is known already, or if the lock can't be had now: then it is settled later,
   *   and told to {@link onDeath}.
   * @throws {@link DmaSharingError} `ERR_DMAPOOL_THREAD_ALIVE` for the caller's own thread, one above it, or one whose
   *   `Worker` object is watched by a worker of the pool: its exit alone counts.
   */
  workerEnded(thread: number): readonly DeathReport[] {
    checkInteger('thread', thread, 0, Number.MAX_SAFE_INTEGER);
    return this.#sharing.workerEnded(thread);
  }

  /** Number of this worker in the shared pool, from 1 up, for messages. */
  get worker(): number {
    return this.#sharing.worker;
  }

  /**
   * Number of this thread, for {@link workerEnded}: the platform's, or where it has none, one that this thread drew by
   * lot. A Web Worker tells it to who made it as soon as it has attached.
   */
  get thread(): number {
    return this.#sharing.thread;
  }

  /**
   * Takes back what dead workers had out. For when no device writes there any more, such as after its reset;
   * `device.reclaim()` does it too.
   *
   * @returns How many blocks.
   */
  reclaim(): number {
    return this.#sharing.reclaim();
  }

  /** Active, blocks, pages: what the `pools` attribute shows. */
  counts(): PoolCounts {
    return this.#store.account();
  }

  /** All figures at this moment. */
  statistics(): PoolStatistics {
    return this.#store.statistics();
  }

  /**
   * Ends the pool (Linux: `dma_pool_destroy`): no block is handed out any more, and memory goes back to the source.
   *
   * If blocks are out, says so on the device's log, with who holds them, and keeps their pages, because hardware may
   * still write there. They can be freed later; with the last one the pages go back. `device.reclaim()`, after a
   * reset of the device, takes the rest back. A second destroy does nothing.
   *
   * In a shared pool another worker goes on with the blocks of its own magazine until its next slow call or turn of its
   * event loop; from then on it is refused too. Called in a worker that attached, it takes that worker out of the pool.
   */
  destroy(): void {
    unlistPool(this.device, this);
    this.#forgetManaged?.();
    this.#forgetManaged = null;
    this.#store.destroy();
  }

  /** Pages that {@link trim} would give back, of the first `most` pages. */
  #idlePages(most: number): number {
    const store = this.#store;
    return store instanceof UnsharedStore ? store.idlePages(most) : 0;
  }

  /** Reports what is still out; called when the process ends. @internal */
  reportLeaks(): void {
    if (this.counts().active > 0) {
      this.device.report(
        'error',
        `${this.name} leaked`,
        `${this.name}: at the end of the process ${this.#store.holders()}`,
      );
    }
  }

  /** {@link destroy}, for `using`. */
  [Symbol.dispose](): void {
    this.destroy();
  }

  static {
    isPool = (value): value is DmaPool => typeof value === 'object' && value !== null && #modes in value;
  }
}

/** How many of `array`: `count`, or all of them. */
function checkBulk(argument: string, array: readonly unknown[], count: number | undefined, most: number): number {
  if (!isArray(array)) throw new DmaArgumentError(argument, array, 'an array');
  if (count === undefined && argument === 'blocks') return array.length;
  checkInteger('count', count, 0, most);
  return count;
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

function debugOptions(debug: unknown): DebugOptions | null {
  if (debug === false) return null;
  if (debug === true) return {};
  checkObject('debug', debug, 'true, false, or an object with quarantine and sites');
  const { quarantine = true, sites = true } = readOptions('debug', debug, DEBUG_OPTIONS);
  checkBoolean('debug.quarantine', quarantine);
  checkBoolean('debug.sites', sites);
  return { quarantine, sites };
}

function hasControlCharacter(text: string): boolean {
  return Array.from(text).some((character) => character < ' ' || character === '\x7f');
}
