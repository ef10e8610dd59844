/** The class behind {@link DmaPool}. It combines hot path, backend and block objects. */
import { checkBoolean, checkInteger, checkObject, checkText, type OptionNames, readOptions } from './arguments.ts';
import { type Device, isDevice } from './device/device.ts';
import { NUMA_NO_NODE } from './device/mask.ts';
import { DmaArgumentError, DmaBlockError, type DmaError, hex, isArray } from './errors.ts';
import { observer } from './memory/observer.ts';
import { labelOf, type PoolBackend } from './pool/backend.ts';
import { isBlock, makeBlock } from './pool/block.ts';
import { type AllocOptions, type DmaBlock, type DmaPool as Contract, INSPECT } from './pool/contract.ts';
import { type DebugBook, LocalBook, makeHooks } from './pool/debug.ts';
import { debugByEnvironment, forgetAtExit, reportAtExit } from './pool/exit-report.ts';
import { type ListControl, QUARANTINED } from './pool/free-list.ts';
import { type GeometryOptions, PoolGeometry } from './pool/geometry.ts';
import { type DebugOptions, OWN_TEXTS, type PoolModes, type ReportTexts } from './pool/hooks.ts';
import {
  borrowScratch,
  checkCurrent,
  hasObject,
  HotPath,
  isAllocated,
  MAX_BLOCKS,
  objectOf,
  openList,
  putObject,
  returnScratch,
  setObjectMaker,
  setSlowPath,
} from './pool/hot-path.ts';
import { LocalBackend } from './pool/local-backend.ts';
import { listPool, unlistPool } from './pool/pools-attribute.ts';
import type { PoolStatistics } from './pool/statistics.ts';
import type { WaitOptions } from './pool/waiting.ts';

/** Number of block objects created at a time. */
const MADE_AT_ONCE = 64;

/** Options of a pool. */
export interface DmaPoolOptions extends Omit<GeometryOptions, 'pageSize'> {
  /** Limit of allocated blocks, 1 to 2^30-1. Default: no limit except the memory source's. */
  readonly maxBlocks?: number;
  /**
   * Preferred NUMA node of the pages, -1 to 1023; -1: no preference (Linux: `dma_pool_create_node`). Default: the
   * device's.
   */
  readonly node?: number;
  /** Debug mode. Default: the environment variable `DMAPOOL_DEBUG`, or off. */
  readonly debug?: boolean | DebugOptions;
  /** Zero every block when it is allocated (Linux: `init_on_alloc`). Default false. */
  readonly initOnAlloc?: boolean;
  /** Zero every block when it is freed (Linux: `init_on_free`). Default false. */
  readonly initOnFree?: boolean;
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
};
const DEBUG_OPTIONS: OptionNames<DebugOptions> = { quarantine: true, sites: true };

/** The checked parameters of a pool. */
export interface PoolParts<N extends string> {
  readonly name: N;
  readonly device: Device;
  readonly geometry: PoolGeometry;
  /** NUMA node of the page requests; -1: no preference. */
  readonly node: number;
  readonly maxBlocks: number;
  readonly modes: PoolModes;
}

/** The private state of a pool, for other parts of the package. Not exported from the package. */
export interface PoolInside<N extends string = string> extends PoolParts<N> {
  readonly hot: HotPath<DmaBlock<N>>;
  readonly list: ListControl;
  backend: PoolBackend;
  /** Debug records of each block; null if debug mode is off. */
  book: DebugBook | null;
}

/** The exchangeable parts of a pool. */
type Plugged = Pick<PoolInside, 'backend' | 'book'>;

/** True for a pool; false for a look-alike and for a proxy of a pool. */
export let isPool: (value: unknown) => value is Contract;

/** Returns the private state of a pool. @throws {@link DmaArgumentError} for any other value. */
export let openPool: <N extends string>(pool: Contract<N>) => PoolInside<N>;

/** Implements `DmaPool.create` and `createManaged`. `texts` sets the wording of reports. */
export let createPool: <N extends string>(
  name: N,
  device: Device,
  options: DmaPoolOptions,
  texts: ReportTexts,
  managed: boolean,
) => Contract<N>;

