/**
 * The slow path of a pool that belongs to one thread: new pages, limits, waiters, and the end of the pool.
 *
 * A fresh page is not put on the list at once: its blocks are carved off in runs when the list is empty, in ascending
 * order. A run is long enough that the slow path stays rare also while a pool is new (else the engine would take it
 * for the hot one), and short enough that a large page neither holds up one call nor fills tables with what is never
 * used.
 *
 * The memory source, the device's log and the signals of waiters are the user's code and may call the pool again from
 * wherever they are called. Three rules make every such call safe:
 *
 * - All state is settled before the user's code runs, and read again afterwards.
 * - No page number outlives a call of the user's code, for the page there may be another one by then. A call that must
 *   know its pages afterwards keeps them in an {@link Intake}, which pages leave when they leave the pool.
 * - A block that a call has taken and nobody has yet is QUARANTINED or RESERVED, so nobody else can free it.
 */
import { checkInteger } from '../arguments.ts';
import { allocPage, type Device, freePage, naturalAlignment } from '../device/device.ts';
import { DmaDestroyedError, type DmaError, type DmaOutOfMemoryError } from '../errors.ts';
import { DmaSourceError } from '../memory/errors.ts';
import type { CoherentMemory } from '../memory/coherent.ts';
import { observer } from '../memory/observer.ts';
import {
  AT_LIMIT,
  BackendBase,
  type BackendOptions,
  labelOf,
  NO_MEMORY,
  NO_PAGE_ALLOWED,
  notAllocated,
  type PoolBackend,
  type PoolCounts,
  type Refusal,
  refusalError,
} from './backend.ts';
import { ABSENT, ALLOCATED, EMPTY, type ListControl, QUARANTINED, RESERVED } from './free-list.ts';
import { type BlockHooks, listBlocks, type ReportTexts } from './hooks.ts';
import { MAX_BLOCKS } from './hot-path.ts';
import { PoolPages } from './pages.ts';
import { idlePagesElsewhere } from './pools-attribute.ts';
import type { PoolStatistics } from './statistics.ts';
import { checkWaitOptions, MemorySubscription, type WaitOptions, WaitQueue } from './waiting.ts';

/** What the backend of one thread's pool is made of. */
export interface LocalBackendOptions extends BackendOptions {
  readonly node: number;
  readonly list: ListControl;
  readonly modes: { readonly texts: ReportTexts };
}

/** In place of an index: the engine has no larger table. */
const NO_TABLES = -2;

/** Most blocks put on the list in one go. */
const CARVED_AT_ONCE = 256;

type State = 'open' | 'destroyed' | 'gone';

export class LocalBackend extends BackendBase implements PoolBackend {
  readonly #options: LocalBackendOptions;
  readonly #onGone: () => void;
  readonly #device: Device;
  readonly #list: ListControl;
  readonly #maxBlocks: number;
  /** Device and pool, for messages. */
  readonly #label: string;
  readonly #perPage: number;
  /**
   * Pages with fresh blocks, which were never on the list, in the order in which they will be; from `#freshAt` on, for to
   * take from the front of an array one by one would cost its length each time. `#freshCount` blocks in all.
   */
  #fresh: number[] = [];
  #freshAt = 0;
  #freshCount = 0;
  readonly #waiters: WaitQueue;
  #hooks: BlockHooks | null = null;
  #state: State = 'open';
  readonly #subscription: MemorySubscription;
  #forgetReclaim: (() => void) | null = null;
  /** Of the calls in progress that open pages. */
  readonly #intakes = new Set<Intake>();
  /** Calls of the user's code in progress, each made in the middle of an operation. */
  callsOut = 0;

  #quarantined = 0;
  /** Blocks in quarantine only while the log is told of them: they count for the limit. */
  #withheld = 0;
  #corrupted = 0;
  #failures = 0;
  #waits = 0;

