/**
 * The slow path of a pool that belongs to one thread: pages, fresh blocks, limits, waiters, and the end of the pool.
 *
 *     page slots     0         1         2 (given back)   3
 *                 [b0 .. b41][b42 .. b83][  no page     ][b126 .. b167]      block index = slot * blocksPerPage + n
 *                  ^carved all            ^ABSENT words    ^carved: b126..b130; the rest is fresh
 *
 * A fresh page is not put on the list at once: its blocks are carved off in runs when the list is empty, in ascending
 * order. A run is long enough that the slow path stays rare also while a pool is new (else the engine would take it
 * for the hot one), and short enough that a large page does not hold up one call.
 */
import { checkInteger } from '../arguments.ts';
import type { Device } from '../device/device.ts';
import { naturalAlignment } from '../device/device.ts';
import type { DmaError } from '../errors.ts';
import { DmaArgumentError, DmaBlockError, DmaDestroyedError, DmaOutOfMemoryError, hex } from '../errors.ts';
import type { CoherentMemory } from '../memory/coherent.ts';
import { ABSENT, ALLOCATED, EMPTY, type ListControl, MAX_BLOCKS, QUARANTINED } from './hot-path.ts';
import type { PoolGeometry } from './geometry.ts';
import { type BlockHooks, listBlocks } from './hooks.ts';
import { PageIndex } from './page-index.ts';
import {
  AT_LIMIT,
  type Gfp,
  NO_MEMORY,
  NO_PAGE_ALLOWED,
  type PoolCounts,
  type Refusal,
  type SlowPath,
} from './slow-path.ts';
import type { PoolStatistics } from './statistics.ts';
import { checkWaitOptions, type WaitOptions, WaitQueue } from './wait-queue.ts';

/** What a store is made of. */
export interface StoreOptions {
  readonly name: string;
  readonly device: Device;
  readonly geometry: PoolGeometry;
  readonly node: number;
  readonly maxBlocks: number;
  readonly list: ListControl;
}

/** Most blocks put on the list in one go. */
const CARVED_AT_ONCE = 256;

type State = 'open' | 'destroyed' | 'gone';

export class UnsharedStore implements SlowPath {
  readonly #name: string;
  readonly #device: Device;
  readonly #geometry: PoolGeometry;
  readonly #node: number;
  readonly #maxBlocks: number;
  readonly #list: ListControl;

  readonly #index: PageIndex;
  readonly #perPage: number;
  readonly #perPageInverse: number;
  /** Blocks lie back to back from the start of the page: the usual case, and a multiplication instead of divisions. */
  readonly #flat: boolean;
  readonly #memory: (CoherentMemory | null)[] = [];
  /** Views of whole pages, made when first needed; undefined where a page has none. */
  readonly #pageViews: (Uint8Array<ArrayBuffer | SharedArrayBuffer> | undefined)[] = [];
  #freeSlots: number[] = [];
  /** Slots of pages with blocks never handed out, first come first served from `#freshFirst` on. */
  #fresh: number[] = [];
  #freshFirst = 0;

  readonly #waiters = new WaitQueue();
  #forgetMemoryWish: (() => void) | null = null;
  #forgetReclaim: (() => void) | null = null;
  #hooks: BlockHooks | null = null;
  #state: State = 'open';

  #quarantined = 0;
  #failures = 0;
  #waits = 0;

  constructor(options: StoreOptions) {
    this.#name = options.name;
    this.#device = options.device;
    this.#geometry = options.geometry;
    this.#node = options.node;
    this.#maxBlocks = options.maxBlocks;
    this.#list = options.list;
    const { allocation, blocksPerPage, blockSize } = options.geometry;
    this.#index = new PageIndex(naturalAlignment(allocation, options.device.memory.pageSize));
    this.#perPage = blocksPerPage;
    this.#perPageInverse = 1 / blocksPerPage;
    this.#flat = options.geometry.offsetOf(blocksPerPage - 1) === (blocksPerPage - 1) * blockSize;
  }

  /** Has `hooks` run on every block from now on. Before the first call to the pool. */
  setHooks(hooks: BlockHooks): void {
    this.#hooks = hooks;
    this.#list.hold();
  }

  // ---- allocating

  refill(gfp: Gfp): number {
    if (gfp !== 'kernel' && gfp !== 'atomic') throw new DmaArgumentError('gfp', gfp, "'kernel' or 'atomic'");
    const index = this.#take(gfp);
    if (index < 0) this.#failures++;
    return index;
  }