class Pool<N extends string> extends HotPath<DmaBlock<N>> implements Contract<N> {
  readonly #inside: PoolInside<N>;
  #forgetManaged: (() => boolean) | null = null;

  readonly name: N;
  readonly device: Device;
  readonly geometry: PoolGeometry;
  readonly maxBlocks: number;

  constructor(parts: PoolParts<N>, plugged: (list: ListControl) => Plugged) {
    super(new Int32Array(0));
    setObjectMaker<DmaBlock<N>>(this, {
      make: (index) => this.#makeObject(index),
      notOurs: (block) => this.#notOurs(block),
    });
    const list = openList(this);
    // Not an object spread, which would take as long as the rest of the constructor. `parts` has no other owner.
    this.#inside = Object.assign(parts, { hot: this, list }, plugged(list));
    this.name = parts.name;
    this.device = parts.device;
    this.geometry = parts.geometry;
    this.maxBlocks = parts.maxBlocks;
    setSlowPath(this, this.#backend);
  }

  get #backend(): PoolBackend {
    return this.#inside.backend;
  }

  #makeObject(index: number): DmaBlock<N> {
    const { book } = this.#inside;
    if (book !== null) return putObject(this, index, makeBlock(this, index, book.generationOf(index)));
    // Create a run of objects at once. Neighbours in the page become neighbours in the heap. The hot path then rarely
    // calls this method, so the engine does not optimise the hot path for it while the pool is new.
    const { blocksPerPage } = this.geometry;
    const inPage = index % blocksPerPage;
    const first = index - (inPage % MADE_AT_ONCE);
    const end = Math.min(first + MADE_AT_ONCE, index - inPage + blocksPerPage);
    for (let i = first; i < end; i++) if (!hasObject(this, i)) putObject(this, i, makeBlock(this, i, 0));
    return objectOf(this, index);
  }

  #notOurs(block: unknown): DmaError {
    if (!isBlock(block)) return new DmaArgumentError('block', block, `a block of pool ${this.name}`);
    const { index, pool, generation } = block;
    const { backend, book, list } = this.#inside;
    const message = `${labelOf(this)}: block ${index} `;
    // Widened for the comparison: JavaScript callers may pass a block of any pool.
    if (pool !== (this as Contract)) {
      return new DmaBlockError('ERR_DMAPOOL_WRONG_POOL', `${message}belongs to ${labelOf(pool)}`);
    }
    if (backend.gone) return backend.badFree(index);
    const now = book?.generationOf(index) ?? generation;
    const since =
      list.word(index) === QUARANTINED
        ? 'in quarantine'
        : now === generation
          ? 'its page was returned'
          : `allocated again (generation ${generation}, now ${now})`;
    return new DmaBlockError('ERR_DMAPOOL_STALE_BLOCK', `${message}was freed; ${since}${backend.history(index)}`);
  }

  allocBulk(into: DmaBlock<N>[], count: number, options?: AllocOptions): void {
    checkArray('into', into);
    checkInteger('count', count, 0, MAX_BLOCKS);
    const taken = borrowScratch(this, count);
    try {
      this.allocIndexBulk(taken, count, options);
      this.#toBlocks(taken, into, count);
    } finally {
      returnScratch(this, taken);
    }
  }

  #toBlocks(taken: Int32Array, into: DmaBlock<N>[], count: number): void {
    try {
      for (let i = 0; i < count; i++) into[i] = objectOf(this, taken[i]!);
    } catch {
      // Check each block: `into` may be a proxy whose code freed some of them.
      for (let i = 0; i < count; i++) if (isAllocated(this, taken[i]!)) this.freeIndex(taken[i]!);
      throw new DmaArgumentError('into', into, 'an array');
    }
  }

  freeBulk(blocks: readonly DmaBlock<N>[], count?: number): void {
    checkArray('blocks', blocks);
    const { length } = blocks;
    // eslint-disable-next-line @typescript-eslint/prefer-nullish-coalescing -- null is an invalid count
    const wanted = count === undefined ? length : count;
    checkInteger('count', wanted, 0, length);
    const going = borrowScratch(this, wanted);
    try {
      for (let i = 0; i < wanted; i++) {
        const block = blocks[i]!;
        checkCurrent(this, block);
        going[i] = block.index;
      }
      this.freeIndexBulk(going, wanted);
    } finally {
      returnScratch(this, going);
    }
  }

  allocWait(options: WaitOptions = {}): Promise<DmaBlock<N>> {
    return this.#backend.wait((index) => objectOf(this, index), options);
  }

  reserve(count: number): void {
    this.#backend.reserve(count);
  }

  trim(): number {
    return this.#backend.trim();
  }

  blockAt(dma: number): DmaBlock<N> | null {
    const index = this.indexAt(dma);
    return index < 0 ? null : objectOf(this, index);
  }

  indexAt(dma: number): number {
    checkInteger('dma', dma);
    const index = this.#backend.pages.indexAt(dma);
    return index >= 0 && isAllocated(this, index) ? index : -1;
  }

  freeAt(dma: number): void {
    checkInteger('dma', dma);
    this.#backend.checkNotGone();
    const index = this.#backend.pages.indexAt(dma);
    const start = index < 0 ? -1 : this.dmaOf(index);
    if (start !== dma) {
      const where = index < 0 ? 'no block' : `block ${index} from ${hex(start)}`;
      throw new DmaBlockError('ERR_DMAPOOL_BAD_ADDRESS', `${labelOf(this)}: ${hex(dma)} is in ${where}`);
    }
    this.freeIndex(index);
  }

  *allocated(): IterableIterator<DmaBlock<N>> {
    for (let index = 0; index < this.#backend.pages.limit; index++) {
      if (isAllocated(this, index)) yield objectOf(this, index);
    }
  }

  statistics(): PoolStatistics {
    return this.#backend.statistics();
  }

  toJSON(): PoolStatistics {
    return this.statistics();
  }

  [INSPECT](): string {
    const { active, blocks, pages, waiting, inTransit } = this.statistics();
    const more = (waiting > 0 ? `, ${waiting} waiting` : '') + (inTransit > 0 ? `, ${inTransit} in transit` : '');
    return (
      `DmaPool ${this.name} of ${this.device.name}: ` +
      `${active} of ${blocks} blocks on ${pages} pages allocated${more}`
    );
  }

  destroy(): void {
    unlistPool(this.#inside);
    this.#forgetManaged?.();
    this.#backend.destroy();
  }

  [Symbol.dispose](): void {
    this.destroy();
  }

  static {
    isPool = (value): value is Contract => #inside in (Object(value) as object);
    openPool = <M extends string>(pool: Contract<M>) => {
      if (!isPool(pool)) throw new DmaArgumentError('pool', pool, 'a DmaPool');
      return (pool as unknown as Pool<M>).#inside;
    };
    createPool = (name, device, options, texts, managed) => {
      checkText('name', name, /^\P{Cc}+$/u, 'a non-empty string without control characters');
      if (!isDevice(device)) throw new DmaArgumentError('device', device, 'a Device');
      const parts = readParts(name, device, readOptions('options', options, POOL_OPTIONS), texts);
      const pool = new Pool(parts, (list) => {
        const backend = new LocalBackend(parts, list, () => {
          forgetAtExit(inside);
        });
        const { geometry, modes } = parts;
        const book = modes.debug && new LocalBook();
        backend.setHooks(makeHooks(name, geometry.blockSize, backend.pages, modes, book));
        return { backend, book };
      });
      const inside = pool.#inside;
      listPool(inside);
      if (inside.book !== null) reportAtExit(inside);
      observer?.made(pool);
      if (managed) {
        pool.#forgetManaged = device.addAction(() => {
          pool.destroy();
        });
      }
      return pool;
    };
  }
}

