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
 * - No slot number outlives a call of the user's code, for the page there may be another one by then. A call that must
 *   know its pages afterwards keeps them in an {@link Intake}, which pages leave when they leave the pool.
 * - A block that a call has taken and nobody has yet is QUARANTINED or RESERVED, so nobody else can free it.
 */
import { checkInteger } from '../arguments.ts';
import { allocPage, type Device, freePage, naturalAlignment } from '../device/device.ts';
import {
  DmaBlockError,
  DmaDestroyedError,
  type DmaError,
  type DmaOutOfMemoryError,
  DmaSourceError,
  hex,
} from '../errors.ts';
import type { CoherentMemory } from '../memory/coherent.ts';
import { AT_LIMIT, NO_MEMORY, NO_PAGE_ALLOWED, type PoolBackend, type PoolCounts, type Refusal } from './backend.ts';
import { ABSENT, ALLOCATED, EMPTY, type ListControl, QUARANTINED, RESERVED } from './free-list.ts';
import type { PoolGeometry } from './geometry.ts';
import { type BlockHooks, listBlocks, type ReportTexts } from './hooks.ts';
import { MAX_BLOCKS } from './hot-path.ts';
import { PoolPages } from './pages.ts';
import { idlePagesElsewhere } from './pools-attribute.ts';
import { refusalError } from './refusal.ts';
import type { PoolStatistics } from './statistics.ts';
import { checkWaitOptions, MemoryWish, type WaitOptions, WaitQueue } from './waiting.ts';

/** What the backend of one thread's pool is made of. */
export interface LocalBackendOptions {
  readonly name: string;
  readonly device: Device;
  readonly geometry: PoolGeometry;
  readonly node: number;
  readonly maxBlocks: number;
  readonly list: ListControl;
  /** Called once, when the pool is destroyed and the last of its memory given back. */
  readonly onGone: () => void;
  readonly texts: ReportTexts;
}

/** In place of an index: the engine has no larger table. */
const NO_TABLES = -2;

/** Most blocks put on the list in one go. */
const CARVED_AT_ONCE = 256;

type State = 'open' | 'destroyed' | 'gone';

export class LocalBackend implements PoolBackend {
  readonly #options: LocalBackendOptions;
  readonly #device: Device;
  readonly #list: ListControl;
  readonly #maxBlocks: number;
  /** Device and pool, for messages. */
  readonly #label: string;
  readonly #perPage: number;
  readonly #fresh = new FreshBlocks();
  readonly #waiters: WaitQueue;
  readonly pages: PoolPages;
  #hooks: BlockHooks | null = null;
  #state: State = 'open';
  readonly #wish: MemoryWish;
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

