/**
 * The slow path of a pool of one thread: new pages, limits, waiters, and destruction.
 *
 * The blocks of a fresh page are carved onto the list in runs, in ascending order, whenever the list is empty. Long
 * runs keep the slow path rare in a new pool; otherwise the engine would optimise for it. Short runs bound the work of
 * a call and the tables of blocks that are never used.
 *
 * The memory source, the device's log and the signals of waiters are user code. Each may call the pool again. Three
 * invariants make such calls safe:
 *
 * - The state is consistent before user code runs, and is read again afterwards.
 * - No page number is kept across a call of user code, because another page may have that number afterwards. A call
 *   that needs its pages afterwards keeps them in an {@link Intake}. A page that leaves the pool leaves all intakes.
 * - A block that is taken but not yet returned to a caller is QUARANTINED or RESERVED while user code runs, so no other
 *   call can free it.
 */
import { checkInteger } from '../arguments.ts';
import { allocPage, type Device, freePage, naturalAlignment } from '../device/device.ts';
import { DmaDestroyedError, type DmaError, type DmaOutOfMemoryError } from '../errors.ts';
import { DmaSourceError } from '../memory/errors.ts';
import type { CoherentMemory } from '../memory/coherent.ts';
import { observer } from '../memory/observer.ts';
import {
  BackendBase,
  type BackendOptions,
  labelOf,
  notAllocated,
  type PoolBackend,
  type PoolCounts,
  refusalError,
} from './backend.ts';
import { ABSENT, ALLOCATED, EMPTY, type ListControl, QUARANTINED, RESERVED } from './free-list.ts';
import { type BlockHooks, listBlocks, type ReportTexts } from './hooks.ts';
import { MAX_BLOCKS } from './hot-path.ts';
import { PoolPages } from './pages.ts';
import { idlePagesElsewhere } from './pools-attribute.ts';
import { AT_LIMIT, NO_MEMORY, NO_PAGE_ALLOWED, NO_TABLES, type Refusal } from './refusal.ts';
import type { PoolStatistics } from './statistics.ts';
import { checkWaitOptions, MemorySubscription, type WaitOptions, WaitQueue } from './waiting.ts';

/** Options of a {@link LocalBackend}. */
export interface LocalBackendOptions extends BackendOptions {
  readonly node: number;
  readonly modes: { readonly texts: ReportTexts };
}

/** Limit of blocks carved at a time. */
const CARVED_AT_ONCE = 256;

/** Blocks that the tables of a pool of this many blocks or more grow by, at least. */
const GROWN_AT_ONCE = 1024;

type State = 'open' | 'destroyed' | 'gone';

export class LocalBackend extends BackendBase implements PoolBackend {
  readonly #options: LocalBackendOptions;
  readonly #onGone: () => void;
  readonly #device: Device;
  readonly #list: ListControl;
  readonly #perPage: number;
  /**
   * Pages with fresh blocks, in the order in which these are carved. The first is `#fresh[#freshAt]`, because `shift()`
   * is O(length). A fresh block was never on the list.
   *
   *     #freshCount = sum of (blocksPerPage - carved) over these pages
   *     blocks in all pages = #list.owned + #freshCount + #quarantined
   */
  #fresh: number[] = [];
  #freshAt = 0;
  #freshCount = 0;
  readonly #waiters: WaitQueue;
  #hooks: BlockHooks | null = null;
  #state: State = 'open';
  readonly #subscription: MemorySubscription;
  #forgetReclaim: (() => void) | null = null;
  /** The intakes of calls in progress. */
  readonly #intakes = new Set<Intake>();
  /** Number of calls of user code that are in progress and interrupt an operation of the pool. */
  callsOut = 0;

  #quarantined = 0;
  /** Blocks in quarantine only until a log call returns. They count towards the limit. */
  #withheld = 0;
  #corrupted = 0;
  #failures = 0;
  #waits = 0;

