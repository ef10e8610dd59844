/** The class behind {@link DmaPool}: hot path, backend and block objects put together. */
import { checkBoolean, checkInteger, checkObject, type OptionNames, readOptions } from './arguments.ts';
import { type Device, isDevice } from './device/device.ts';
import { NUMA_NO_NODE } from './device/mask.ts';
import { DmaArgumentError, DmaBlockError, type DmaError, hex, isArray } from './errors.ts';
import type { PoolBackend } from './pool/backend.ts';
import { isBlock, makeBlock } from './pool/block.ts';
import { type AllocOptions, type DmaBlock, type DmaPool as Contract, INSPECT } from './pool/contract.ts';
import { type DebugBook, LocalBook, makeHooks } from './pool/debug.ts';
import { debugByEnvironment, type ExitReporter, forgetAtExit, reportAtExit } from './pool/exit-report.ts';
import { type ListControl, QUARANTINED } from './pool/free-list.ts';
import { type GeometryOptions, PoolGeometry } from './pool/geometry.ts';
import { type DebugOptions, OWN_TEXTS, type PoolModes, type ReportTexts } from './pool/hooks.ts';
import {
  borrowScratch,
  checkCurrent,
  hasObject,
  HotPath,
  isAllocated,
  isCurrent,
  MAX_BLOCKS,
  objectOf,
  openList,
  putObject,
  returnScratch,
  setObjectMaker,
  setSlowPath,
} from './pool/hot-path.ts';
import { LocalBackend } from './pool/local-backend.ts';
import { type ListedPool, listPool, unlistPool } from './pool/pools-attribute.ts';
import type { PoolStatistics } from './pool/statistics.ts';
import type { WaitOptions } from './pool/waiting.ts';

/** Block objects made in one go. */
const MADE_AT_ONCE = 64;

/** What a pool is made of, besides its name and device. */
export interface DmaPoolOptions extends Omit<GeometryOptions, 'pageSize'> {
  /** Most blocks that may be allocated at one time, 1 to 2^30-1. Default: as many as the memory source can hold. */
  readonly maxBlocks?: number;
  /** NUMA node its pages should come from (Linux: `dma_pool_create_node`). Default: the device's. */
  readonly node?: number;
  /** Debug mode. Default: off, or what the environment variable `DMAPOOL_DEBUG` says. */
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

/** What a pool is made of, checked. */
export interface PoolParts<N extends string> {
  readonly name: N;
  readonly device: Device;
  readonly geometry: PoolGeometry;
  /** NUMA node its pages are requested for; -1: none in particular. */
  readonly node: number;
  readonly maxBlocks: number;
  readonly modes: PoolModes;
}

/** The inside of a pool, for other parts of the package; the package exports none of it. */
export interface PoolInside<N extends string> extends PoolParts<N> {
  readonly list: ListControl;
  readonly backend: PoolBackend;
  /** What debug mode records of each block; null when it is off. */
  readonly book: DebugBook | null;
  /** Sets the backend, before the first call and when the pool becomes a shared one. */
  plug(backend: PoolBackend, book: DebugBook | null): void;
  /** Adds the pool to its device's `pools`. If that throws, nothing has changed. */
  enlist(): void;
  /** The last of the pool's memory was given back: there is nothing to report at the end of the process. */
  onGone(): void;
  /** The object of a block, made when first needed. */
  objectOf(index: number): DmaBlock<N>;
  /** The block's index. @throws the pool's error for anything that is not the current object of a block of this pool. */
  indexOf(block: unknown): number;
}

/** True for a pool: not for a look-alike, nor for a proxy of one. */
export let isPool: (value: unknown) => value is Contract;

/** The inside of a pool. @throws {@link DmaArgumentError} for anything else. */
export let openPool: <N extends string>(pool: Contract<N>) => PoolInside<N>;

/** `DmaPool.create` and `createManaged`, with the texts of another part of the package. */
export let createPool: <N extends string>(
  name: N,
  device: Device,
  options: DmaPoolOptions,
  texts: ReportTexts,
  managed: boolean,
) => Contract<N>;

class Pool<N extends string> extends HotPath<DmaBlock<N>> implements Contract<N> {
  #backend!: PoolBackend;
  #book: DebugBook | null = null;
  readonly #parts: PoolParts<N>;
  /** What others see of the pool: its device's `pools`, and the report at the end of the process. */
  readonly #listed: ExitReporter & ListedPool;
  #forgetManaged: (() => boolean) | null = null;

