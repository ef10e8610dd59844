/**
 * What the workers of a shared pool do to their shared state; no promises, no messages, no objects of the user's. The
 * systematic interleaving tests run this very file.
 *
 *     worker 1                 worker 2                      depot (under the lock)
 *     magazine: hot path       magazine: hot path            list of free blocks, fresh blocks, new pages
 *        |  empty: take half  <------------------------------   |
 *        |  full: give half   ------------------------------->  |
 *
 * Each worker's magazine is the very list of an unshared pool, in words that only this worker writes; half of one goes
 * to or from the depot at a time, so the lock is paid for once in many calls.
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
  H_WANTED,
  holderOf,
  markOf,
} from './layout.ts';
import { PoolLock } from './lock.ts';
import { Recovery, type WorkerExit } from './recovery.ts';
import { WaitTickets } from './wait-tickets.ts';
import { Transfers } from './transfers.ts';
import { Workers } from './workers.ts';

/** The pool was destroyed: in place of an index or a refusal. */
export const POOL_DESTROYED = -10;

/** What one worker's side of a pool is made of. */
export interface SharedCoreOptions {
  readonly control: Control;
  readonly list: ListControl;
  /** This worker's number. */
  readonly worker: number;
  /** Most blocks in its magazine; at least 2. */
  readonly magazine: number;
  /** To how many it may grow while nobody else wants them; `magazine` if it is not to grow. */
  readonly mostMagazine: number;
  readonly mayPark: boolean;
  /** What is done to blocks that become free without a call of their holder; null: nothing. */
  readonly hooks: BlockHooks | null;
}

export class SharedCore {
  readonly #header: Int32Array<SharedArrayBuffer>;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #list: ListControl;
  readonly #me: number;
  readonly #mark: number;
  readonly #thread: number;
  /** Which claim of its slot is this worker's. */
  readonly #term: number;
  /** Most blocks in the magazine now. */
  #magazine: number;
  readonly #leastMagazine: number;
  #fetched = false;
  readonly #mostMagazine: number;
  readonly #lock: PoolLock;
  readonly #depot: Depot;
  readonly #workers: Workers;
  readonly #tickets: WaitTickets;
  #wantedSeen = 0;
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
    this.#magazine = magazine;
    this.#leastMagazine = magazine;
    this.#mostMagazine = mostMagazine;
    this.#mayPark = mayPark;
    this.#wantedSeen = control.header[H_WANTED]!;
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

  /** @param patience Milliseconds; default: the lock's own. @throws {@link DmaTimeoutError}, {@link DmaSharingError} */
  #enter(patience?: number): void {
    if (this.#lock.acquire(patience)) this.#recovery.rebuildFreeList();
    if (this.isMember()) return;
    this.#lock.release();
    throw new DmaSharingError(
      'ERR_DMAPOOL_DECLARED_ENDED',
      `worker ${String(this.#me)} was declared ended by reportWorkerExit(), but lives; attach again`,
    );
  }

  /** False once somebody declared this worker ended: its slot, magazine and mark may be another worker's by now. */
  isMember(): boolean {
    return this.#workers.stateOf(this.#me) === ATTACHED && this.#workers.termOf(this.#me) === this.#term;
  }

  /** This worker was declared ended: what it thought to have in its magazine is not its own. */
  abandon(): void {
    this.#list.hold();
    this.#list.setTop(EMPTY);
    this.#list.addOwned(this.#list.out - this.#list.owned);
  }

  /** Tells the others what this worker counted. Its own words of its own slot: no lock is needed. */
  storeCounts(): void {
    const list = this.#list;
    this.#workers.storeCounts(this.#me, list.owned - list.out, list.allocations);
  }

  #leave(): void {
    this.storeCounts();
    const inHands = this.#depot.away - (this.#list.owned - this.#list.out);
    if (inHands > this.#header[H_HIGH_WATER]!) this.#header[H_HIGH_WATER] = inHands;
    this.#lock.release();
  }

  // ---- taking

  /**
   * The magazine is empty: takes half of one from the depot. Returns one of its blocks, or why not.
   *
   * @param counts Whether it counts as a failure if there is none.
   */
  refill(grow: boolean, counts = true): number {
    this.#enter();
    const refusal = this.#fetch(Math.min(this.#magazine >> 1, MOST_MOVED), grow);
    if (refusal < 0 && counts) this.#header[H_FAILURES] = this.#header[H_FAILURES]! + 1;
    this.#leave();
    return refusal < 0 ? refusal : this.#list.pop();
  }