  /** @param onGone Called once, after the pool is destroyed and has returned its last page. */
  constructor(options: LocalBackendOptions, list: ListControl, onGone: () => void) {
    const { device, geometry } = options;
    const label = labelOf(options);
    super(new PoolPages(label, geometry, naturalAlignment(geometry.allocation, device.memory.pageSize)));
    this.#options = options;
    this.#onGone = onGone;
    this.#device = device;
    this.#list = list;
    this.#perPage = geometry.blocksPerPage;
    this.#waiters = new WaitQueue(label, this);
    this.#subscription = new MemorySubscription(device.memory, () => {
      this.#tryAgain();
    });
  }

  get hooks(): BlockHooks | null {
    return this.#hooks;
  }

  /** Sets the hooks for all blocks; null for none. */
  setHooks(hooks: BlockHooks | null): void {
    this.#hooks = hooks;
    if (hooks !== null) this.#list.hold();
    else if (this.#state === 'open' && this.#waiters.length === 0) this.#list.release();
  }

  /** True after the pool is destroyed and has returned all memory. */
  get gone(): boolean {
    return this.#state === 'gone';
  }

  /** Calls user code in the middle of an operation. */
  callOut<T>(action: () => T): T {
    this.callsOut++;
    try {
      return action();
    } finally {
      this.callsOut--;
    }
  }

  // ---- allocate

  refill(grow: boolean): number {
    const index = this.#take(grow);
    if (index < 0) this.#failed(index);
    return index;
  }

  #take(grow: boolean): number {
    for (;;) {
      this.checkOpen();
      const index = this.#next();
      if (index >= 0) {
        if (this.#dress(index)) return index;
      } else if (index === NO_TABLES) {
        return NO_MEMORY;
      } else {
        if (!this.#roomForMore()) return AT_LIMIT;
        if (!grow) return NO_PAGE_ALLOWED;
        const opened = this.openPage();
        // Serve queued waiters first.
        if (opened >= 0) this.#serveWaiters();
        // A memory source under pressure may have freed blocks of this pool before it failed.
        else if (this.#list.out === this.#list.owned && this.#freshCount === 0) return opened;
      }
    }
  }

  /** Takes and counts the next block. Carves fresh blocks if the list is empty. EMPTY or NO_TABLES if there is none. */
  #next(): number {
    const index = this.#list.pop();
    if (index >= 0) return index;
    return this.#carve() ? this.#list.pop() : NO_TABLES;
  }

  get #limit(): number {
    return this.#options.maxBlocks - this.#withheld;
  }

  #roomForMore(): boolean {
    return this.#list.owned < this.#limit;
  }

  /** Carves a run of fresh blocks onto the empty list, within the limit. False if the tables can't grow. */
  #carve(): boolean {
    const page = this.#fresh[this.#freshAt];
    const room = this.#limit - this.#list.owned;
    if (page === undefined || room <= 0) return true;
    const carved = this.pages.carvedOf(page);
    const count = Math.min(this.#perPage - carved, room, CARVED_AT_ONCE);
    const first = page * this.#perPage + carved;
    if (!this.#growTables(first + count)) return false;
    this.pages.setCarved(page, carved + count);
    this.#freshCount -= count;
    if (carved + count === this.#perPage && ++this.#freshAt === this.#fresh.length) {
      this.#fresh = [];
      this.#freshAt = 0;
    }
    this.#list.addOwned(count);
    this.#list.append(first, count);
    return true;
  }

  /**
   * Extends the tables to `end` blocks. They double up to 1,024 blocks, and then grow by 1,024 blocks or an eighth:
   * each growth copies them, but unused entries cost memory too.
   */
  #growTables(end: number): boolean {
    const { words } = this.#list;
    try {
      if (end > words.length) {
        const more = Math.max(Math.min(words.length, GROWN_AT_ONCE), words.length >> 3);
        const larger = new Int32Array(Math.min(Math.max(end, words.length + more), MAX_BLOCKS));
        larger.set(words);
        this.#list.replaceWords(larger);
      }
      this.#list.fitObjects();
      return true;
    } catch (error) {
      // The engine has no array of that length.
      if (error instanceof RangeError) return false;
      throw error;
    }
  }

  /** Runs the hooks on a block just taken. False if the block was quarantined. */
  #dress(index: number): boolean {
    const hooks = this.#hooks;
    if (hooks === null) return true;
    // The use of an old handle is then an error.
    if (hooks.renewsHandles) this.#list.dropObjects(index, 1);
    const trouble = hooks.inspect(index);
    if (trouble !== null) {
      // Quarantine first, so that the log sees a consistent pool. Read the state again after the log call.
      this.#corrupted++;
      this.#list.uncount(1);
      this.#quarantine(index, 1);
      const returns = hooks.quarantines ? 0 : 1;
      this.#withheld += returns;
      this.callOut(() => {
        this.#device.report('error', `${this.#options.name} corrupted`, trouble);
        observer?.event('corrupted', this, index);
      });
      this.#withheld -= returns;
      if (hooks.quarantines || this.#state !== 'open' || this.#list.word(index) !== QUARANTINED) return false;
      this.#quarantine(index, -1);
      this.#list.uncount(-1);
    }
    hooks.allocated(index);
    return true;
  }

  #quarantine(index: number, change: 1 | -1): void {
    this.#list.setWord(index, change > 0 ? QUARANTINED : ALLOCATED);
    this.#list.addOwned(-change);
    this.#quarantined += change;
  }

  prepare(count: number, grow: boolean): Refusal | 0 {
    const refusal = this.#provide(count, grow);
    if (refusal < 0) this.#failed(refusal);
    return refusal;
  }

  #failed(refusal: number): void {
    this.#failures++;
    observer?.event('exhausted', this, refusal);
  }

  /** Opens pages until `count` blocks are available. On failure, returns the pages that it opened. */
  #provide(count: number, grow: boolean): Refusal | 0 {
    this.checkOpen();
    const intake = this.beginIntake(Math.ceil(count / this.#perPage));
    let goesOn = true;
    try {
      for (;;) {
        const { out, owned } = this.#list;
        const missing = count - (owned - out);
        if (missing <= Math.min(this.#freshCount, this.#limit - owned)) {
          intake.pages.clear();
          return 0;
        }
        if (missing > this.#limit - owned) return AT_LIMIT;
        if (!grow) return NO_PAGE_ALLOWED;
        if (!goesOn) return NO_MEMORY;
        const page = this.openPage();
        if (page >= 0) {
          goesOn = intake.opened(page, this.pages.count);
          this.#serveWaiters();
          this.checkOpen();
        } else if (count - (this.#list.owned - this.#list.out) >= missing) {
          // A memory source under pressure may have freed blocks of this pool before it failed: try again.
          return page as Refusal;
        }
      }
    } finally {
      this.endIntake(intake);
    }
  }

  /** Starts to record the pages that a call opens. The call must end with {@link endIntake}. */
  beginIntake(needed: number): Intake {
    const intake = new Intake(this.pages.count, needed);
    this.#intakes.add(intake);
    return intake;
  }

  /** Returns the pages left in the intake, except those with carved blocks. */
  endIntake(intake: Intake): void {
    this.#intakes.delete(intake);
    const untouched = [...intake.pages].filter((page) => this.pages.carvedOf(page) === 0);
    // Drop the memory source's errors: the call has its own result.
    this.#giveBack(untouched);
  }

  refused(refusal: number, count = 1): DmaOutOfMemoryError {
    const idle = refusal === NO_MEMORY ? idlePagesElsewhere(this.#device.memory, this) : '';
    return refusalError(refusal, count, this.#options, this.counts(), idle);
  }

  /** Takes a page from the memory source. Returns its number or a refusal. Runs no user code after the final check. */
  openPage(): number {
    if (this.#outOfNumbers()) return AT_LIMIT;
    const { geometry, node } = this.#options;
    const memory = this.callOut(() => allocPage(this.#device, geometry.allocation, node));
    if (memory === null) return NO_MEMORY;
    // The memory source may have called the pool.
    if (this.#state !== 'open' || this.#outOfNumbers()) {
      freePage(this.#device, memory, this.#options.geometry.allocation);
      this.checkOpen();
      return AT_LIMIT;
    }
    const page = this.#addPage(memory);
    if (page < 0) return page;
    const first = page * this.#perPage;
    this.#list.words.fill(EMPTY, first, first + this.#perPage);
    this.#fresh.push(page);
    this.#freshCount += this.#perPage;
    // The memory is an object of the memory source. A getter may run its code.
    this.callOut(() => {
      this.#hooks?.pageOpened(page);
      observer?.event('page', this, page);
    });
    return this.pages.memoryOf(page) === memory ? page : NO_MEMORY;
  }

  #outOfNumbers(): boolean {
    return (this.pages.next + 1) * this.#perPage > MAX_BLOCKS;
  }

  #addPage(memory: CoherentMemory): number {
    try {
      // A DmaSourceError means that the pool already has this memory. Do not free it.
      return this.pages.add(memory);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      // The engine has no larger table of pages.
      freePage(this.#device, memory, this.#options.geometry.allocation);
      return NO_MEMORY;
    }
  }

  // ---- free

  drain(index: number): void {
    if (this.#list.word(index) !== ALLOCATED || (index | 0) !== index) throw this.badFree(index);
    this.#hooks?.freed(index);
    if (this.#state !== 'open' || this.#waiters.length === 0) {
      this.#list.push(index);
      if (this.#state === 'destroyed' && this.#list.out === 0) this.#giveBackAll();
      return;
    }
    // Passed on directly: the block is never free, so no other call can take it.
    this.#list.passOn();
    // The block was quarantined, which may have made room for another one.
    if (!this.#handOver(index)) this.#tryAgain();
    this.#settleWaiters();
  }

  /** Delivers a block just taken to the first waiter. False if the block was quarantined. */
  #handOver(index: number): boolean {
    if (!this.#dress(index)) return false;
    if (this.#waiters.deliver(index)) return true;
    // All waits ended meanwhile.
    this.#hooks?.freed(index);
    this.#list.push(index);
    return true;
  }

  badFree(index: number): DmaError {
    if (!this.pages.has(index)) return this.gone ? this.#destroyedError() : this.pages.noSuchBlock(index);
    return notAllocated(this.pages, index, this.#list.word(index), this.history(index));
  }

  #destroyedError(): DmaDestroyedError {
    return new DmaDestroyedError(`${this.pages.label} was destroyed`);
  }

  /** Throws if the pool is gone. */
  checkNotGone(): void {
    if (this.gone) throw this.#destroyedError();
  }

  // ---- wait

  /** Waits for a block. `wrap` converts its index to the caller's result. */
  wait<T>(wrap: (index: number) => T, options: WaitOptions): Promise<T> {
    try {
      const checked = checkWaitOptions(options);
      checked.signal?.throwIfAborted();
      const give = (index: number): T => {
        if (checked.zero) this.pages.fill(index, 0);
        return wrap(index);
      };
      if (this.#waiters.length === 0) {
        const index = this.#take(true);
        if (index >= 0) return Promise.resolve(give(index));
      }
      this.checkOpen();
      this.#waits++;
      this.#list.hold();
      const waiting = this.#waiters.join({}, give, checked, () => {
        this.#settleWaiters();
      });
      this.#subscribe();
      return waiting;
    } catch (error) {
      // Rejected with the value as thrown: a signal's reason need not be an Error.
      return Promise.reject(error);
    }
  }

  /** Subscribes to the next "memory available" event of the source. */
  #subscribe(): void {
    try {
      // Each iteration except the last reduces the number of waiters, so the loop terminates.
      while (this.#waiters.length > 0 && this.#roomForMore()) {
        const before = this.#waiters.length;
        const granted = this.callOut(() => this.#subscription.subscribe());
        if (!granted) return;
        if (this.#waiters.length >= before) {
          throw new DmaSourceError(`${this.pages.label}: memory source gave no memory`);
        }
      }
    } catch (error) {
      this.#waiters.failAll(error);
      this.#settleWaiters();
    }
  }

  #tryAgain(): void {
    try {
      this.#serveWaiters();
      while (this.#waiters.length > 0 && this.#state === 'open' && this.#roomForMore() && this.openPage() >= 0) {
        this.#serveWaiters();
      }
    } catch (error) {
      // There is no caller, so only the waiters can receive the error.
      this.#waiters.failAll(error);
    }
    this.#settleWaiters();
    this.#subscribe();
  }

  #serveWaiters(): void {
    while (this.#waiters.length > 0 && this.#state === 'open') {
      const index = this.#next();
      if (index < 0) break;
      this.#handOver(index);
    }
    this.#settleWaiters();
  }

  /** Returns the list to the hot path if no waiter is left. */
  #settleWaiters(): void {
    if (this.#waiters.length > 0) return;
    // Release the list first: during the cancellation the memory source may call the pool, and a new wait may begin.
    if (this.#state === 'open' && this.#hooks === null) this.#list.release();
    this.callOut(() => {
      this.#subscription.cancel();
    });
  }

  // ---- pages

  /** Opens pages until `count` blocks can be allocated without a new page. */
  reserve(count: number): void {
    checkInteger('count', count, 0, MAX_BLOCKS);
    const refusal = this.#provide(count, true);
    if (refusal < 0) throw this.refused(refusal, count);
  }

  /** Releases every page without allocated or quarantined blocks to the memory source. Returns their number. */
  trim(): number {
    if (this.#state !== 'open') return 0;
    const idle = this.#idlePages();
    throwFirst(this.#giveBack(idle));
    return idle.length;
  }

  /** Number of pages that {@link trim} would return, among the first `most` pages. */
  idlePages(most: number): number {
    return this.#state === 'open' ? this.#idlePages(most).length : 0;
  }

  #idlePages(most = Infinity): number[] {
    return this.pages
      .numbers()
      .slice(0, most)
      .filter((page) => this.#isIdle(page));
  }

  #isIdle(page: number): boolean {
    const { words } = this.#list;
    const first = page * this.#perPage;
    const end = first + this.pages.carvedOf(page);
    for (let index = first; index < end; index++) {
      const word = words[index];
      if (word === ALLOCATED || word === QUARANTINED || word === RESERVED) return false;
    }
    return true;
  }

  /** Removes pages from all tables, then frees their memory. Returns the memory source's errors. */
  #giveBack(pages: readonly number[]): unknown[] {
    const errors: unknown[] = [];
    if (pages.length === 0) return errors;
    for (const intake of this.#intakes) intake.left(pages);
    const memories = this.pages.remove(pages);
    if (this.pages.count === 0) this.#list.setTop(EMPTY);
    else this.#list.filter((index) => this.pages.has(index));
    this.#fresh = this.#fresh.slice(this.#freshAt).filter((page) => this.pages.has(page * this.#perPage));
    this.#freshAt = 0;
    for (const page of pages) {
      const carved = this.pages.carvedOf(page);
      const first = page * this.#perPage;
      this.#list.words.fill(ABSENT, first, first + this.#perPage);
      this.#list.dropObjects(first, carved);
      this.#list.addOwned(-carved);
      this.#freshCount -= this.#perPage - carved;
    }
    for (const memory of memories) {
      try {
        freePage(this.#device, memory, this.#options.geometry.allocation);
      } catch (error) {
        errors.push(error);
      }
    }
    for (const page of pages) observer?.event('page', this, -1 - page);
    return errors;
  }

  // ---- destroy

  /** Ends the pool: rejects further allocations, reports allocated blocks, and returns idle pages. */
  destroy(): void {
    if (this.#state !== 'open') return;
    this.#state = 'destroyed';
    this.#list.hold();
    // An error costs as much as the rest of the call.
    if (this.#waiters.length > 0) this.#waiters.failAll(this.#destroyedError());
    this.#settleWaiters();
    // The memory source may have freed the last block.
    if (this.gone) return;
    if (this.#indicesOut().length === 0) {
      this.#giveBackAll();
      return;
    }
    this.#forgetReclaim = this.#device.onReclaim(() => {
      const { count } = this.pages;
      this.#giveBackAll();
      return count;
    });
    const errors = this.#giveBack(this.#idlePages());
    const { name, modes } = this.#options;
    if (!this.gone) {
      this.#device.report('error', `${name} busy`, modes.texts.busy(name, this.holders()));
      observer?.event('leak', this, this.#list.out);
    }
    throwFirst(errors);
  }

  /** Ends the pool without returning its memory, which another backend now owns. */
  markGone(): void {
    this.#state = 'gone';
  }

  history(index: number): string {
    return this.#hooks?.history(index) ?? '';
  }

  ownerOf(index: number): string {
    return this.#list.word(index) === ALLOCATED ? '' : 'not allocated';
  }

  /** Lists allocated blocks and their allocation sites, for messages. */
  holders(out: readonly number[] = this.#indicesOut()): string {
    const known = this.#hooks?.holders(out) ?? '';
    const blocks = listBlocks(out, this.pages);
    const count = `${out.length} still out`;
    return known === '' ? `${count}: ${blocks}` : `${count}:${known}`;
  }

  #giveBackAll(): void {
    this.#state = 'gone';
    this.#forgetReclaim?.();
    // Quarantined blocks leave with their pages, and allocated blocks are written off, so that all figures become 0.
    this.#list.writeOff();
    this.#list.addOwned(this.#quarantined);
    this.#quarantined = 0;
    this.#onGone();
    throwFirst(this.#giveBack(this.pages.numbers()));
  }

  /** @throws {@link DmaDestroyedError} after the pool is destroyed. */
  checkOpen(): void {
    if (this.#state !== 'open') throw this.#destroyedError();
  }

  // ---- figures

  /** Indices of all allocated blocks, ascending. */
  #indicesOut(): number[] {
    const { words } = this.#list;
    const out: number[] = [];
    for (let index = 0; index < words.length; index++) if (words[index] === ALLOCATED) out.push(index);
    return out;
  }

  counts(): PoolCounts {
    const { count } = this.pages;
    return { active: this.#list.out, blocks: count * this.#perPage, pages: count };
  }

  statistics(): PoolStatistics {
    const counts = this.counts();
    const { allocations, mostOut } = this.#list;
    return {
      ...counts,
      highWater: mostOut,
      allocations,
      frees: allocations - counts.active,
      failures: this.#failures,
      corrupted: this.#corrupted,
      quarantined: this.#quarantined,
      waits: this.#waits,
      waiting: this.#waiters.length,
      inTransit: 0,
    };
  }
}

function throwFirst(errors: readonly unknown[]): void {
  if (errors.length > 0) throw errors[0];
}

/**
 * The pages that one call in progress takes from the memory source.
 *
 * The memory source is user code and may call the pool: trim it, allocate from it, reserve more. Invariants:
 *
 * - `pages` are the pages that this call opened and that the pool still has. A page that leaves the pool leaves every
 *   intake ({@link Intake.left}). So if another call reuses its number, the new page is not in this intake.
 * - The call opens a bounded number of pages. Each page either raises the number of the pool's pages above `most`, the
 *   maximum during the call, or decrements `spare`. The number of indices bounds the former, the initial value the
 *   latter. `spare` starts with the largest number of pages that the call can need. So the call still succeeds if the
 *   memory source, under pressure, once frees all idle pages of the process, those of this call included.
 */
export class Intake {
  readonly pages: Set<number> = new Set<number>();
  #most: number;
  #spare: number;

  /**
   * @param pages Current number of pages of the pool.
   * @param needed Number of pages that the call would need in an empty pool.
   */
  constructor(pages: number, needed: number) {
    this.#most = pages;
    this.#spare = needed;
  }

  /**
   * Records a page that the call opened. `pages` is the new number of pages of the pool. False if the call must end.
   */
  opened(page: number, pages: number): boolean {
    this.pages.add(page);
    if (pages > this.#most) {
      this.#most = pages;
      return true;
    }
    return this.#spare-- > 0;
  }

  /** Removes pages that left the pool. */
  left(pages: readonly number[]): void {
    for (const page of pages) this.pages.delete(page);
  }
}