  readonly name: N;
  readonly device: Device;
  readonly geometry: PoolGeometry;
  readonly maxBlocks: number;

  constructor(parts: PoolParts<N>) {
    super(new Int32Array(0));
    setObjectMaker<DmaBlock<N>>(this, (index) => this.#makeObject(index));
    const { name, device, geometry, maxBlocks } = parts;
    this.#parts = parts;
    this.#listed = {
      name,
      geometry,
      counts: () => this.#backend.counts(),
      idlePages: (most) => this.#backend.idlePages(most),
      reportLeaks: () => {
        if (this.#backend.counts().active === 0) return;
        device.report('error', `${name} leaked`, `${name}: at the end of the process ${this.#backend.holders()}`);
      },
    };
    this.name = name;
    this.device = device;
    this.geometry = geometry;
    this.maxBlocks = maxBlocks;
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
    // Widened for the comparison: at run time any block may come.
    if (pool !== (this as Contract)) {
      return new DmaBlockError(
        'ERR_DMAPOOL_WRONG_POOL',
        `${where}: block ${index} belongs to pool ${pool.name} of ${pool.device.name}`,
      );
    }
    if (this.#backend.gone) return this.#backend.badFree(index);
    return new DmaBlockError(
      'ERR_DMAPOOL_STALE_BLOCK',
      `${where}: this handle of block ${index} is not the current one: ` +
        `${this.#whatHappened(index, generation)}${this.#backend.history(index)}`,
    );
  }

  /** How a handle of block `index` came to be an old one. */
  #whatHappened(index: number, generation: number): string {
    const word = openList(this).word(index);
    if (word === QUARANTINED) {
      return 'the block was freed, was written to while it was free, and is in quarantine: it is never allocated again';
    }
    const now = this.#book?.generationOf(index) ?? generation;
    if (now !== generation) {
      return `the block was freed and allocated again since (handle of generation ${generation}, now ${now})`;
    }
    return 'the block was freed and its page was given back since';
  }

  allocBulk(into: DmaBlock<N>[], count: number, options?: AllocOptions): void {
    checkBulk('into', into, count, MAX_BLOCKS);
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
      // One by one: the array may be a proxy whose code has freed some.
      for (let i = 0; i < count; i++) if (isAllocated(this, taken[i]!)) this.freeIndex(taken[i]!);
      throw new DmaArgumentError('into', into, 'an array that can be written to');
    }
  }

