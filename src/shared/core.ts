/**
 * One worker's operations on the state of a shared pool. Contains no promises, messages or user code, so that
 * `test/explore` can run all interleavings of this file.
 *
 *     worker 1                 worker 2                      depot (under the lock)
 *     magazine: hot path       magazine: hot path            list of free blocks, fresh blocks, new pages
 *        |  empty: take some  <------------------------------   |
 *        |  full: give some   ------------------------------->  |
 *
 * A worker's magazine is the free list of an unshared pool, in words that only this worker writes. Many blocks move to or
 * from the depot at a time (see magazine.ts), so that one lock operation serves many calls.
 *
 *     list.owned = allocated blocks of this worker + free blocks in its magazine
 *     list.out   = allocated blocks of this worker
 */
import { ALWAYS, EMPTY, type ListControl } from '../pool/free-list.ts';
import type { BlockHooks } from '../pool/hooks.ts';
import { AT_LIMIT, NO_PAGE_ALLOWED, type Refusal } from '../pool/refusal.ts';
import { Depot } from './depot.ts';
import { DmaSharingError } from './errors.ts';
import {
  ATTACHED,
  type Control,
  DESTROYED,
  H_CORRUPTED,
  H_EVENTS,
  H_FAILURES,
  H_HIGH_WATER,
  H_MAX_BLOCKS,
  H_MAX_PAGES,
  H_PAGES,
  H_PER_PAGE,
  H_STATE,
  H_SUPPLY,
  H_WAITS,
  H_IDLE_REQUESTS,
  holderOf,
  markOf,
} from './layout.ts';
import { PoolLock } from './lock.ts';
import { Magazine } from './magazine.ts';
import { Recovery, type WorkerExit } from './recovery.ts';
import { WaitTickets } from './wait-tickets.ts';
import { Transfers } from './transfers.ts';
import { Workers } from './workers.ts';

/** Result in place of an index or a refusal: the pool was destroyed. */
export const POOL_DESTROYED = -10;

/** Parts and limits of one worker's core. */
export interface SharedCoreOptions {
  readonly control: Control;
  readonly list: ListControl;
  /** This worker's number. */
  readonly worker: number;
  /** Initial capacity of its magazine in blocks; at least 2. */
  readonly magazine: number;
  /** Maximum capacity of its magazine; equals `magazine` if it does not grow. */
  readonly mostMagazine: number;
  /** False if the thread must not park; see lock.ts. */
  readonly mayPark: boolean;
  /** Hooks for each block that is allocated or freed, also by recovery; null: none. */
  readonly hooks: BlockHooks | null;
}

export class SharedCore {
  readonly #header: Int32Array<SharedArrayBuffer>;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #list: ListControl;
  readonly #me: number;
  readonly #mark: number;
  readonly #thread: number;
  /** Claim count of this worker's slot when this worker claimed it (W_TERM). */
  readonly #term: number;
  readonly #magazine: Magazine;
  readonly #lock: PoolLock;
  readonly #depot: Depot;
  readonly #workers: Workers;
  readonly #tickets: WaitTickets;
  #requestsSeen = 0;
  #mayPark: boolean;
  readonly #recovery: Recovery;
  readonly transfers: Transfers;
  /** Pages that this worker opened. */
  pagesOpened = 0;