/** Replaces the backend of a pool when the pool becomes shared. */
export function plug(inside: PoolInside, plugged: Plugged): void {
  Object.assign(inside, plugged);
  setSlowPath(inside.hot, inside.backend);
}

/** Creates a pool with a backend other than {@link LocalBackend}. */
export function makePool<N extends string>(parts: PoolParts<N>, plugged: (list: ListControl) => Plugged): Contract<N> {
  return new Pool(parts, plugged);
}

/** Creates pools. See {@link DmaPool} for their contract. */
export interface DmaPoolConstructor {
  /**
   * Creates a pool (Linux: `dma_pool_create`). The pool takes its first page at the first allocation.
   *
   * @param name Name in messages and in the `pools` attribute, which shows at most 31 bytes of it.
   * @param device The device that accesses the blocks.
   * @param options Geometry, limit and modes.
   * @throws {@link DmaArgumentError} for an invalid argument.
   * @throws {@link DmaExistsError} if this is the device's first pool, and the device has another attribute named
   *   `pools`.
   */
  create<const N extends string>(name: N, device: Device, options: DmaPoolOptions): Contract<N>;

  /**
   * Creates a pool that `device.detach()` destroys (Linux: `dmam_pool_create`). Managed resources are released in
   * reverse order of registration. See {@link DmaPoolConstructor.create} for parameters and errors.
   */
  createManaged<const N extends string>(name: N, device: Device, options: DmaPoolOptions): Contract<N>;