  freeBulk(blocks: readonly DmaBlock<N>[], count?: number): void {
    const wanted = checkBulk('blocks', blocks, count, isArray(blocks) ? blocks.length : 0);
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
    const start = index < 0 ? -1 : this.#backend.dmaOf(index);
    if (start !== dma) {
      const where = index < 0 ? 'in no block of it' : `inside block ${index}, which begins at ${hex(start)}`;
      throw new DmaBlockError(
        'ERR_DMAPOOL_BAD_ADDRESS',
        `${this.device.name}: pool ${this.name}: ${hex(dma)} is ${where}`,
      );
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
    unlistPool(this.device, this.#listed);
    this.#forgetManaged?.();
    this.#forgetManaged = null;
    this.#backend.destroy();
  }

  [Symbol.dispose](): void {
    this.destroy();
  }

  #plug(backend: PoolBackend, book: DebugBook | null): void {
    this.#backend = backend;
    this.#book = book;
    setSlowPath(this, backend);
  }

  static #createLocal<const N extends string>(
    name: N,
    device: Device,
    given: DmaPoolOptions,
    texts: ReportTexts,
  ): Pool<N> {
    if (typeof name !== 'string' || name === '' || hasControlCharacter(name)) {
      throw new DmaArgumentError('name', name, 'a text that is not empty, without control characters');
    }
    if (!isDevice(device)) throw new DmaArgumentError('device', device, 'a Device');
    const pool = new Pool(readParts(name, device, readOptions('options', given, POOL_OPTIONS), texts));
    const { geometry, node, maxBlocks, modes } = pool.#parts;
    const list = openList(pool);
    const onGone = (): void => {
      forgetAtExit(pool.#listed);
    };
    const backend = new LocalBackend({ name, device, geometry, node, maxBlocks, list, onGone, texts });
    const book = modes.debug === null ? null : new LocalBook();
    const hooks = makeHooks(name, geometry.blockSize, backend.pages, modes, book);
    if (hooks !== null) backend.setHooks(hooks);
    pool.#plug(backend, book);
    listPool(device, pool.#listed);
    if (book !== null) reportAtExit(pool.#listed);
    return pool;
  }

  static {
    isPool = (value): value is Contract => typeof value === 'object' && value !== null && #backend in value;
    openPool = (pool) => {
      if (!isPool(pool)) throw new DmaArgumentError('pool', pool, 'a DmaPool');
      return insideOf(pool as unknown as Pool<(typeof pool)['name']>);
    };
    const insideOf = <N extends string>(pool: Pool<N>): PoolInside<N> => ({
      ...pool.#parts,
      list: openList(pool),
      backend: pool.#backend,
      book: pool.#book,
      plug: (backend, book) => {
        pool.#plug(backend, book);
      },
      enlist: () => {
        listPool(pool.device, pool.#listed);
      },
      onGone: () => {
        forgetAtExit(pool.#listed);
      },
      objectOf: (index) => objectOf(pool, index),
      indexOf: (block) => {
        if (!isBlock(block) || !isCurrent(pool, block)) throw pool.notOurs(block);
        return block.index;
      },
    });
    createPool = (name, device, options, texts, managed) => {
      const pool = Pool.#createLocal(name, device, options, texts);
      if (managed) {
        pool.#forgetManaged = device.addAction(() => {
          pool.destroy();
        });
      }
      return pool;
    };
  }
}

/** Makes a pool, still without a backend. */
export function makePool<N extends string>(parts: PoolParts<N>): Contract<N> {
  return new Pool(parts);
}

/** Creates pools. See {@link DmaPool} for what a pool does. */
export interface DmaPoolConstructor {
  /**
   * Creates a pool (Linux: `dma_pool_create`). It takes no page until a block is allocated.
   *
   * @param name Shown in messages and in the `pools` attribute, which cuts it to 31 bytes.
   * @param device The device that the blocks are for.
   * @param options Size, align, boundary, and how the pool behaves.
   * @throws {@link DmaArgumentError} that names the argument and what would be accepted.
   * @throws {@link DmaExistsError} when it is the device's first pool and another attribute is called `pools`.
   */
  create<const N extends string>(name: N, device: Device, options: DmaPoolOptions): Contract<N>;

  /**
   * {@link DmaPoolConstructor.create}, and the pool is destroyed by `device.detach()` (Linux: `dmam_pool_create`), in its turn: managed
   * resources go in reverse order of their making.
   */
  createManaged<const N extends string>(name: N, device: Device, options: DmaPoolOptions): Contract<N>;

  /**
   * For `instanceof`: true for a pool, not for a look-alike.
   *
   * @param value Anything.
   */
  [Symbol.hasInstance](value: unknown): value is Contract;
}

/**
 * Equal, aligned blocks of coherent memory for one device (Linux: `struct dma_pool`). Its contract is declared in
 * `pool/contract.ts`.
 *
 * @interface
 */
export type DmaPool<N extends string = string> = Contract<N>;

/** Creates pools. */
// eslint-disable-next-line @typescript-eslint/no-extraneous-class -- a class, so that `new` throws a typed error
export const DmaPool: DmaPoolConstructor = class DmaPool {
  constructor() {
    throw new DmaArgumentError('new DmaPool', undefined, 'DmaPool.create()', {
      message: 'DmaPool has no constructor; use DmaPool.create()',
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

/** What a pool is made of, from its options. */
function readParts<N extends string>(
  name: N,
  device: Device,
  options: DmaPoolOptions,
  texts: ReportTexts,
): PoolParts<N> {
  const { size, align = 0, boundary = 0 } = options;
  const geometry = new PoolGeometry({ size, align, boundary, pageSize: device.memory.pageSize });
  const { maxBlocks = MAX_BLOCKS, node = device.numaNode, initOnAlloc = false, initOnFree = false } = options;
  const { debug: debugWanted = debugByEnvironment() } = options;
  checkInteger('maxBlocks', maxBlocks, 1, MAX_BLOCKS);
  checkInteger('node', node, NUMA_NO_NODE, 1023);
  checkBoolean('initOnAlloc', initOnAlloc);
  checkBoolean('initOnFree', initOnFree);
  const modes: PoolModes = { debug: debugOptions(debugWanted), initOnAlloc, initOnFree, texts };
  return { name, device, geometry, node, maxBlocks, modes };
}

/** How many of `array`: `count`, or all of them. */
function checkBulk(argument: string, array: readonly unknown[], count: number | undefined, most: number): number {
  if (!isArray(array)) throw new DmaArgumentError(argument, array, 'an array');
  if (count === undefined && argument === 'blocks') return array.length;
  checkInteger('count', count, 0, most);
  return count;
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
