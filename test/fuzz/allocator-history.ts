/**
 * Random histories of pools on several devices over one coherent allocator (the source), compared with a simple model.
 *
 * A *strict* history has no callbacks and predicts every index. In a *loose* one the source and the log call back into
 * arbitrary operations, pools are shared, callers wait for blocks, and a faulty device writes to free blocks. There the model
 * is the set of held addresses, and the invariants hold between operations that are not nested.
 */
import assert from 'node:assert/strict';
import {
  type CoherentMemory,
  Device,
  dmaBitMask,
  type DmaBlock,
  DmaError,
  type DmaPool,
  type DmaPoolOptions,
} from 'dmapool';
import { countsOf, indicesOf, isAllocated } from '../support/pools.ts';
import { PoolModel } from '../pool/pool-model.ts';
import { Random } from '../support/random.ts';
import { allocMany, allocOne, createPool, freeMany, freeOne, sharePool } from './allocator-api.ts';
import { FuzzSource, SourceBroke } from './fuzz-source.ts';
import { countOperations } from './operations.ts';

interface Held {
  readonly index: number;
  readonly dma: number;
  readonly bytes: Uint8Array;
  readonly stamp: number;
}

interface Waiting {
  /** Position in the order of the queue; NaN for nested calls, whose order is not observable. */
  number: number;
  readonly controller: AbortController;
}

/** A pool and its model. */
interface Subject {
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

const GONE = { active: 0, blocks: 0, pages: 0 } as const;

/** An abort reason. The wait must reject with it unchanged. */
class GivenUp extends Error {}

/** Maximum nesting of calls from the source and the log. */
const DEEPEST = 3;
const PAGE = 4096;
/** Lines of the history's log in the report of a failure. */
const SHOWN = 25;

const SHAPES: readonly DmaPoolOptions[] = [
  { size: 1 },
  { size: 16 },
  { size: 68, align: 32, boundary: 4096 },
  { size: 100, align: 64, boundary: 128 },
  { size: 256, align: 256 },
  { size: 700, boundary: 1024 },
  { size: 1500, boundary: 2048 },
  { size: 4096, align: 4096 },
  { size: 5000 },
  { size: 3000, align: 8, boundary: 16_384 },
];
const NAMES = [
  'rx',
  'tx',
  'a name that is longer than thirty-one bytes',
  'ü-名前-プール-名前-プール',
  'x'.repeat(16),
  '%s %d',
];
const MASKS = [24, 32, 33, 64];

export interface HistoryOptions {
  readonly seed: number;
  /** Maximum number of operations that are not nested. */
  readonly steps?: number;
}

export class History {
  readonly #random: Random;
  readonly #source: FuzzSource;
  readonly #devices: Device[] = [];
  readonly #subjects: Subject[] = [];
  readonly #strict: boolean;
  readonly #calling: number;
  readonly #steps: number;
  readonly #lines: string[] = [];
  readonly #violations: string[] = [];
  #depth = 0;
  #nested = 0;
  /** Devices with a running detach, which destroys their pools one by one. */
  readonly #detaching = new Set<Device>();
  /** Devices with a running reclaim. */
  readonly #reclaiming = new Set<Device>();
  #stamp = 0;
  #waits = 0;