  constructor(options: LocalBackendOptions) {
    const { device, geometry, list, maxBlocks, name } = options;
    this.#options = options;
    this.#device = device;
    this.#list = list;
    this.#maxBlocks = maxBlocks;
    this.#label = `${device.name}: pool ${name}`;
    this.#perPage = geometry.blocksPerPage;
    this.#waiters = new WaitQueue(this.#label);
    this.#wish = new MemoryWish(device.memory, () => {
      this.#tryAgain();
    });
    this.pages = new PoolPages(this.#label, geometry, naturalAlignment(geometry.allocation, device.memory.pageSize));
  }

  /** Has `hooks` run on every block from now on. Before the first call to the pool. */
  setHooks(hooks: BlockHooks): void {
    this.#hooks = hooks;
    this.#list.hold();
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
    if (index < 0) this.#failures++;
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
        else if (this.#list.out === this.#list.owned && this.#fresh.count === 0) return opened;
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
    const { slot } = this.#fresh;
    const room = this.#limit - this.#list.owned;
    if (slot < 0 || room <= 0) return true;
    const carved = this.pages.carvedOf(slot);
    const count = Math.min(this.#perPage - carved, room, CARVED_AT_ONCE);
    const first = slot * this.#perPage + carved;
    if (!this.#growTables(first + count)) return false;
    this.pages.setCarved(slot, carved + count);
    this.#fresh.carved(count, carved + count === this.#perPage);
    this.#list.setOwned(this.#list.owned + count);
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
    this.#list.setOwned(this.#list.owned - change);
    this.#quarantined += change;
  }

  prepare(count: number, grow: boolean): Refusal | 0 {
    const refusal = this.#provide(count, grow);
    if (refusal < 0) this.#failures++;
    return refusal;
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
        if (missing <= Math.min(this.#fresh.count, this.#limit - owned)) {
          intake.slots.clear();
          return 0;
        }
        if (missing > this.#limit - owned) return AT_LIMIT;
        if (!grow) return NO_PAGE_ALLOWED;
        if (!goesOn) return NO_MEMORY;
        const slot = this.openPage();
        if (slot >= 0) {
          goesOn = intake.opened(slot, this.pages.count);
          this.#serveWaiters();
          this.checkOpen();
        } else if (count - (this.#list.owned - this.#list.out) >= missing) {
          // A source under pressure may have freed blocks of this very pool before it gave up: then look again.
          return slot as Refusal;
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
    const untouched = [...intake.slots].filter((slot) => this.pages.carvedOf(slot) === 0);
    // What the source throws is not reported: the call has its own result.
    this.#giveBack(untouched);
  }

  refused(refusal: number, count = 1): DmaOutOfMemoryError {
    return refusalError(refusal, count, {
      label: this.#label,
      source: this.#device.memory.name,
      allocation: this.#options.geometry.allocation,
      mask: this.#device.dmaMask,
      maxBlocks: this.#maxBlocks,
      counts: this.counts(),
      idle: refusal === NO_MEMORY ? idlePagesElsewhere(this.#device.memory, this.#options.name, this.#device) : '',
    });
  }

  /** Takes a page from the source; its slot, or a refusal. No code of the user's runs after the page is known to be there. */
  openPage(): number {
    if (this.#outOfSlots()) return AT_LIMIT;
    const { geometry, node } = this.#options;
    const memory = this.callOut(() => allocPage(this.#device, geometry.allocation, node));
    if (memory === null) return NO_MEMORY;
    // The source may have called the pool meanwhile.
    if (this.#state !== 'open' || this.#outOfSlots()) {
      freePage(this.#device, memory, this.#options.geometry.allocation);
      this.checkOpen();
      return AT_LIMIT;
    }
    const slot = this.#addPage(memory);
    if (slot < 0) return slot;
    const first = slot * this.#perPage;
    this.#list.words.fill(EMPTY, first, first + this.#perPage);
    this.#fresh.add(slot, this.#perPage);
    // The memory is the source's object; looking at it may run its code.
    this.callOut(() => this.#hooks?.pageOpened(slot));
    return this.pages.holds(slot, memory) ? slot : NO_MEMORY;
  }

  #outOfSlots(): boolean {
    return (this.pages.nextSlot + 1) * this.#perPage > MAX_BLOCKS;
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
    if (!this.pages.has(index)) return this.gone ? this.#goneError() : this.pages.noSuchBlock(index);
    const block = `block ${index} at ${hex(this.pages.dmaOf(index))}`;
    const quarantined = this.#list.word(index) === QUARANTINED;
    return new DmaBlockError(
      'ERR_DMAPOOL_NOT_ALLOCATED',
      `${this.#label}: ${block} ${quarantined ? 'is in quarantine' : 'is not allocated (freed twice?)'}` +
        (this.#hooks?.history(index) ?? ''),
    );
  }

  #goneError(): DmaDestroyedError {
    return new DmaDestroyedError(`${this.#label} was destroyed and its memory given back; there is nothing to free`);
  }

  /** Throws if the pool is gone, so that what is left of its blocks gets the error that says so. */
  checkNotGone(): void {
    if (this.gone) throw this.#goneError();
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
      this.#wishForMemory();
      return waiting;
    } catch (error) {
      // Rejected as thrown: a signal's reason need not be an Error.
      return Promise.reject(error);
    }
  }

  /** Subscribes to the next "memory available" event of the source. */
  #wishForMemory(): void {
    try {
      // Each round but the last lowers the number of waiters, so the loop ends.
      while (this.#waiters.length > 0 && this.#roomForMore()) {
        const before = this.#waiters.length;
        const granted = this.callOut(() => this.#wish.make());
        if (!granted) return;
        if (this.#waiters.length >= before) {
          throw new DmaSourceError(
            `${this.#label}: memory source ${this.#device.memory.name} says at once that memory came back, and gives none`,
          );
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
    this.#wishForMemory();
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
      this.#wish.forget();
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
    const idle = this.#idleSlots();
    throwFirst(this.#giveBack(idle));
    return idle.length;
  }

  /** Pages that {@link trim} would give back, of the first `most` pages. */
  idlePages(most: number): number {
    return this.#state === 'open' ? this.#idleSlots(most).length : 0;
  }

  #idleSlots(most = Infinity): number[] {
    return this.pages
      .slots()
      .slice(0, most)
      .filter((slot) => this.#isIdle(slot));
  }

  #isIdle(slot: number): boolean {
    const { words } = this.#list;
    const first = slot * this.#perPage;
    for (let index = first; index < first + this.pages.carvedOf(slot); index++) {
      const word = words[index];
      if (word === ALLOCATED || word === QUARANTINED || word === RESERVED) return false;
    }
    return true;
  }

  /** Everything of ours first, the source last. Returns what the source threw, after all pages went. */
  #giveBack(slots: readonly number[]): unknown[] {
    const errors: unknown[] = [];
    if (slots.length === 0) return errors;
    for (const intake of this.#intakes) intake.left(slots);
    const going = new Set(slots);
    this.#list.filter((index) => !going.has(this.pages.slotOf(index)));
    this.#fresh.remove(going, (slot) => this.#perPage - this.pages.carvedOf(slot));
    for (const slot of slots) {
      const carved = this.pages.carvedOf(slot);
      const first = slot * this.#perPage;
      this.#list.words.fill(ABSENT, first, first + this.#perPage);
      for (let index = first; index < first + carved; index++) this.#list.dropObject(index);
      this.#list.setOwned(this.#list.owned - carved);
    }
    for (const memory of this.pages.remove(slots)) {
      try {
        freePage(this.#device, memory, this.#options.geometry.allocation);
      } catch (error) {
        errors.push(error);
      }
    }
    return errors;
  }

  // ---- the end

  /** Refuses new allocations, reports blocks that are out, gives back what can be given back. */
  destroy(): void {
    if (this.#state !== 'open') return;
    this.#state = 'destroyed';
    this.#list.hold();
    this.#waiters.failAll(new DmaDestroyedError(`${this.#label} was destroyed`));
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
    const errors = this.#giveBack(this.#idleSlots());
    const { name, texts } = this.#options;
    if (!this.gone) this.#device.report('error', `${name} busy`, texts.busy(name, this.holders()));
    throwFirst(errors);
  }

  /** The memory is another backend's from now on: this pool ends without giving it back. */
  markGone(): void {
    this.#state = 'gone';
  }

  history(index: number): string {
    return this.#hooks?.history(index) ?? '';
  }

  ownerOf(): string {
    return '';
  }

  /** Who holds blocks, for messages. */
  holders(out: readonly number[] = this.#indicesOut()): string {
    const known = this.#hooks?.holders(out) ?? '';
    const blocks = listBlocks(out, (index) => hex(this.pages.dmaOf(index)));
    const count = `${out.length} ${out.length === 1 ? 'block is' : 'blocks are'} still out`;
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
    this.#options.onGone();
    throwFirst(this.#giveBack(this.pages.slots()));
  }

  /** @throws {@link DmaDestroyedError} once the pool is destroyed. */
  checkOpen(): void {
    if (this.#state !== 'open') {
      throw new DmaDestroyedError(`${this.#label} was destroyed; it has no more blocks to give`);
    }
  }

  // ---- figures, and where things are

  dmaOf(index: number): number {
    const dma = this.pages.dmaOf(index);
    if (dma < 0) throw this.pages.noSuchBlock(index);
    return dma;
  }

  bytesOf(index: number): Uint8Array<ArrayBuffer | SharedArrayBuffer> {
    return this.pages.bytesOf(index);
  }

  fill(index: number, value: number): void {
    this.pages.fill(index, value);
  }

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

/** Pages with blocks that were never on the list, in the order in which they will be. */
export class FreshBlocks {
  #slots: number[] = [];
  /** First of `#slots` that still counts: taking from the front of an array one by one would cost its length each time. */
  #first = 0;
  #count = 0;

  /** Blocks in all. */
  get count(): number {
    return this.#count;
  }

  /** The page to carve from, -1 if there is none. */
  get slot(): number {
    return this.#slots[this.#first] ?? -1;
  }

  /** A page came, with so many blocks. */
  add(slot: number, blocks: number): void {
    this.#slots.push(slot);
    this.#count += blocks;
  }

  /** So many of the first page's blocks are fresh no more, and whether it has no others. */
  carved(blocks: number, exhausted: boolean): void {
    this.#count -= blocks;
    if (exhausted && ++this.#first === this.#slots.length) {
      this.#slots = [];
      this.#first = 0;
    }
  }

  /** Pages go; `freshIn` tells how many fresh blocks each has. */
  remove(going: ReadonlySet<number>, freshIn: (slot: number) => number): void {
    const slots = this.#slots.slice(this.#first);
    for (const slot of slots) if (going.has(slot)) this.#count -= freshIn(slot);
    this.#slots = slots.filter((slot) => !going.has(slot));
    this.#first = 0;
  }
}

/** The pages that one call takes from the memory source while it is in progress. */

/**
 * The source is the user's code and may call the pool: trim it, allocate from it, reserve more. Two invariants hold all
 * the same.
 *
 * - `slots` are exactly those of the pages that this call opened and that the pool still has. A page that leaves the pool
 *   leaves every intake ({@link Intake.left}), so a slot that was given back, and opened anew by another call, is not
 *   taken for one of this call's.
 * - The call ends. Each page that it opens either raises the number of the pool's pages above `most`, the highest number
 *   during the call, or uses up one of `spare`. The first is bounded by the number of indices, the second by its start
 *   value. `spare` starts with as many pages as the call can need at all, which allows for a source that gives back all
 *   idle pages of the process once, this call's included, and then has enough.
 */
export class Intake {
  readonly slots: Set<number> = new Set<number>();
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

  /** The call opened the page in `slot`, and the pool has `pages` now. False if the call must end. */
  opened(slot: number, pages: number): boolean {
    this.slots.add(slot);
    if (pages > this.#most) {
      this.#most = pages;
      return true;
    }
    return this.#spare-- > 0;
  }

  /** Pages left the pool. */
  left(slots: readonly number[]): void {
    for (const slot of slots) this.slots.delete(slot);
  }
}