  /** @param onGone Called once, when the pool is destroyed and the last of its memory given back. */
  constructor(options: LocalBackendOptions, onGone: () => void) {
    const { device, geometry, list, maxBlocks } = options;
    const label = labelOf(options);
    super(new PoolPages(label, geometry, naturalAlignment(geometry.allocation, device.memory.pageSize)));
    this.#options = options;
    this.#onGone = onGone;
    this.#device = device;
    this.#list = list;
    this.#maxBlocks = maxBlocks;
    this.#label = label;
    this.#perPage = geometry.blocksPerPage;
    this.#waiters = new WaitQueue(label, this);
    this.#subscription = new MemorySubscription(device.memory, () => {
      this.#tryAgain();
    });
  }

  /** What is done to each block that changes hands. */
  get hooks(): BlockHooks | null {
    return this.#hooks;
  }

  /** Has `hooks` run on every block from now on; null for none. */
  setHooks(hooks: BlockHooks | null): void {
    this.#hooks = hooks;
    if (hooks !== null) this.#list.hold();
    else if (this.#state === 'open' && this.#waiters.length === 0) this.#list.release();
  }

  /** True once the pool is destroyed and its memory given back. */
  get gone(): boolean {
    return this.#state === 'gone';
  }

  /** Calls the user's code in the middle of an operation. */
  callOut<T>(action: () => T): T {
    this.callsOut++;
    try {
      return action();
    } finally {
      this.callsOut--;
    }
  }

  // ---- allocating

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
        // A source under pressure may have freed blocks of this very pool before it gave up.
        else if (this.#list.out === this.#list.owned && this.#freshCount === 0) return opened;
      }
    }
  }

  /** The next block, counted: the top of the list, filled up with fresh ones if it is empty. EMPTY or NO_TABLES if there is none. */
  #next(): number {
    const index = this.#list.pop();
    if (index >= 0) return index;
    return this.#carve() ? this.#list.pop() : NO_TABLES;
  }

  get #limit(): number {
    return this.#maxBlocks - this.#withheld;
  }

  #roomForMore(): boolean {
    return this.#list.owned < this.#limit;
  }

  /** Puts a run of fresh blocks on the empty list, if there are any and the limit allows. False: no tables for them. */
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

  /** Makes room for blocks up to `end`, by an eighth at a time: what is never used costs memory too. */
  #growTables(end: number): boolean {
    const { words } = this.#list;
    try {
      if (end > words.length) {
        const larger = new Int32Array(Math.min(Math.max(end, words.length + (words.length >> 3)), MAX_BLOCKS));
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

  /** Lets the hooks have a block that was just taken. False if it was quarantined instead. */
  #dress(index: number): boolean {
    const hooks = this.#hooks;
    if (hooks === null) return true;
    // Who still has the old handle is found out when using it.
    if (hooks.renewsHandles) this.#list.dropObject(index);
    const trouble = hooks.inspect(index);
    if (trouble !== null) {
      // Into quarantine first, so that the log finds a pool in order; whatever it does there, look again afterwards.
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

  /** Opens pages until `count` blocks can be had; if that fails, those it opened go back. */
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
          // A source under pressure may have freed blocks of this very pool before it gave up: then look again.
          return page as Refusal;
        }
      }
    } finally {
      this.endIntake(intake);
    }
  }

  /** Records the pages of a call that opens some; {@link endIntake} must follow. */
  beginIntake(needed: number): Intake {
    const intake = new Intake(this.pages.count, needed);
    this.#intakes.add(intake);
    return intake;
  }

  /** Gives back what is left in the intake, except for pages of which blocks were handed out meanwhile. */
  endIntake(intake: Intake): void {
    this.#intakes.delete(intake);
    const untouched = [...intake.pages].filter((page) => this.pages.carvedOf(page) === 0);
    // What the source throws is not reported: the call has its own result.
    this.#giveBack(untouched);
  }

  refused(refusal: number, count = 1): DmaOutOfMemoryError {
    const idle = refusal === NO_MEMORY ? idlePagesElsewhere(this.#device.memory, this) : '';
    return refusalError(refusal, count, this.#options, this.counts(), idle);
  }

  /** Takes a page from the source; its number, or a refusal. No code of the user's runs after the page is known to be there. */
  openPage(): number {
    if (this.#outOfNumbers()) return AT_LIMIT;
    const { geometry, node } = this.#options;
    const memory = this.callOut(() => allocPage(this.#device, geometry.allocation, node));
    if (memory === null) return NO_MEMORY;
    // The source may have called the pool meanwhile.
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
    // The memory is the source's object; looking at it may run its code.
    this.callOut(() => {
      this.#hooks?.pageOpened(page);
      observer?.event('page', this, page);
    });
    return this.pages.holds(page, memory) ? page : NO_MEMORY;
  }

  #outOfNumbers(): boolean {
    return (this.pages.next + 1) * this.#perPage > MAX_BLOCKS;
  }

  #addPage(memory: CoherentMemory): number {
    try {
      // If this throws a DmaSourceError, the memory is one that the pool has already: not to be given back.
      return this.pages.add(memory);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      // The engine has no larger table of pages.
      freePage(this.#device, memory, this.#options.geometry.allocation);
      return NO_MEMORY;
    }
  }

  // ---- freeing

  drain(index: number): void {
    if (this.#list.word(index) !== ALLOCATED || (index | 0) !== index) throw this.badFree(index);
    this.#hooks?.freed(index);
    if (this.#state !== 'open' || this.#waiters.length === 0) {
      this.#list.push(index);
      if (this.#state === 'destroyed' && this.#list.out === 0) this.#giveBackAll();
      return;
    }
    // From hand to hand: it never becomes free, so nobody can take it in between.
    this.#list.passOn();
    // Quarantined instead: that may have made room for another one.
    if (!this.#handOver(index)) this.#tryAgain();
    this.#settleWaiters();
  }

  /** Gives a block that was just taken to the first waiter. False if it was quarantined instead. */
  #handOver(index: number): boolean {
    if (!this.#dress(index)) return false;
    if (this.#waiters.deliver(index)) return true;
    // All waits ended in between.
    this.#hooks?.freed(index);
    this.#list.push(index);
    return true;
  }

  badFree(index: number): DmaError {
    if (!this.pages.has(index)) return this.gone ? this.#destroyedError() : this.pages.noSuchBlock(index);
    return notAllocated(this.pages, index, this.#list.word(index), this.history(index));
  }

  #destroyedError(): DmaDestroyedError {
    return new DmaDestroyedError(`${this.#label} was destroyed`);
  }

  /** Throws if the pool is gone, so that what is left of its blocks gets the error that says so. */
  checkNotGone(): void {
    if (this.gone) throw this.#destroyedError();
  }

  // ---- waiting

  /** Waits for a block; `wrap` makes of its index what the caller gets. */
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
      // Rejected as thrown: a signal's reason need not be an Error.
      return Promise.reject(error);
    }
  }

  /** Subscribes to the next "memory available" event of the source. */
  #subscribe(): void {
    try {
      // Each round but the last lowers the number of waiters, so the loop ends.
      while (this.#waiters.length > 0 && this.#roomForMore()) {
        const before = this.#waiters.length;
        const granted = this.callOut(() => this.#subscription.subscribe());
        if (!granted) return;
        if (this.#waiters.length >= before) {
          throw new DmaSourceError(`${this.#label}: memory source announced memory, and gives none`);
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
      // Nobody called, so nobody can be told but those who wait.
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

  /** When nobody waits any more, the list goes back to the hot path. */
  #settleWaiters(): void {
    if (this.#waiters.length > 0) return;
    // The list first: the source may call the pool when the wish is taken back, and somebody may wait again afterwards.
    if (this.#state === 'open' && this.#hooks === null) this.#list.release();
    this.callOut(() => {
      this.#subscription.cancel();
    });
  }

  // ---- pages

  /** Opens pages until `count` blocks can be had without one. */
  reserve(count: number): void {
    checkInteger('count', count, 0, MAX_BLOCKS);
    const refusal = this.#provide(count, true);
    if (refusal < 0) throw this.refused(refusal, count);
  }

  /** Gives back every page of which no block is out or in quarantine; returns how many. */
  trim(): number {
    if (this.#state !== 'open') return 0;
    const idle = this.#idlePages();
    throwFirst(this.#giveBack(idle));
    return idle.length;
  }

  /** Pages that {@link trim} would give back, of the first `most` pages. */
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
    for (let index = first; index < first + this.pages.carvedOf(page); index++) {
      const word = words[index];
      if (word === ALLOCATED || word === QUARANTINED || word === RESERVED) return false;
    }
    return true;
  }

  /** Everything of ours first, the source last. Returns what the source threw, after all pages went. */
  #giveBack(pages: readonly number[]): unknown[] {
    const errors: unknown[] = [];
    if (pages.length === 0) return errors;
    for (const intake of this.#intakes) intake.left(pages);
    const going = new Set(pages);
    this.#list.filter((index) => !going.has(this.pages.pageOf(index)));
    this.#fresh = this.#fresh.slice(this.#freshAt).filter((page) => {
      if (going.has(page)) this.#freshCount -= this.#perPage - this.pages.carvedOf(page);
      return !going.has(page);
    });
    this.#freshAt = 0;
    for (const page of pages) {
      const carved = this.pages.carvedOf(page);
      const first = page * this.#perPage;
      this.#list.words.fill(ABSENT, first, first + this.#perPage);
      for (let index = first; index < first + carved; index++) this.#list.dropObject(index);
      this.#list.addOwned(-carved);
    }
    for (const memory of this.pages.remove(pages)) {
      try {
        freePage(this.#device, memory, this.#options.geometry.allocation);
      } catch (error) {
        errors.push(error);
      }
    }
    for (const page of pages) observer?.event('page', this, -1 - page);
    return errors;
  }

  // ---- the end

  /** Refuses new allocations, reports blocks that are out, gives back what can be given back. */
  destroy(): void {
    if (this.#state !== 'open') return;
    this.#state = 'destroyed';
    this.#list.hold();
    this.#waiters.failAll(this.#destroyedError());
    this.#settleWaiters();
    // The source may have freed the last block meanwhile.
    if (this.gone) return;
    if (this.#indicesOut().length === 0) {
      this.#giveBackAll();
      return;
    }
    this.#forgetReclaim = this.#device.onReclaim(() => {
      this.#forgetReclaim = null;
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

  /** The memory is another backend's from now on: this pool ends without giving it back. */
  markGone(): void {
    this.#state = 'gone';
  }

  history(index: number): string {
    return this.#hooks?.history(index) ?? '';
  }

  ownerOf(index: number): string {
    return this.#list.word(index) === ALLOCATED ? '' : 'not allocated';
  }

  /** Who holds blocks, for messages. */
  holders(out: readonly number[] = this.#indicesOut()): string {
    const known = this.#hooks?.holders(out) ?? '';
    const blocks = listBlocks(out, this.pages);
    const count = `${out.length} ${out.length === 1 ? 'block is' : 'blocks are'} still out`;
    return known === '' ? `${count}: ${blocks} (see option debug)` : `${count}:${known}`;
  }

  #giveBackAll(): void {
    this.#state = 'gone';
    this.#forgetReclaim?.();
    this.#forgetReclaim = null;
    // What is in quarantine goes with its page, and what is out is lost, so that the figures end at nothing.
    this.#list.writeOff();
    this.#list.addOwned(this.#quarantined);
    this.#quarantined = 0;
    this.#onGone();
    throwFirst(this.#giveBack(this.pages.numbers()));
  }

  /** @throws {@link DmaDestroyedError} once the pool is destroyed. */
  checkOpen(): void {
    if (this.#state !== 'open') throw this.#destroyedError();
  }

  // ---- figures, and where things are

  /** Indices of all blocks that are out, ascending. */
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
 * The pages that one call takes from the memory source while it is in progress.
 *
 * The source is the user's code and may call the pool: trim it, allocate from it, reserve more. Two invariants hold all
 * the same.
 *
 * - `pages` are exactly those that this call opened and that the pool still has. A page that leaves the pool
 *   leaves every intake ({@link Intake.left}), so a number that was given back, and opened anew by another call, is not
 *   taken for one of this call's.
 * - The call ends. Each page that it opens either raises the number of the pool's pages above `most`, the highest number
 *   during the call, or uses up one of `spare`. The first is bounded by the number of indices, the second by its start
 *   value. `spare` starts with as many pages as the call can need at all, which allows for a source that gives back all
 *   idle pages of the process once, this call's included, and then has enough.
 */
export class Intake {
  readonly pages: Set<number> = new Set<number>();
  #most: number;
  #spare: number;

  /**
   * @param pages Pages that the pool has now.
   * @param needed Pages that the call would need if the pool had none.
   */
  constructor(pages: number, needed: number) {
    this.#most = pages;
    this.#spare = needed;
  }

  /** The call opened `page`, and the pool has `pages` now. False if the call must end. */
  opened(page: number, pages: number): boolean {
    this.pages.add(page);
    if (pages > this.#most) {
      this.#most = pages;
      return true;
    }
    return this.#spare-- > 0;
  }

  /** Pages left the pool. */
  left(pages: readonly number[]): void {
    for (const page of pages) this.pages.delete(page);
  }
}