  constructor({ seed, steps = Infinity }: HistoryOptions) {
    const random = new Random(seed);
    this.#random = random;
    this.#strict = random.chance(0.4);
    this.#calling = this.#strict ? 0 : random.pick([0, 0.05, 0.3, 0.6]);
    this.#steps = Math.min(steps, 20 + random.below(random.pick([40, 200, 600])));
    const pages = 1 + random.below(random.pick([4, 12, 40]));
    const failing = random.pick([0, 0, 0.05, 0.3]);
    this.#source = new FuzzSource(random, { limit: pages * PAGE, pageSize: PAGE, failing });
    this.#source.onBack = (memory) => this.#wrongToGiveBack(memory);
    this.#source.onCall = () => {
      this.#callBack('source');
    };
    const devices = 1 + random.below(3);
    for (let n = 0; n < devices; n++) {
      const say = (): void => {
        this.#callBack('log');
      };
      this.#devices.push(
        new Device({
          name: `dev${String(n)}`,
          memory: this.#source,
          dmaMask: dmaBitMask(random.pick(MASKS)),
          log: { error: say, warn: say, info: say },
        }),
      );
    }
  }

  /** The most recent operations, for the report of a failure. */
  get lines(): readonly string[] {
    return this.#lines.slice(-SHOWN);
  }

  async run(): Promise<void> {
    try {
      for (let n = 0; n < this.#steps; n++) {
        this.#operation();
        if (this.#subjects.some(({ waiting }) => waiting.size > 0)) await settle();
        this.#check();
      }
      this.#note('end');
      await this.#end();
    } catch (error) {
      const { message } = error instanceof Error ? error : new Error(String(error));
      const kind = this.#strict ? 'strict' : 'loose';
      throw new Error(`${message}\nlast calls of the ${kind} history:\n  ${this.lines.join('\n  ')}`, { cause: error });
    }
  }

  #note(line: string): void {
    this.#lines.push(`${'  '.repeat(this.#depth)}${line}`);
    if (this.#lines.length > 4 * SHOWN) this.#lines.splice(0, 2 * SHOWN);
  }

  /** Records and throws a violation. The pool or device may swallow the exception of a nested call. */
  #violated(message: string): never {
    this.#violations.push(message);
    throw new assert.AssertionError({ message });
  }

  #callBack(from: string): void {
    if (this.#depth === 0 || this.#depth >= DEEPEST || !this.#random.chance(this.#calling)) return;
    this.#nested++;
    this.#note(`> called from the ${from}`);
    this.#depth++;
    try {
      this.#act();
    } finally {
      this.#depth--;
    }
  }

  #operation(): void {
    this.#source.beginOperation();
    this.#depth = 1;
    try {
      this.#act();
    } finally {
      this.#depth = 0;
    }
  }

  #act(): void {
    countOperations(1);
    const dice = this.#random.below(this.#strict ? 86 : 100);
    const subject = this.#anySubject();
    if (subject === undefined || dice < 3) this.#create();
    else if (dice < 30) this.#alloc(subject);
    else if (dice < 52) this.#free(subject);
    else if (dice < 58) this.#allocMany(subject);
    else if (dice < 63) this.#freeMany(subject);
    else if (dice < 68) this.#badFree(subject);
    else if (dice < 71) this.#lookUp(subject);
    else if (dice < 75) this.#trim(subject);
    else if (dice < 78) this.#reserve(subject);
    else if (dice < 80) this.#destroy(subject);
    else if (dice < 81) this.#reclaim(subject.device);
    else if (dice < 82) this.#detach(subject.device);
    else if (dice < 84) this.#mask(subject.device);
    else if (dice < 86) this.#coherent(subject.device);
    else if (dice < 92) this.#wait(subject);
    else if (dice < 95) this.#abort(subject);
    else if (dice < 98) this.#corrupt(subject);
    else if (dice < 99) this.#share(subject);
    else this.#freeThenAlloc(subject);
  }

  #anySubject(): Subject | undefined {
    const alive = this.#subjects.filter(({ state, held }) => state !== 'gone' || held.size > 0);
    return alive.length === 0 ? undefined : this.#random.pick(alive);
  }

  // ---- operations

  #create(): void {
    if (this.#subjects.filter(({ state }) => state === 'open').length >= 5) return;
    const random = this.#random;
    const device = random.pick(this.#devices);
    const options: DmaPoolOptions = {
      ...random.pick(SHAPES),
      ...(random.chance(0.4) ? { maxBlocks: 1 + random.below(random.pick([4, 70])) } : {}),
      ...(random.chance(0.25)
        ? { debug: random.pick([true, true, { quarantine: false, sites: false }, { sites: false }]) }
        : {}),
      ...(random.chance(0.2) ? { initOnAlloc: true } : {}),
      ...(random.chance(0.2) ? { initOnFree: true } : {}),
    };
    const managed = random.chance(0.4) && !this.#detaching.has(device);
    const name = random.pick(NAMES);
    this.#note(`create ${JSON.stringify(options)}${managed ? ' managed' : ''}`);
    const pool = createPool(name, device, options, managed);
    const { blocksPerPage, allocation } = pool.geometry;
    assert.ok(blocksPerPage >= 1 && allocation % PAGE <= allocation);
    this.#subjects.push({
      name,
      pool,
      device,
      options,
      managed,
      held: new Map(),
      waiting: new Set(),
      corrupted: new Set(),
      model: this.#strict ? new PoolModel(blocksPerPage, Infinity, options.maxBlocks ?? Infinity) : null,
      state: 'open',
      shared: false,
      served: 0,
    });
  }

  #pagesOf({ device, pool }: Subject): CoherentMemory[] {
    const { allocation } = pool.geometry;
    // May include pages of the device's other pools with the same page size.
    return [...this.#source.live].flatMap(([memory, owner]) =>
      owner === device && memory.size === allocation ? [memory] : [],
    );
  }

  /** Checks the error of a call that may fail. */
  #refused(what: string, subject: Subject, error: unknown, failedBefore: number): void {
    if (error instanceof assert.AssertionError) throw error;
    if (error instanceof SourceBroke) return;
    if (!(error instanceof DmaError)) this.#violated(`${what} threw ${String(error)}, not a DmaError`);
    const allowed = ['ERR_DMAPOOL_LIMIT', 'ERR_DMAPOOL_NO_FREE_BLOCK'];
    if (subject.state !== 'open' || this.#nested > 0) allowed.push('ERR_DMAPOOL_DESTROYED');
    if (this.#source.failed > failedBefore || this.#nested > 0) {
      allowed.push('ERR_DMAPOOL_NO_MEMORY', 'ERR_DMAPOOL_SOURCE', 'ERR_DMAPOOL_MASK');
    }
    if (!allowed.includes(error.code)) this.#violated(`${what} was refused with ${error.code}: ${error.message}`);
  }

  #alloc(subject: Subject): void {
    const { pool, model } = subject;
    const wish = { zero: this.#random.chance(0.3), grow: !this.#random.chance(0.2) };
    const plan = model?.planTake(1, wish.grow);
    const failedBefore = this.#source.failed;
    const wasGone = subject.state !== 'open';
    const nestedBefore = this.#nested;
    let index = -1;
    try {
      index = allocOne(pool, this.#random, wish);
    } catch (error) {
      this.#note(`${subject.name}: alloc threw ${String(error)}`);
      this.#refused('alloc', subject, error, failedBefore);
    }
    if (plan !== undefined && !wasGone) {
      if (index < 0) {
        assert.ok(!plan.ok || this.#source.failed > failedBefore, 'alloc failed, but a block was available');
      } else {
        assert.ok(plan.ok, 'alloc exceeded the limit, or took a page with grow: false');
        assert.equal(index, model!.take(), 'the block is not the next in LIFO and ascending order');
      }
    }
    if (index < 0) return;
    this.#note(`${subject.name}: alloc ${String(index)}`);
    if (wasGone && !this.#isEnding(subject)) this.#violated('a destroyed pool allocated a block');
    this.#hold(subject, index, wish.zero, this.#nested > nestedBefore);
  }

  #hold(subject: Subject, index: number, zeroed: boolean, disturbed: boolean): void {
    const { pool, held, options } = subject;
    // A nested call may have destroyed the pool and reclaimed the device's memory.
    if (subject.state === 'gone') return;
    const dma = pool.dmaOf(index);
    const bytes = pool.bytesOf(index);
    if (held.has(dma)) this.#violated(`block ${String(index)} was allocated twice`);
    for (const other of this.#subjects) {
      if (other !== subject && other.device === subject.device && other.held.has(dma)) {
        this.#violated(`address ${dma.toString(16)} was allocated by two pools`);
      }
    }
    if (!isAllocated(pool, index) && subject.state === 'open')
      this.#violated(`block ${String(index)} was allocated, but isAllocated() is false`);
    const { size, align = 1, boundary = 0 } = options;
    const last = dma + Math.max(size, 16) - 1;
    if (dma % Math.max(align, 1) !== 0) this.#violated(`block ${String(index)} is not aligned`);
    if (boundary > 0 && Math.floor(dma / boundary) !== Math.floor(last / boundary)) {
      this.#violated(`block ${String(index)} crosses a boundary`);
    }
    if (last > subject.device.dmaMask) this.#violated(`block ${String(index)} is above the mask`);
    if (bytes.length !== pool.geometry.blockSize) this.#violated('a block has the wrong size');
    const debug = options.debug !== undefined && options.debug !== false;
    if (!disturbed) {
      const expected = zeroed || options.initOnAlloc === true ? 0 : debug ? 0xa9 : options.initOnFree === true ? 0 : -1;
      const wrong = expected < 0 ? -1 : bytes.findIndex((byte) => byte !== expected);
      // With initOnFree alone, a device's write to a free block is still there.
      if (wrong >= 0 && !(expected === 0 && !zeroed && options.initOnAlloc !== true && subject.corrupted.has(dma))) {
        this.#violated(
          `byte ${String(wrong)} of block ${String(index)} is ${String(bytes[wrong])}, not ${String(expected)}`,
        );
      }
    }
    const quarantines = debug && (typeof options.debug !== 'object' || options.debug.quarantine !== false);
    if (subject.corrupted.delete(dma) && quarantines && !subject.shared) {
      this.#violated(`block ${String(index)} was written to while free, and was allocated`);
    }
    this.#stamp = (this.#stamp % 250) + 1;
    bytes.fill(this.#stamp);
    held.set(dma, { index, dma, bytes, stamp: this.#stamp });
  }

  #letGo(subject: Subject, { index, dma, bytes, stamp }: Held): void {
    const wrong = bytes.findIndex((byte) => byte !== stamp);
    if (wrong >= 0) this.#violated(`byte ${String(wrong)} of block ${String(index)} was overwritten while it was held`);
    subject.held.delete(dma);
  }

  #anyHeld(subject: Subject): Held | undefined {
    if (subject.held.size === 0) return undefined;
    let skip = this.#random.below(Math.min(subject.held.size, 20));
    for (const held of subject.held.values()) if (skip-- === 0) return held;
    return undefined;
  }

  /** Runs a free of held blocks. Only an error of the source may fail it, when the last free releases the pages. */
  #freeing(what: string, subject: Subject, call: () => void): void {
    try {
      call();
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      if (!(error instanceof SourceBroke) || (subject.state === 'open' && this.#nested === 0)) {
        this.#violated(`${what} of a held block threw ${String(error)}`);
      }
    }
  }

  #free(subject: Subject): void {
    const held = this.#anyHeld(subject);
    if (held === undefined) return;
    this.#letGo(subject, held);
    this.#note(`${subject.name}: free ${String(held.index)}`);
    const nestedBefore = this.#nested;
    const open = subject.state === 'open';
    const waiting = subject.waiting.size;
    this.#freeing('free', subject, () => {
      freeOne(subject.pool, this.#random, held.index);
    });
    if (!open) return;
    subject.model?.give(held.index);
    if (this.#nested > nestedBefore || waiting > 0) return;
    this.#checkFreed(subject, held);
  }

  #checkFreed({ options, pool }: Subject, { bytes, index }: Held): void {
    const debug = options.debug !== undefined && options.debug !== false;
    const expected = debug ? 0xa7 : options.initOnFree === true ? 0 : -1;
    if (expected >= 0 && bytes.some((byte) => byte !== expected)) {
      this.#violated(`block ${String(index)} was freed, and its bytes are not ${String(expected)}`);
    }
    if (isAllocated(pool, index)) this.#violated(`block ${String(index)} was freed, but isAllocated() is true`);
  }

  #freeThenAlloc(subject: Subject): void {
    const held = this.#anyHeld(subject);
    if (held === undefined || subject.state !== 'open' || subject.waiting.size > 0) return;
    // A full magazine flushes half of its blocks to the depot, including the block just freed.
    if (subject.shared) return;
    const nestedBefore = this.#nested;
    this.#letGo(subject, held);
    this.#freeing('free', subject, () => {
      freeOne(subject.pool, this.#random, held.index);
    });
    const index = allocOne(subject.pool, this.#random, { zero: false, grow: false });
    this.#note(`${subject.name}: free ${String(held.index)}, alloc ${String(index)}`);
    if (this.#nested === nestedBefore && index !== held.index) {
      this.#violated(`block ${String(held.index)} was freed, but ${String(index)} was allocated next`);
    }
    if (index >= 0) this.#hold(subject, index, false, this.#nested > nestedBefore);
  }

  #allocMany(subject: Subject): void {
    const { pool, model } = subject;
    const count = this.#random.below(this.#random.pick([4, 20, 60]));
    const grow = !this.#random.chance(0.2);
    const plan = model?.planTake(count, grow);
    const failedBefore = this.#source.failed;
    const wasGone = subject.state !== 'open';
    const pagesBefore = pool.statistics().pages;
    const nestedBefore = this.#nested;
    let indices: number[] | null = null;
    try {
      indices = allocMany(pool, this.#random, count, grow);
    } catch (error) {
      this.#note(`${subject.name}: alloc of ${String(count)} threw ${String(error)}`);
      this.#refused('bulk alloc', subject, error, failedBefore);
    }
    if (indices === null) {
      if (plan === undefined || wasGone) return;
      assert.ok(!plan.ok || this.#source.failed > failedBefore, 'bulk alloc failed, but the blocks were available');
      assert.equal(pool.statistics().pages, pagesBefore, 'a failed bulk alloc kept pages');
      return;
    }
    this.#note(`${subject.name}: alloc ${indices.join(' ')}`);
    if (wasGone && count > 0 && !this.#isEnding(subject)) this.#violated('a destroyed pool allocated blocks');
    if (model !== null && !wasGone) {
      assert.ok(plan!.ok || count === 0, 'bulk alloc exceeded the limit');
      model.opened(pool.statistics().pages - pagesBefore);
      assert.deepEqual(
        indices,
        indices.map(() => model.take()),
        'the blocks are not those of single allocations',
      );
    }
    for (const index of indices) this.#hold(subject, index, false, this.#nested > nestedBefore);
  }

  #freeMany(subject: Subject): void {
    const chosen = [...subject.held.values()].slice(0, this.#random.below(20));
    const indices = chosen.map(({ index }) => index);
    if (chosen.length > 0 && this.#random.chance(0.25)) {
      // A duplicate, or an index out of range: the call must free nothing.
      const bad = [...indices, this.#random.chance(0.5) ? indices[0]! : 2 ** 29];
      this.#note(`${subject.name}: free ${bad.join(' ')}, which must throw`);
      const before = JSON.stringify(subject.pool.statistics());
      this.#refuses('a bulk free with a bad block', () => {
        subject.pool.freeIndexBulk(Int32Array.from(bad));
      });
      if (JSON.stringify(subject.pool.statistics()) !== before) this.#violated('a failed bulk free changed the pool');
      return;
    }
    for (const held of chosen) this.#letGo(subject, held);
    this.#note(`${subject.name}: free ${indices.join(' ')}`);
    const open = subject.state === 'open';
    this.#freeing('bulk free', subject, () => {
      freeMany(subject.pool, this.#random, indices);
    });
    if (open) for (const index of indices) subject.model?.give(index);
  }

  /** Runs a call that must throw a DmaError and change nothing. */
  #refuses(what: string, call: () => void): void {
    try {
      call();
    } catch (error) {
      if (error instanceof DmaError) return;
      this.#violated(`${what} threw ${String(error)}, not a DmaError`);
    }
    this.#violated(`${what} was accepted`);
  }

  #badFree(subject: Subject): void {
    const { pool, model } = subject;
    const bad: unknown[] = [-1, 2 ** 31, 1.5, NaN, '0', 0n, null, undefined, {}, 1e9, -0.5, Symbol('index')];
    const free = model?.anyFree(this.#random.below(1000));
    if (free !== undefined) bad.push(free, free, free);
    for (const other of this.#subjects) {
      const held = this.#anyHeld(other);
      if (other !== subject && held !== undefined && other.state === 'open') bad.push(other.pool.blockAt(held.dma));
    }
    const value = this.#random.pick(bad);
    this.#note(`${subject.name}: free ${String(value)}, which must throw`);
    this.#refuses('freeIndex of an invalid block', () => {
      pool.freeIndex(value as number);
    });
    this.#refuses('free of an invalid block', () => {
      pool.free(value as DmaBlock);
    });
    this.#refuses('freeAt of an invalid block', () => {
      pool.freeAt(value as number);
    });
    const held = this.#anyHeld(subject);
    if (held === undefined || subject.state === 'gone') return;
    this.#refuses('freeAt inside a block', () => {
      pool.freeAt(held.dma + 1 + this.#random.below(15));
    });
  }

  #lookUp(subject: Subject): void {
    const { pool } = subject;
    const held = this.#anyHeld(subject);
    if (held === undefined || subject.state === 'gone') return;
    const inside = held.dma + this.#random.below(held.bytes.length);
    if (pool.indexAt(inside) !== held.index || pool.blockAt(inside)?.index !== held.index) {
      this.#violated(`address ${inside.toString(16)} is in block ${String(held.index)}, but a lookup does not find it`);
    }
    if (pool.dmaOf(held.index) !== held.dma) this.#violated('the address of a held block changed');
    const listed = [...pool.allocated()].map(({ index }) => index);
    const out = [...subject.held.values()].map(({ index }) => index).sort((a, b) => a - b);
    if (this.#nested === 0 && subject.waiting.size === 0) assert.deepEqual(listed, out, 'allocated blocks');
  }

  #trim(subject: Subject): void {
    this.#note(`${subject.name}: trim`);
    // A pool that a running detach has not destroyed yet may have idle pages.
    const ended = this.#isEnding(subject) ? undefined : 0;
    const expected = subject.state === 'open' ? subject.model?.trim() : ended;
    // A nested call may share the pool during trim.
    const wasShared = subject.shared;
    let trimmed: number;
    try {
      trimmed = subject.pool.trim();
    } catch (error) {
      if (error instanceof SourceBroke) return;
      if (wasShared && error instanceof DmaError && error.code === 'ERR_DMAPOOL_NOT_TRIMMABLE') return;
      throw error;
    }
    if (wasShared) this.#violated('a shared pool was trimmed');
    if (expected !== undefined && trimmed !== expected) {
      this.#violated(`trim freed ${String(trimmed)} pages, not ${String(expected)}`);
    }
  }

  #reserve(subject: Subject): void {
    const { pool, model } = subject;
    const count = this.#random.below(30);
    const plan = model?.planTake(count, true);
    const failedBefore = this.#source.failed;
    const wasGone = subject.state !== 'open';
    const pagesBefore = pool.statistics().pages;
    this.#note(`${subject.name}: reserve ${String(count)}`);
    try {
      pool.reserve(count);
      if (plan === undefined || wasGone) return;
      assert.ok(plan.ok, 'reserve exceeded the limit');
      assert.equal(pool.statistics().pages - pagesBefore, plan.pages, 'pages opened by reserve');
      model!.opened(plan.pages);
    } catch (error) {
      this.#refused('reserve', subject, error, failedBefore);
      if (plan !== undefined && !wasGone) {
        assert.ok(!plan.ok || this.#source.failed > failedBefore, 'reserve failed below the limit');
        assert.equal(pool.statistics().pages, pagesBefore, 'a failed reserve kept pages');
      }
    }
  }

  #destroy(subject: Subject): void {
    this.#note(`${subject.name}: destroy with ${String(subject.held.size)} held`);
    if (subject.state === 'open') subject.state = 'destroyed';
    try {
      subject.pool.destroy();
    } catch (error) {
      if (!(error instanceof SourceBroke)) throw error;
    }
  }

  #reclaim(device: Device): void {
    this.#note(`${device.name}: reclaim`);
    for (const subject of this.#subjects) {
      if (subject.device !== device || subject.state !== 'destroyed') continue;
      if (this.#isEnding(subject) && !isDestroyed(subject.pool)) continue;
      subject.state = 'gone';
      subject.held.clear();
    }
    const outermost = !this.#reclaiming.has(device);
    this.#reclaiming.add(device);
    try {
      device.reclaim();
    } catch (error) {
      if (!(error instanceof DmaError && error.code === 'ERR_DMAPOOL_RELEASE')) throw error;
    } finally {
      if (outermost) this.#reclaiming.delete(device);
    }
  }

  /** True while a running detach may or may not have destroyed the pool. */
  #isEnding({ device, managed }: Subject): boolean {
    return managed && this.#detaching.has(device);
  }

  #detach(device: Device): void {
    this.#note(`${device.name}: detach`);
    for (const subject of this.#subjects) {
      if (subject.device === device && subject.managed && subject.state === 'open') subject.state = 'destroyed';
    }
    const order: number[] = [];
    for (const n of [0, 1, 2]) device.addAction(() => order.push(n));
    this.#detaching.add(device);
    try {
      device.detach();
    } catch (error) {
      if (!(error instanceof DmaError && error.code === 'ERR_DMAPOOL_RELEASE')) throw error;
    } finally {
      this.#detaching.delete(device);
    }
    if (order.join() !== '2,1,0') this.#violated(`actions ran in the order ${order.join()}`);
  }

  #mask(device: Device): void {
    const mask = dmaBitMask(this.#random.pick(MASKS));
    const before = device.dmaMask;
    this.#note(`${device.name}: mask ${mask.toString(16)}`);
    try {
      device.setDmaMask(mask);
    } catch (error) {
      if (!(error instanceof DmaError && error.code === 'ERR_DMAPOOL_MASK')) throw error;
      return;
    }
    for (const { device: owner, held } of this.#subjects) {
      if (owner !== device) continue;
      for (const { dma, bytes } of held.values()) {
        if (dma + bytes.length - 1 <= mask) continue;
        device.setDmaMask(before);
        this.#violated('a mask below live memory of the device was accepted');
      }
    }
  }

  /** Allocates memory from the device or the source, and frees it through the device. */
  #coherent(device: Device): void {
    const size = 1 + this.#random.below(2 * PAGE);
    try {
      const memory = this.#random.chance(0.5)
        ? device.allocCoherent(size)
        : this.#source.allocCoherent({ device, size, node: -1 });
      if (memory?.dma === undefined) return;
      this.#note(`${device.name}: coherent memory, ${String(size)} bytes`);
      if (new Uint8Array(memory.buffer, memory.byteOffset, size).some((byte) => byte !== 0)) {
        this.#violated('coherent memory is not zero');
      }
      device.freeCoherent(memory);
    } catch (error) {
      if (!(error instanceof SourceBroke) && !(error instanceof DmaError)) throw error;
    }
  }

  #wait(subject: Subject): void {
    if (subject.shared || subject.waiting.size > 8) return;
    const controller = new AbortController();
    const wait: Waiting = { number: NaN, controller };
    const zero = this.#random.chance(0.3);
    const timeout = this.#random.chance(0.05) ? { timeout: this.#random.below(3) } : {};
    this.#note(`${subject.name}: wait`);
    subject.waiting.add(wait);
    const nestedBefore = this.#nested;
    const waiting = subject.pool.allocWait({ signal: controller.signal, zero, ...timeout });
    if (this.#depth === 1 && this.#nested === nestedBefore) wait.number = ++this.#waits;
    waiting.then(
      (block) => {
        this.#note(`${subject.name}: wait ${String(wait.number)} got ${String(block.index)}`);
        subject.waiting.delete(wait);
        if (wait.number < subject.served) this.#violations.push('a later wait was served before an earlier one');
        if (!Number.isNaN(wait.number)) subject.served = wait.number;
        try {
          this.#hold(subject, block.index, zero, true);
        } catch {
          // #violated() has recorded it.
        }
      },
      (error: unknown) => {
        this.#note(`${subject.name}: wait ${String(wait.number)} ended: ${String(error)}`);
        subject.waiting.delete(wait);
        const expected = error instanceof GivenUp || error instanceof SourceBroke || error instanceof DmaError;
        if (!expected) this.#violations.push(`a wait was rejected with ${String(error)}`);
      },
    );
  }

  #abort(subject: Subject): void {
    const [...waiting] = subject.waiting;
    if (waiting.length === 0) return;
    const wait = this.#random.pick(waiting);
    this.#note(`${subject.name}: abort wait ${String(wait.number)}`);
    wait.controller.abort(new GivenUp('aborted'));
  }

  /** Changes one byte of a free block, as a faulty device might. */
  #corrupt(subject: Subject): void {
    const { pool, device, held } = subject;
    if (subject.state !== 'open' || subject.waiting.size > 0 || subject.shared) return;
    const pages = this.#pagesOf(subject);
    if (pages.length === 0) return;
    const page = this.#random.pick(pages);
    const dma = page.dma + pool.geometry.offsetOf(this.#random.below(pool.geometry.blocksPerPage));
    // The page may belong to another pool, and the block may be allocated or in quarantine.
    if (
      pool.indexAt(dma) >= 0 ||
      held.has(dma) ||
      this.#subjects.some((other) => other.held.size > 0 && other !== subject && other.device === device)
    )
      return;
    try {
      pool.freeAt(dma);
      return;
    } catch (error) {
      if (
        !(error instanceof DmaError) ||
        error.code !== 'ERR_DMAPOOL_NOT_ALLOCATED' ||
        error.message.includes('quarantine')
      )
        return;
    }
    const bytes = this.#source.bytesAt(dma, pool.geometry.blockSize, device);
    if (bytes === null) return;
    this.#note(`${subject.name}: the device writes to ${dma.toString(16)}`);
    bytes[this.#random.below(bytes.length)]! ^= 1 + this.#random.below(255);
    subject.corrupted.add(dma);
  }

  #share(subject: Subject): void {
    const { maxBlocks } = subject.options;
    if (subject.shared || maxBlocks === undefined || subject.state !== 'open') return;
    this.#note(`${subject.name}: share`);
    const failedBefore = this.#source.failed;
    // A shared pool also detects the blocks corrupted so far, by another path.
    try {
      sharePool(subject.pool);
      subject.shared = true;
    } catch (error) {
      if (error instanceof DmaError && error.code === 'ERR_DMAPOOL_NOT_SHAREABLE') return;
      this.#refused('share', subject, error, failedBefore);
    }
  }

  // ---- invariants

  /** Called by the source with memory to be freed; returns why it must not be, or null. */
  #wrongToGiveBack(memory: CoherentMemory): string | null {
    const end = memory.dma + memory.size;
    for (const subject of this.#subjects) {
      if (this.#source.live.get(memory) !== subject.device) continue;
      for (const dma of subject.corrupted) if (dma >= memory.dma && dma < end) subject.corrupted.delete(dma);
      for (const { dma, index } of subject.held.values()) {
        if (dma >= memory.dma && dma < end) {
          // Destroyed during a running reclaim, which then frees its pages too.
          if (subject.shared && subject.state !== 'open' && this.#reclaiming.has(subject.device)) {
            subject.held.delete(dma);
            continue;
          }
          return `a page was freed while block ${String(index)} of ${subject.name} in it was held`;
        }
      }
    }
    return null;
  }

  #check(): void {
    const [violation] = [...this.#violations, ...this.#source.violations];
    if (violation !== undefined) throw new assert.AssertionError({ message: violation });
    const disturbed = this.#nested > 0;
    this.#nested = 0;
    for (const subject of this.#subjects) this.#checkSubject(subject, disturbed);
    for (const device of this.#devices) this.#checkText(device);
  }

  #checkSubject(subject: Subject, disturbed: boolean): void {
    const { pool, held, model, options, state } = subject;
    if (state !== 'open' && held.size === 0) {
      subject.state = 'gone';
      if (!subject.shared) assert.deepEqual(countsOf(pool), GONE, 'counts of a pool without memory');
      return;
    }
    const { active, blocks, pages, highWater, allocations, frees, corrupted, quarantined, waiting } = pool.statistics();
    const { blocksPerPage } = pool.geometry;
    assert.equal(active, held.size, 'active = held blocks');
    assert.equal(blocks, pages * blocksPerPage, 'blocks = pages * blocksPerPage');
    assert.ok(pages >= 0 && active + quarantined <= blocks, `${String(active)} active of ${String(blocks)} blocks`);
    assert.ok(active <= (options.maxBlocks ?? Infinity), 'active <= maxBlocks');
    assert.equal(allocations - frees, active, 'allocations - frees = active');
    assert.ok(highWater >= active, 'highWater >= active');
    if (!subject.shared) {
      assert.equal(waiting, subject.waiting.size, 'waiting');
      assert.ok(quarantined <= corrupted, 'quarantined <= corrupted');
      if (disturbed || corrupted > 0)
        assert.deepEqual([...indicesOf(pool)].length, held.size, 'number of allocated indices');
    }
    if (model === null || state !== 'open') return;
    assert.equal(pages, model.pages, 'pages');
    assert.equal(highWater, model.highWater, 'high-water mark');
    assert.equal(allocations, model.allocations, 'allocations');
  }

  /** Checks the device's `pools` attribute, in Linux's format. */
  #checkText(device: Device): void {
    const listed = this.#subjects.filter((subject) => subject.device === device && subject.state === 'open').reverse();
    const text = device.readAttribute('pools');
    if (listed.length === 0) {
      assert.equal(text, undefined, 'attribute pools of a device without a pool');
      return;
    }
    const lines = listed.map(({ name, pool }) => {
      const { active, blocks, pages } = pool.statistics();
      const cut = utf8Prefix(name, 31);
      const padded = cut + ' '.repeat(Math.max(0, 16 - Buffer.byteLength(cut)));
      const figures = [
        String(active).padStart(4),
        String(blocks).padStart(4),
        String(pool.geometry.blockSize).padStart(4),
      ];
      return `${padded} ${figures.join(' ')} ${String(pages).padStart(2)}\n`;
    });
    assert.equal(text, utf8Prefix(`poolinfo - 0.1\n${lines.join('')}`, 4095));
  }

  // ---- the end

  async #end(): Promise<void> {
    for (const { waiting } of this.#subjects) {
      for (const { controller } of waiting) controller.abort(new GivenUp('the end'));
    }
    await settle();
    this.#check();
    // No block is lost: all free blocks can be allocated without another page.
    this.#source.onCall = () => undefined;
    for (const subject of this.#subjects) if (subject.state === 'open' && !subject.shared) this.#drain(subject);
    for (const subject of this.#subjects) {
      if (this.#random.chance(0.5)) {
        for (const held of [...subject.held.values()]) {
          this.#letGo(subject, held);
          this.#freeing('free', subject, () => {
            freeOne(subject.pool, this.#random, held.index);
          });
        }
      }
      this.#destroy(subject);
    }
    for (const device of this.#devices) {
      this.#detach(device);
      this.#reclaim(device);
      this.#reclaim(device);
    }
    await settle();
    this.#check();
    assert.equal(this.#source.live.size, 0, 'allocations of the source that were not freed');
    assert.equal(this.#source.bytesInUse, 0, 'bytes in use after all memory was freed');
    for (const { waiting } of this.#subjects) assert.equal(waiting.size, 0, 'waits that are pending at the end');
  }

  #drain(subject: Subject): void {
    const { pool, options } = subject;
    for (;;) {
      let index = -1;
      try {
        index = allocOne(pool, this.#random, { zero: false, grow: false });
      } catch (error) {
        if (!(error instanceof DmaError)) throw error;
      }
      if (index < 0) break;
      subject.model?.take();
      this.#hold(subject, index, false, true);
    }
    const { blocks, quarantined } = pool.statistics();
    const expected = Math.min(blocks - quarantined, options.maxBlocks ?? Infinity);
    this.#note(`${subject.name}: drained to ${String(subject.held.size)} of ${String(expected)}`);
    assert.equal(subject.held.size, expected, 'held blocks after all free blocks were allocated');
  }
}

/** True for a destroyed pool. */
function isDestroyed(pool: DmaPool): boolean {
  try {
    pool.reserve(0);
    return false;
  } catch (error) {
    if (error instanceof DmaError && error.code === 'ERR_DMAPOOL_DESTROYED') return true;
    throw error;
  }
}

/** Returns the longest prefix of whole characters in at most `length` bytes of UTF-8. */
function utf8Prefix(text: string, length: number): string {
  let result = '';
  for (const character of text) {
    if (Buffer.byteLength(result + character) > length) break;
    result += character;
  }
  return result;
}

/** Runs pending reactions of promises. */
async function settle(): Promise<void> {
  for (let n = 0; n < 4; n++) await Promise.resolve();
}