  constructor(options: SharedCoreOptions) {
    const { control, hooks, list, worker, magazine, mostMagazine, mayPark } = options;
    this.#header = control.header;
    this.#words = control.words;
    this.#list = list;
    this.#me = worker;
    this.#mark = markOf(worker);
    this.#magazine = new Magazine(magazine, mostMagazine);
    this.#mayPark = mayPark;
    this.#requestsSeen = control.header[H_IDLE_REQUESTS]!;
    this.#lock = new PoolLock(control.header, worker, mayPark);
    this.#depot = new Depot(control);
    this.#workers = new Workers(control.header);
    this.#thread = this.#workers.threadOf(worker);
    this.#term = this.#workers.termOf(worker);
    this.#tickets = new WaitTickets(control.header);
    this.#recovery = new Recovery(control, this.#workers, this.#depot, this.#tickets, hooks);
    this.transfers = new Transfers(control, list, worker, hooks?.renewsHandles === true);
    list.setMark(this.#mark);
    this.#setLimit();
  }

  /** @param timeout Milliseconds; default: that of {@link PoolLock.acquire}. @throws {@link DmaTimeoutError}, {@link DmaSharingError} */
  #enter(timeout?: number): void {
    if (this.#lock.acquire(timeout)) this.#recovery.rebuildFreeList();
    if (this.isMember()) return;
    this.#lock.release();
    throw new DmaSharingError(
      'ERR_DMAPOOL_DECLARED_ENDED',
      `worker ${String(this.#me)} is alive, but reportWorkerExit() was called for it; attach again`,
    );
  }

  /** False after this live worker was marked dead: another worker may have its slot, magazine and mark. */
  isMember(): boolean {
    return this.#workers.stateOf(this.#me) === ATTACHED && this.#workers.termOf(this.#me) === this.#term;
  }

  /** Empties the magazine without touching its blocks: this live worker was marked dead and recovered. */
  abandon(): void {
    this.#list.hold();
    this.#list.setTop(EMPTY);
    this.#list.addOwned(this.#list.out - this.#list.owned);
  }

  /** Stores this worker's counts for the other workers. Needs no lock: only this worker writes these words. */
  storeCounts(): void {
    const list = this.#list;
    this.#workers.storeCounts(this.#me, list.owned - list.out, list.allocations);
  }

  #leave(): void {
    this.storeCounts();
    const inUse = this.#depot.outside - (this.#list.owned - this.#list.out);
    if (inUse > this.#header[H_HIGH_WATER]!) this.#header[H_HIGH_WATER] = inUse;
    this.#lock.release();
  }

  // ---- allocating

  /**
   * Refills the empty magazine in part and allocates one block. Returns its index or a refusal.
   *
   * After a refusal others may need this worker's blocks too, so its next free takes the slow path and checks that.
   *
   * @param counts Count a refusal as a failure.
   */
  refill(grow: boolean, counts = true): number {
    this.#enter();
    const refusal = this.#fetch(this.#magazine.moved, grow);
    if (refusal < 0 && counts) this.#header[H_FAILURES] = this.#header[H_FAILURES]! + 1;
    this.#leave();
    if (refusal >= 0) return this.#list.pop();
    this.#list.setFewestOut(ALWAYS);
    return refusal;
  }

  /** Fills the magazine to at least `count` blocks. Returns 0 or a refusal; blocks fetched before it stay in the magazine. */
  prepare(count: number, grow: boolean): number {
    this.#enter();
    let refusal = 0;
    while (refusal === 0 && this.#list.owned - this.#list.out < count) {
      refusal = this.#fetch(count - (this.#list.owned - this.#list.out), grow);
    }
    if (refusal < 0) this.#header[H_FAILURES] = this.#header[H_FAILURES]! + 1;
    this.#leave();
    if (refusal < 0) this.#list.setFewestOut(ALWAYS);
    return refusal;
  }

  /** Moves 1 to `wanted` blocks to the magazine: from the depot, else fresh ones, else those of a new page. Under the lock. */
  #fetch(wanted: number, grow: boolean): number {
    if (this.#header[H_STATE] === DESTROYED) return POOL_DESTROYED;
    // Serve queued waiters first.
    if (this.#tickets.first() >= 0) return AT_LIMIT;
    return this.#fetchInTurn(wanted, grow);
  }

  #fetchInTurn(wanted: number, grow: boolean): number {
    let count = Math.min(wanted, this.#depot.count);
    if (count > 0) {
      this.#own(this.#depot.take(this.#me, count, this.#list.top), count);
      return 0;
    }
    if (this.#depot.fresh === 0) {
      const refusal = this.#openPage(grow);
      if (refusal < 0) return refusal;
    }
    count = Math.min(wanted, this.#depot.fresh);
    this.#own(this.#depot.carve(this.#me, count, this.#list.top), count);
    return 0;
  }

  #own(first: number, count: number): void {
    this.#magazine.countFetch(this.#list.out);
    this.#list.setTop(first);
    this.#list.addOwned(count);
    this.#setLimit();
  }

  /** Sends a free to the slow path if it would overflow the magazine, and every free while there are waiters. */
  #setLimit(): void {
    this.#list.setFewestOut(this.#tickets.any ? ALWAYS : this.#list.owned - this.#magazine.blocks);
  }

  /** Flushes the magazine if there are waiters or a request for idle blocks. The event loop calls it periodically. */
  returnIdleBlocks(): void {
    if (this.#isIdleRequested()) {
      this.#magazine.shrink();
      this.flush(this.#list.owned - this.#list.out);
    }
    this.#setLimit();
  }

  #isIdleRequested(): boolean {
    const requests = Atomics.load(this.#header, H_IDLE_REQUESTS);
    const isNew = requests !== this.#requestsSeen;
    this.#requestsSeen = requests;
    return isNew || this.#tickets.any;
  }

  /** Requests the idle blocks of the other magazines, and waits for them briefly if the thread may park. */
  requestIdleBlocks(): void {
    const supply = Atomics.load(this.#header, H_SUPPLY);
    this.#requestsSeen = Atomics.add(this.#header, H_IDLE_REQUESTS, 1) + 1;
    this.#announce(H_EVENTS);
    if (this.#mayPark) Atomics.wait(this.#header, H_SUPPLY, supply, IDLE_WAIT);
  }

  #openPage(grow: boolean): Refusal | 0 {
    const pages = this.#header[H_PAGES]!;
    if (pages >= this.#header[H_MAX_PAGES]!) return AT_LIMIT;
    if (pages * this.#header[H_PER_PAGE]! >= this.#header[H_MAX_BLOCKS]!) return AT_LIMIT;
    if (!grow) return NO_PAGE_ALLOWED;
    this.#header[H_PAGES] = pages + 1;
    this.pagesOpened++;
    return 0;
  }

  // ---- freeing

  /** Frees a block. Then flushes the magazine if its idle blocks are requested, else grows it or flushes a part if it is full. */
  freeSlow(index: number): void {
    this.#list.push(index);
    const idle = this.#list.owned - this.#list.out;
    if (this.#isIdleRequested()) {
      this.#magazine.shrink();
      this.flush(idle);
    } else if (idle > this.#magazine.blocks && !this.#grow()) {
      this.flush(this.#magazine.moved);
    } else {
      this.#setLimit();
    }
  }

  /** Enlarges the full magazine; see magazine.ts. False if it can't grow. */
  #grow(): boolean {
    if (!this.#magazine.mayGrow) return false;
    const share = Math.floor(this.#header[H_MAX_BLOCKS]! / this.#workers.shares());
    return this.#magazine.grow(share, this.#workers.allocationsByOthers(this.#me));
  }

  /** Moves the first `count` blocks of the magazine, or all if it has fewer, to the depot. */
  flush(count: number): void {
    const first = this.#list.top;
    if (count > 0 && first >= 0) {
      let last = first;
      let taken = 1;
      for (; taken < count && this.#words[last] !== EMPTY; taken++) last = this.#words[last]!;
      const rest = this.#words[last]!;
      this.#enter();
      this.#depot.give(first, last, taken);
      this.#list.setTop(rest);
      this.#list.addOwned(-taken);
      this.#magazine.countFlush(this.#list.out);
      this.#leave();
      this.#announce(H_SUPPLY);
    }
    this.#setLimit();
  }

  #announce(event: number): void {
    Atomics.add(this.#header, event, 1);
    Atomics.notify(this.#header, event);
  }

  /** Quarantines a block that was just allocated. */
  quarantine(index: number): void {
    this.#enter();
    this.#depot.quarantine(index);
    this.#header[H_CORRUPTED] = this.#header[H_CORRUPTED]! + 1;
    this.#list.uncount(1);
    this.#list.addOwned(-1);
    this.#leave();
    this.#setLimit();
  }

  /** Allocates a block from quarantine. */
  unquarantine(index: number): void {
    this.#enter();
    this.#depot.release(index, this.#me, this.#mark);
    this.#list.uncount(-1);
    this.#list.addOwned(1);
    this.#leave();
    this.#setLimit();
  }

  // ---- waiting

  /** Joins the queue of waiters. Returns a ticket, QUEUE_FULL or POOL_DESTROYED. */
  joinQueue(): number {
    this.#enter();
    const ticket = this.#header[H_STATE] === DESTROYED ? POOL_DESTROYED : this.#tickets.draw(this.#me);
    if (ticket >= 0) this.#header[H_WAITS] = this.#header[H_WAITS]! + 1;
    this.#leave();
    this.#setLimit();
    // Makes the other workers flush their magazines.
    this.#announce(H_EVENTS);
    return ticket;
  }

  /** Allocates a block for the ticket at the head of the queue. Returns its index or a refusal; AT_LIMIT: not yet. */
  serve(ticket: number): number {
    this.#enter();
    let result: number = AT_LIMIT;
    if (this.#header[H_STATE] === DESTROYED) result = POOL_DESTROYED;
    else if (this.#tickets.first() === ticket) {
      result = this.#list.top >= 0 ? 0 : this.#fetchInTurn(1, true);
      if (result === 0) {
        result = this.#list.pop();
        this.#tickets.drop(ticket);
      }
    }
    this.#leave();
    this.#setLimit();
    // The next waiter may be served now.
    if (result >= 0) this.#announce(H_SUPPLY);
    return result;
  }

  /** Removes a ticket from the queue of waiters. */
  leaveQueue(ticket: number): void {
    this.#enter();
    this.#tickets.drop(ticket);
    this.#leave();
    this.#setLimit();
    this.#announce(H_SUPPLY);
  }

  // ---- transfers

  /** Accepts `tickets[0..count)` and returns -1. If any is not in transit, accepts none and returns the first such. */
  acceptAll(tickets: Float64Array, into: Int32Array, count: number): number {
    this.transfers.readTickets(tickets, count);
    this.#enter();
    const missing = this.transfers.transferInAll(into, count);
    this.#leave();
    return missing;
  }

  /** Recalls blocks in transit that this worker gave: those of `tickets`, by default all. Returns their indices. */
  recall(tickets?: readonly number[]): number[] {
    this.#enter();
    const recalled = this.transfers.recall(tickets ?? this.transfers.inTransit().map(({ ticket }) => ticket));
    this.#leave();
    return recalled;
  }

  // ---- exits of workers, end of the pool

  /**
   * The reason why thread `thread` is alive, for messages; null if it may have exited. It is alive if it is this thread or
   * an ancestor of it, or if its parent watches it and has received no exit event.
   */
  whyAlive(thread: number): string | null {
    if (thread === this.#thread) return 'it is the caller';
    if (this.#workers.isBelow(this.#thread, thread)) return 'it is an ancestor of the caller';
    return this.#workers.isRecorded(thread) ? 'its Worker object is watched and has not exited' : null;
  }

  /** Marks dead the workers of an exited thread and of all threads below it. Needs no lock; throws nothing. */
  markDead(thread: number): void {
    this.#recovery.markDead(thread, this.isMember() ? this.#me : 0);
    this.#announce(H_EVENTS);
  }

  /** True if the worker that marked another one dead exited before it recovered it: now any worker must do so. */
  hasOrphans(): boolean {
    return this.#recovery.hasOrphans();
  }

  /** True if this worker must recover a dead one, which it or an earlier worker of its slot marked. */
  hasWitnessed(): boolean {
    return this.#recovery.hasWitnessed(this.#me);
  }

  /** Recovers the workers that are marked dead; see {@link Recovery.recoverDead}. @throws {@link DmaTimeoutError} */
  recoverDead(timeout?: number): WorkerExit[] {
    this.#enter(timeout);
    const exits: WorkerExit[] = [];
    try {
      this.#recovery.recoverDead(exits);
    } finally {
      this.#leave();
    }
    this.#announce(H_SUPPLY);
    return exits;
  }

  /**
   * Returns the blocks that exited workers had allocated to the depot. Requires that no device writes to them.
   *
   * @returns The number of blocks, and the exits that were not recovered before.
   */
  reclaim(): { readonly count: number; readonly exits: readonly WorkerExit[] } {
    this.#enter();
    const exits: WorkerExit[] = [];
    let count: number;
    try {
      this.#recovery.recoverDead(exits);
      count = this.#recovery.reclaimLost();
    } finally {
      this.#leave();
    }
    this.#announce(H_SUPPLY);
    return { count, exits };
  }

  /** Reclaims this worker's own blocks, after the pool was destroyed and its device was reset. */
  reclaimOwn(): void {
    this.#enter();
    try {
      this.#recovery.reclaim(this.#me);
      this.#list.writeOff();
      this.#list.setTop(EMPTY);
      this.#list.addOwned(-this.#list.owned);
    } finally {
      this.#leave();
    }
  }

  /**
   * Records this worker's thread as the parent of thread `child`. From now on this thread receives exit events, so it
   * does not park. False if the table is full; then call {@link countUnrecordedExit} when the child exits.
   */
  recordChild(child: number): boolean {
    this.#lock.neverPark();
    this.#mayPark = false;
    const recorded = this.#workers.recordPair(child, this.#thread);
    if (!recorded) this.#workers.countUnrecorded(1);
    return recorded;
  }

  /** Uncounts a child that could not be recorded, after its exit. */
  countUnrecordedExit(): void {
    this.#workers.countUnrecorded(-1);
  }

  /** Detaches this worker. Its allocated blocks are kept as those of a dead worker. Returns their indices. */
  detach(): number[] {
    this.#enter();
    const out = this.#recovery.recover(this.#me, false);
    this.#tickets.dropAllOf(this.#me);
    this.storeCounts();
    this.#workers.settleCounts(this.#me, 0);
    this.#list.setTop(EMPTY);
    this.#list.addOwned(this.#list.out - this.#list.owned);
    this.#lock.release();
    // Release the lock first: another worker may take the lock over from a holder that is not attached.
    if (out.length === 0) this.#workers.release(this.#me);
    else this.#workers.markLost(this.#me);
    this.#announce(H_SUPPLY);
    return out;
  }

  /**
   * Marks the pool destroyed: the depot then returns no more blocks. False if it was destroyed before. Needs no lock,
   * because the lock's holder may be dead. A concurrent call that holds the lock may still get blocks.
   */
  destroy(): boolean {
    const open = Atomics.exchange(this.#header, H_STATE, DESTROYED) !== DESTROYED;
    this.#announce(H_EVENTS);
    this.#announce(H_SUPPLY);
    return open;
  }

  /** Makes the creator of a destroyed pool check whether it can release the memory. */
  announceEnd(): void {
    this.#announce(H_EVENTS);
  }

  isDestroyed(): boolean {
    return Atomics.load(this.#header, H_STATE) === DESTROYED;
  }

  // ---- figures

  /** Allocations by this worker so far. */
  get allocations(): number {
    return this.#list.allocations;
  }

  /** Indices of the blocks that any worker has allocated or in transit; exact while all workers are idle. */
  indicesOut(): number[] {
    const out: number[] = [];
    for (let index = 0; index < this.#words.length; index++) if (holderOf(this.#words[index]!) !== 0) out.push(index);
    return out;
  }
}

/** Milliseconds to wait for idle blocks of other workers. */
const IDLE_WAIT = 5;