  /** Makes sure that `count` blocks are in the magazine, or says why not; then it has what it had. */
  prepare(count: number, grow: boolean): number {
    this.#enter();
    let refusal = 0;
    while (refusal === 0 && this.#list.owned - this.#list.out < count) {
      refusal = this.#fetch(count - (this.#list.owned - this.#list.out), grow);
    }
    if (refusal < 0) this.#header[H_FAILURES] = this.#header[H_FAILURES]! + 1;
    this.#leave();
    return refusal;
  }

  /** Up to `wanted` blocks from the depot, or fresh ones, or a new page's, onto the magazine. Under the lock. */
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
    this.#fetched = true;
    this.#list.setTop(first);
    this.#list.addOwned(count);
    this.#setLimit();
  }

  /** A free that would make the magazine overflow takes the slow path; so does each one while somebody waits. */
  #setLimit(): void {
    this.#list.setFewestOut(this.#tickets.any ? ALWAYS : this.#list.owned - this.#magazine);
  }

  /** Looks whether somebody waits or asked; what idles here is for them. Called now and then on the event loop. */
  returnIdleBlocks(): void {
    if (this.#isWanted()) {
      this.#magazine = this.#leastMagazine;
      this.flush(this.#list.owned - this.#list.out);
    }
    this.#setLimit();
  }

  #isWanted(): boolean {
    const wanted = Atomics.load(this.#header, H_WANTED);
    const asked = wanted !== this.#wantedSeen;
    this.#wantedSeen = wanted;
    return asked || this.#tickets.any;
  }

  /** Asks the others for what idles in their magazines, and gives them a moment. */
  requestIdleBlocks(): void {
    const supply = Atomics.load(this.#header, H_SUPPLY);
    this.#wantedSeen = Atomics.add(this.#header, H_WANTED, 1) + 1;
    this.#announce(H_EVENTS);
    if (this.#mayPark) Atomics.wait(this.#header, H_SUPPLY, supply, A_MOMENT);
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

  // ---- giving

  /** The magazine is full, or somebody waits: takes a block back, and gives half a magazine or all of it away. */
  freeSlow(index: number): void {
    this.#list.push(index);
    const idle = this.#list.owned - this.#list.out;
    if (this.#isWanted()) {
      this.#magazine = this.#leastMagazine;
      this.flush(idle);
    } else if (this.#grow()) {
      this.#setLimit();
    } else {
      this.flush(idle > this.#magazine ? Math.min(this.#magazine >> 1, MOST_MOVED) : 0);
    }
  }

  /** Blocks that stay are faster than blocks that travel, as long as each worker can have its share of them. */
  #grow(): boolean {
    // Who only frees must not hoard: it grows only where blocks were fetched since it last did.
    if (this.#magazine >= this.#mostMagazine || !this.#fetched) return false;
    const share = Math.floor(this.#header[H_MAX_BLOCKS]! / Math.max(1, this.#workers.takers()));
    const larger = Math.min(this.#magazine * 2, this.#mostMagazine, share);
    if (larger <= this.#magazine) return false;
    this.#magazine = larger;
    this.#fetched = false;
    return true;
  }

  /** Gives the first `count` blocks of the magazine, or as many as it has, to the depot. */
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
      this.#leave();
      this.#announce(H_SUPPLY);
    }
    this.#setLimit();
  }

  #announce(event: number): void {
    Atomics.add(this.#header, event, 1);
    Atomics.notify(this.#header, event);
  }

  /** A block that was just taken is never to be handed out again. */
  quarantine(index: number): void {
    this.#enter();
    this.#depot.quarantine(index);
    this.#header[H_CORRUPTED] = this.#header[H_CORRUPTED]! + 1;
    this.#list.uncount(1);
    this.#list.addOwned(-1);
    this.#leave();
    this.#setLimit();
  }

  /** Hands a block out that is in quarantine. */
  unquarantine(index: number): void {
    this.#enter();
    this.#depot.release(index, this.#me, this.#mark);
    this.#list.uncount(-1);
    this.#list.addOwned(1);
    this.#leave();
    this.#setLimit();
  }

  // ---- waiting

  /** Joins the queue; QUEUE_FULL or POOL_DESTROYED if that can't be. */
  joinQueue(): number {
    this.#enter();
    const ticket = this.#header[H_STATE] === DESTROYED ? POOL_DESTROYED : this.#tickets.draw(this.#me);
    if (ticket >= 0) this.#header[H_WAITS] = this.#header[H_WAITS]! + 1;
    this.#leave();
    this.#setLimit();
    // Others are to give away what idles in their magazines.
    this.#announce(H_EVENTS);
    return ticket;
  }

  /** A block, if it is this ticket's turn and there is one; else a refusal, AT_LIMIT for "not yet". */
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
    // The next one in the queue may be served now.
    if (result >= 0) this.#announce(H_SUPPLY);
    return result;
  }

  /** Leaves the queue. */
  leaveQueue(ticket: number): void {
    this.#enter();
    this.#tickets.drop(ticket);
    this.#leave();
    this.#setLimit();
    this.#announce(H_SUPPLY);
  }

  // ---- from worker to worker

  /** Accepts all of `tickets[0..count)` and returns -1, or none and the first ticket that is not in transit. */
  acceptAll(tickets: Float64Array, into: Int32Array, count: number): number {
    this.transfers.readTickets(tickets, count);
    this.#enter();
    const missing = this.transfers.transferInAll(into, count);
    this.#leave();
    return missing;
  }

  /** Takes back blocks in transit that this worker gave: those of `tickets`, by default all. Returns their indices. */
  recall(tickets?: readonly number[]): number[] {
    this.#enter();
    const recalled = this.transfers.recall(tickets ?? this.transfers.inTransit().map(({ ticket }) => ticket));
    this.#leave();
    return recalled;
  }

  // ---- the end of workers and of the pool

  /**
   * Why thread `thread` can't have ended, in words; null if it may have. It lives if this very thread is it or below it,
   * or if the thread that made it watches it and has seen no end.
   */
  whyAlive(thread: number): string | null {
    if (thread === this.#thread) return 'it is the caller’s own';
    if (this.#workers.isBelow(this.#thread, thread)) return 'the caller’s own thread is below it';
    return this.#workers.isRecorded(thread) ? 'its Worker object is watched and has not exited' : null;
  }

  /** Marks dead the workers of a thread that ended, and those below it. Needs no lock, and throws nothing. */
  markDead(thread: number): void {
    this.#recovery.markDead(thread, this.isMember() ? this.#me : 0);
    this.#announce(H_EVENTS);
  }

  /** True if a worker died whose witness is gone too, so that another one has to recover it. */
  hasOrphans(): boolean {
    return this.#recovery.hasOrphans();
  }

  /** True if this worker is to recover a dead one: what it marked, or its predecessor in the slot. */
  hasWitnessed(): boolean {
    return this.#recovery.hasWitnessed(this.#me);
  }

  /** What lay in the magazines of workers that are marked dead returns to the depot. @throws {@link DmaTimeoutError} */
  recoverDead(patience?: number): WorkerExit[] {
    this.#enter(patience);
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
   * After a reset of the device: what dead workers had allocated comes back.
   *
   * @returns How many blocks, and the exits that were not recovered before.
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

  /** What this worker has out is lost, and the pool at its end: nothing writes there any more. */
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
   * Records that this worker's thread made thread `child`. From now on this thread is told of ends, on its event loop,
   * so it must not park. False if there is no room; then {@link disown} has to follow when the child ends.
   */
  adopt(child: number): boolean {
    this.#lock.stayAwake();
    this.#mayPark = false;
    const recorded = this.#workers.remember(child, this.#thread);
    if (!recorded) this.#workers.countMissed(1);
    return recorded;
  }

  /** A child that could not be recorded ended. */
  disown(): void {
    this.#workers.countMissed(-1);
  }

  /** This worker leaves in good order; its blocks that are out are as those of a dead one. Returns their indices. */
  detach(): number[] {
    this.#enter();
    const out = this.#recovery.recover(this.#me, false);
    this.#tickets.dropAllOf(this.#me);
    this.storeCounts();
    this.#workers.settle(this.#me, 0);
    this.#list.setTop(EMPTY);
    this.#list.addOwned(this.#list.out - this.#list.owned);
    this.#lock.release();
    // Only now: the lock must not be held by somebody who is not attached.
    if (out.length === 0) this.#workers.release(this.#me);
    else this.#workers.lose(this.#me);
    this.#announce(H_SUPPLY);
    return out;
  }

  /**
   * The depot gives no more blocks. False if that was so before. Without the lock, whose holder may be dead: a call that
   * holds it just now may still see the pool open, as if it had come before.
   */
  destroy(): boolean {
    const open = Atomics.exchange(this.#header, H_STATE, DESTROYED) !== DESTROYED;
    this.#announce(H_EVENTS);
    this.#announce(H_SUPPLY);
    return open;
  }

  /** Has the creator of a destroyed pool look whether it is still in use. */
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

  /** Indices of the blocks that are out or on their way, of all workers; exact when nobody works. */
  indicesOut(): number[] {
    const out: number[] = [];
    for (let index = 0; index < this.#words.length; index++) if (holderOf(this.#words[index]!) !== 0) out.push(index);
    return out;
  }
}

/** Milliseconds that others get to give what idles with them. */
const A_MOMENT = 5;
/** Most blocks that change hands under one hold of the lock. */
const MOST_MOVED = 256;