  /**
   * For `instanceof`: true for a pool, false for a look-alike.
   *
   * @param value Value to test.
   */
  [Symbol.hasInstance](value: unknown): value is Contract;
}

/**
 * Allocates equal, aligned blocks of coherent memory for one device (Linux: `struct dma_pool`). `pool/contract.ts`
 * declares its contract.
 *
 * @interface
 */
export type DmaPool<N extends string = string> = Contract<N>;

/** Creates pools. */
// eslint-disable-next-line @typescript-eslint/no-extraneous-class -- A class, so that `new` throws a typed error.
export const DmaPool: DmaPoolConstructor = class DmaPool {
  constructor() {
    throw new DmaArgumentError('new DmaPool', undefined, '', {
      message: 'use DmaPool.create()',
    });
  }

  static create<const N extends string>(name: N, device: Device, options: DmaPoolOptions): Contract<N> {
    return createPool(name, device, options, OWN_TEXTS, false);
  }

  static createManaged<const N extends string>(name: N, device: Device, options: DmaPoolOptions): Contract<N> {
    return createPool(name, device, options, OWN_TEXTS, true);
  }

  static [Symbol.hasInstance](value: unknown): value is Contract {
    return isPool(value);
  }
};

/** Checks the options of a pool. */
function readParts<N extends string>(
  name: N,
  device: Device,
  options: DmaPoolOptions,
  texts: ReportTexts,
): PoolParts<N> {
  const {
    size,
    align = 0,
    boundary = 0,
    maxBlocks = MAX_BLOCKS,
    node = device.numaNode,
    initOnAlloc = false,
    initOnFree = false,
    debug = debugByEnvironment(),
  } = options;
  const geometry = new PoolGeometry({ size, align, boundary, pageSize: device.memory.pageSize });
  checkInteger('maxBlocks', maxBlocks, 1, MAX_BLOCKS);
  checkInteger('node', node, NUMA_NO_NODE, 1023);
  checkBoolean('initOnAlloc', initOnAlloc);
  checkBoolean('initOnFree', initOnFree);
  const modes: PoolModes = { debug: debugOptions(debug), initOnAlloc, initOnFree, texts };
  return { name, device, geometry, node, maxBlocks, modes };
}

function checkArray(argument: string, array: unknown): void {
  if (!isArray(array)) throw new DmaArgumentError(argument, array, 'an array');
}

function debugOptions(debug: unknown): DebugOptions | null {
  if (debug === false) return null;
  const given = debug === true ? {} : debug;
  checkObject('debug', given, 'true or false, or an object');
  const { quarantine = true, sites = true } = readOptions('debug', given, DEBUG_OPTIONS);
  checkBoolean('debug.quarantine', quarantine);
  checkBoolean('debug.sites', sites);
  return { quarantine, sites };
}