  #take(gfp: Gfp): number {
    for (;;) {
      this.#checkOpen();
      const index = this.#next();
      if (index < 0) {
        if (!this.#roomForMore()) return AT_LIMIT;
        if (gfp === 'atomic') return NO_PAGE_ALLOWED;
        const refusal = this.#openPage();
        if (refusal < 0) return refusal;
        // Who waits comes before who asks now.
        this.#serveWaiters();
      } else if (this.#dress(index)) {
        return index;
      }
    }
  }

  /** The next block: the top of the list, filled up with fresh ones if it is empty. -1 if there is none. Counted. */
  #next(): number {
    const index = this.#list.pop();
    return index < 0 && this.#carve() ? this.#list.pop() : index;
  }

  #roomForMore(): boolean {
    return this.#list.owned < this.#maxBlocks;
  }

  /** Puts a run of fresh blocks on the empty list; false if there are none, or the limit allows none. */
  #carve(): boolean {
    const room = this.#maxBlocks - this.#list.owned;
    if (this.#freshFirst >= this.#fresh.length || room <= 0) return false;
    const slot = this.#fresh[this.#freshFirst]!;
    const carved = this.#index.carvedOf(slot);
    const count = Math.min(this.#perPage - carved, room, CARVED_AT_ONCE);
    this.#index.setCarved(slot, carved + count);
    if (carved + count === this.#perPage && ++this.#freshFirst === this.#fresh.length) {
      this.#fresh = [];
      this.#freshFirst = 0;
    }
    this.#list.setOwned(this.#list.owned + count);
    this.#list.append(slot * this.#perPage + carved, count);
    return true;
  }

  /** Lets the hooks have a block that was just taken. False if it had to be quarantined instead. */
  #dress(index: number): boolean {
    if (this.#hooks === null) return true;
    // Who still has the old handle is found out when using it.
    if (this.#hooks.renewsHandles) this.#list.objects[index] = undefined;
    if (this.#hooks.allocated(index)) return true;
    this.#list.uncount(1);
    this.#list.setWord(index, QUARANTINED);
    this.#quarantined++;
    this.#list.setOwned(this.#list.owned - 1);
    return false;
  }

  prepare(count: number, gfp: Gfp): Refusal | 0 {
    if (gfp !== 'kernel' && gfp !== 'atomic') throw new DmaArgumentError('gfp', gfp, "'kernel' or 'atomic'");
    this.#checkOpen();
    for (;;) {
      const { out, owned } = this.#list;
      const missing = count - (owned - out);
      const carvable = Math.min(this.#freshBlocks(), this.#maxBlocks - owned);
      if (missing <= carvable) return 0;
      const refusal =
        missing > this.#maxBlocks - owned ? AT_LIMIT : gfp === 'atomic' ? NO_PAGE_ALLOWED : this.#openPage();
      if (refusal < 0) {
        this.#failures++;
        return refusal;
      }
      this.#serveWaiters();
      this.#checkOpen();
    }
  }

  #freshBlocks(): number {
    let blocks = 0;
    for (let i = this.#freshFirst; i < this.#fresh.length; i++) {
      blocks += this.#perPage - this.#index.carvedOf(this.#fresh[i]!);
    }
    return blocks;
  }

  refused(refusal: number): DmaOutOfMemoryError {
    const { active, blocks, pages } = this.account();
    const where = `${this.#device.name}: pool ${this.#name}`;
    const held = `${String(active)} of ${String(blocks)} blocks on ${String(pages)} pages are out`;
    switch (refusal) {
      case AT_LIMIT:
        return new DmaOutOfMemoryError(
          'ERR_DMAPOOL_LIMIT',
          `${where}: its limit of ${String(this.#maxBlocks)} blocks is reached (${held}); free some, raise maxBlocks, or use allocWait()`,
        );
      case NO_PAGE_ALLOWED:
        return new DmaOutOfMemoryError(
          'ERR_DMAPOOL_NO_FREE_BLOCK',
          `${where}: no free block, and 'atomic' allows no new page (${held}); reserve() enough beforehand`,
        );
      default:
        return new DmaOutOfMemoryError(
          'ERR_DMAPOOL_NO_MEMORY',
          `${where}: memory source ${this.#device.memory.name} has no ${String(this.#geometry.allocation)} bytes left ` +
            `that ${this.#device.name} can reach (mask ${hex(this.#device.dmaMask)}; ${held}); free some, raise the source's limit, or use allocWait()`,
        );
    }
  }

  #openPage(): Refusal | 0 {
    const memory = this.#device.allocCoherent(this.#geometry.allocation, this.#node);
    if (memory === null) return NO_MEMORY;
    try {
      // The source is the user's code and may have called the pool: look again at what it may have changed.
      this.#checkOpen();
      const slot = this.#freeSlots.at(-1) ?? this.#index.slots;
      const end = (slot + 1) * this.#perPage;
      if (end > MAX_BLOCKS) {
        this.#device.freeCoherent(memory);
        return AT_LIMIT;
      }
      this.#growTables(end);
      this.#index.add(slot, memory.dma);
      this.#list.words.fill(EMPTY, end - this.#perPage, end);
      this.#memory[slot] = memory;
      if (this.#freeSlots.length > 0) this.#freeSlots.pop();
      this.#fresh.push(slot);
      this.#hooks?.pageOpened(slot);
      return 0;
    } catch (error) {
      if (!this.#memory.includes(memory)) this.#device.freeCoherent(memory);
      throw error;
    }
  }

  /** Makes room for blocks up to `end`, by an eighth at a time: what is never used costs memory too. */
  #growTables(end: number): void {
    const { words } = this.#list;
    const length = Math.min(Math.max(end, words.length + (words.length >> 3)), MAX_BLOCKS);
    if (end > words.length) {
      const larger = new Int32Array(length);
      larger.set(words);
      this.#list.replaceWords(larger);
    }
    if (end > this.#list.objects.length) this.#list.growObjects(length);
  }

  // ---- freeing

  drain(index: number): void {
    if (this.#list.word(index) !== ALLOCATED || (index | 0) !== index) throw this.badFree(index);
    this.#hooks?.freed(index);
    if (this.#state === 'open' && this.#waiters.length > 0) {
      // From hand to hand: it never becomes free, so nobody can take it in between.
      this.#list.passOn();
      if (this.#dress(index)) this.#waiters.deliver(index);
      this.#settleWaiters();
      return;
    }
    this.#list.push(index);
    if (this.#state === 'destroyed' && this.account().active === 0) this.#giveBackAll();
  }

  badFree(index: number): DmaError {
    const pool = `${this.#device.name}: pool ${this.#name}`;
    const word = this.#list.word(index);
    if (word === undefined || !Number.isInteger(index) || this.#index.baseOf(this.#slotOf(index)) < 0) {
      if (this.#state === 'gone') {
        return new DmaDestroyedError(`${pool} was destroyed and its memory given back; there is nothing to free`);
      }
      return new DmaArgumentError('index', index, `the index of a block of pool ${this.#name}`);
    }
    const block = `block ${String(index)} at ${hex(this.dmaOf(index))}`;
    const state = word === QUARANTINED ? 'is in quarantine' : 'is not allocated (freed twice?)';
    return new DmaBlockError(
      'ERR_DMAPOOL_NOT_ALLOCATED',
      `${pool}: ${block} ${state}${this.#hooks?.history(index) ?? ''}`,
    );
  }

  // ---- waiting

  /** Waits for a block; `wrap` makes of its index what the caller gets. */
  wait<T>(wrap: (index: number) => T, options: WaitOptions): Promise<T> {
    try {
      checkWaitOptions(options);
      options.signal?.throwIfAborted();
      if (this.#waiters.length === 0) {
        const index = this.#take('kernel');
        if (index >= 0) return Promise.resolve(wrap(index));
      }
      this.#checkOpen();
    } catch (error) {
      // Rejected as thrown: a signal's reason need not be an Error.
      return Promise.reject(error);
    }
    this.#waits++;
    this.#list.hold();
    const waiting = this.#waiters.join(wrap, options, `${this.#device.name}: pool ${this.#name}`, () => {
      this.#settleWaiters();
    });
    this.#wishForMemory();
    return waiting;
  }

  /** Hears of the next memory that comes back to the source, from this pool or any other. */
  #wishForMemory(): void {
    if (this.#forgetMemoryWish !== null || !this.#roomForMore()) return;
    const { memory } = this.#device;
    this.#forgetMemoryWish =
      memory.onceAvailable?.(() => {
        this.#forgetMemoryWish = null;
        this.#tryAgain();
      }) ?? null;
  }

  #tryAgain(): void {
    try {
      while (this.#waiters.length > 0 && this.#state === 'open') {
        if (!this.#roomForMore() || this.#openPage() < 0) break;
        this.#serveWaiters();
      }
    } catch (error) {
      // Nobody called, so nobody can be told but those who wait.
      this.#waiters.failAll(error);
    }
    this.#settleWaiters();
    if (this.#waiters.length > 0) this.#wishForMemory();
  }

  #serveWaiters(): void {
    while (this.#waiters.length > 0) {
      const index = this.#next();
      if (index < 0) break;
      if (this.#dress(index)) this.#waiters.deliver(index);
    }
    this.#settleWaiters();
  }

  /** When nobody waits any more, the list goes back to the hot path. */
  #settleWaiters(): void {
    if (this.#waiters.length > 0) return;
    this.#forgetMemoryWish?.();
    this.#forgetMemoryWish = null;
    if (this.#state === 'open' && this.#hooks === null) this.#list.release();
  }

  // ---- pages

  /** Opens pages until `count` blocks can be had without one. */
  reserve(count: number): void {
    checkInteger('count', count, 0, MAX_BLOCKS);
    const refusal = this.prepare(count, 'kernel');
    if (refusal < 0) throw this.refused(refusal);
  }

  /** Gives back every page of which no block is out or in quarantine; returns how many. */
  trim(): number {
    if (this.#state !== 'open') return 0;
    const idle = this.#slots().filter((slot) => this.#isIdle(slot));
    this.#giveBack(idle);
    return idle.length;
  }

  /** Slots that hold a page. */
  #slots(): number[] {
    const slots: number[] = [];
    for (let slot = 0; slot < this.#index.slots; slot++) if (this.#index.baseOf(slot) >= 0) slots.push(slot);
    return slots;
  }

  #isIdle(slot: number): boolean {
    const { words } = this.#list;
    const first = slot * this.#perPage;
    for (let index = first; index < first + this.#index.carvedOf(slot); index++) {
      const word = words[index];
      if (word === ALLOCATED || word === QUARANTINED) return false;
    }
    return true;
  }

  /** Everything of ours first, the source last: it is the user's code, and may throw or call the pool. */
  #giveBack(slots: readonly number[]): void {
    if (slots.length === 0) return;
    const going = new Set(slots);
    this.#list.filter((index) => !going.has(this.#slotOf(index)));
    this.#fresh = this.#fresh.slice(this.#freshFirst).filter((slot) => !going.has(slot));
    this.#freshFirst = 0;
    const memories: CoherentMemory[] = [];
    let carved = 0;
    for (const slot of slots) {
      const first = slot * this.#perPage;
      this.#list.words.fill(ABSENT, first, first + this.#perPage);
      this.#list.objects.fill(undefined, first, first + this.#perPage);
      carved += this.#index.carvedOf(slot);
      memories.push(this.#memory[slot]!);
      this.#memory[slot] = null;
      if (slot < this.#pageViews.length) this.#pageViews[slot] = undefined;
    }
    this.#list.setOwned(this.#list.owned - carved);
    this.#index.remove(slots);
    // Lowest slot first when they are used again, so that the tables stay dense.
    this.#freeSlots = [...this.#freeSlots, ...slots].sort((a, b) => b - a);
    let failed = false;
    let first: unknown;
    for (const memory of memories) {
      try {
        this.#device.freeCoherent(memory);
      } catch (error) {
        first ??= error;
        failed = true;
      }
    }
    if (failed) throw first;
  }

  // ---- the end

  /** Refuses new allocations, reports blocks that are out, gives back what can be given back. */
  destroy(): void {
    if (this.#state !== 'open') return;
    this.#state = 'destroyed';
    this.#list.hold();
    this.#waiters.failAll(new DmaDestroyedError(`${this.#device.name}: pool ${this.#name} was destroyed`));
    this.#settleWaiters();
    const out = this.#indicesOut();
    if (out.length === 0) {
      this.#giveBackAll();
      return;
    }
    this.#forgetReclaim = this.#device.onReclaim(() => {
      this.#forgetReclaim = null;
      const { pages } = this.#index;
      this.#giveBackAll();
      return pages;
    });
    this.#device.report('error', `${this.#name} busy`, `${this.#name} busy: ${this.holders(out)}`);
    this.#giveBack(this.#slots().filter((slot) => this.#isIdle(slot)));
  }

  /** Who holds blocks, for messages. */
  holders(out: readonly number[] = this.#indicesOut()): string {
    const known = this.#hooks?.holders(out) ?? '';
    const blocks = listBlocks(out, (index) => hex(this.dmaOf(index)));
    const count = `${String(out.length)} ${out.length === 1 ? 'block is' : 'blocks are'} still out`;
    return known === '' ? `${count}: ${blocks} (debug: true tells who allocated them)` : `${count}:${known}`;
  }

  #giveBackAll(): void {
    this.#state = 'gone';
    this.#forgetReclaim?.();
    this.#forgetReclaim = null;
    // What is in quarantine goes with its page, and what is out is lost, so that the figures end at nothing.
    this.#list.writeOff();
    this.#list.setOwned(this.#list.owned + this.#quarantined);
    this.#quarantined = 0;
    this.#giveBack(this.#slots());
  }

  #checkOpen(): void {
    if (this.#state !== 'open') {
      throw new DmaDestroyedError(
        `${this.#device.name}: pool ${this.#name} was destroyed; it has no more blocks to give`,
      );
    }
  }

  // ---- where things are

  #slotOf(index: number): number {
    // Exact for every index: the half keeps the product at least 1/(2 * blocksPerPage) away from a whole number.
    return Math.floor((index + 0.5) * this.#perPageInverse);
  }

  #offsetOf(index: number, slot: number): number {
    const n = index - slot * this.#perPage;
    return this.#flat ? n * this.#geometry.blockSize : this.#geometry.offsetOf(n);
  }

  dmaOf(index: number): number {
    const slot = this.#slotOf(index);
    const base = this.#index.baseOf(slot);
    return base < 0 || !Number.isInteger(index) ? -1 : base + this.#offsetOf(index, slot);
  }

  /** Byte offset of a block in its page, -1 if it is in no page. */
  offsetOf(index: number): number {
    const slot = this.#slotOf(index);
    return this.#index.baseOf(slot) < 0 || !Number.isInteger(index) ? -1 : this.#offsetOf(index, slot);
  }

  /** Index of the block that contains `dma`, handed out or not; -1 if none does. */
  indexAt(dma: number): number {
    const slot = this.#index.slotAt(dma);
    if (slot < 0) return -1;
    const n = this.#geometry.slotAt(dma - this.#index.baseOf(slot));
    return n < 0 ? -1 : slot * this.#perPage + n;
  }

  /** Buffer and place of a block. @throws {@link DmaArgumentError} if it is in no page. */
  locate(index: number): { buffer: ArrayBuffer | SharedArrayBuffer; byteOffset: number } {
    const slot = this.#slotOf(index);
    if (!Number.isInteger(index) || this.#index.baseOf(slot) < 0) {
      throw new DmaArgumentError('index', index, `the index of a block in one of the pages of pool ${this.#name}`);
    }
    const { buffer, byteOffset } = this.#memory[slot]!;
    return { buffer, byteOffset: byteOffset + this.#offsetOf(index, slot) };
  }

  bytesOf(index: number): Uint8Array<ArrayBuffer | SharedArrayBuffer> {
    const { buffer, byteOffset } = this.locate(index);
    return new Uint8Array(buffer, byteOffset, this.#geometry.blockSize);
  }

  /** A view of a whole page, always the same one. */
  pageView(slot: number): Uint8Array<ArrayBuffer | SharedArrayBuffer> {
    const { buffer, byteOffset } = this.#memory[slot]!;
    return (this.#pageViews[slot] ??= new Uint8Array(buffer, byteOffset, this.#geometry.allocation));
  }

  fill(index: number, value: number): void {
    const slot = this.#slotOf(index);
    const offset = this.#offsetOf(index, slot);
    this.pageView(slot).fill(value, offset, offset + this.#geometry.blockSize);
  }

  /** Page slot and offset in it, for code that works on {@link pageView}. */
  place(index: number): { slot: number; offset: number } {
    const slot = this.#slotOf(index);
    return { slot, offset: this.#offsetOf(index, slot) };
  }

  /** Indices of all blocks that are out, ascending. */
  #indicesOut(): number[] {
    const { words } = this.#list;
    const out: number[] = [];
    for (let index = 0; index < this.limit; index++) if (words[index] === ALLOCATED) out.push(index);
    return out;
  }

  /** All indices are below this. */
  get limit(): number {
    return this.#index.slots * this.#perPage;
  }

  account(): PoolCounts {
    const { pages } = this.#index;
    return {
      active: this.#list.out,
      blocks: pages * this.#perPage,
      pages,
    };
  }

  statistics(): PoolStatistics {
    const { active, blocks, pages } = this.account();
    const { allocations } = this.#list;
    return {
      active,
      blocks,
      pages,
      highWater: this.#list.mostOut,
      allocations,
      frees: allocations - active,
      failures: this.#failures,
      quarantined: this.#quarantined,
      waits: this.#waits,
      waiting: this.#waiters.length,
    };
  }
}
